"""A join that compares all rows at its end: it says which rows differ, and goes on where it was interrupted."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest

from support.calls import call, load_zodan
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.objects import at
from support.planting import plant
from support.secrets import find
from support.tables import KEYED, TABLES, add_to_sets, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, wait_until

_BUDGET_S = 60.0
_ROWS = 4000
_FOUND = (
    "SELECT table_name, row_key, result, different, undecided, nodes, why FROM zodan.compared"
    " ORDER BY table_name, number"
)
_STEP = "SELECT ordinal, state, error, result FROM zodan.step WHERE phase_name = 'verify'"


def prepared(make_cluster: MakeCluster) -> tuple[Cluster, dict[str, Any], int]:
    """Return two members with rows and a blank, the arguments of a join that compares, and the step that does."""
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    for node in cluster.members:
        node.execute("CREATE TABLE small (k int PRIMARY KEY, v text)")
        add_to_sets(node, {"small": "default"})
    fill(cluster["n1"], _ROWS)
    cluster["n1"].execute("INSERT INTO small SELECT i, 'v' FROM generate_series(1, 50) AS i")
    wait_level(cluster.members)
    n1, n3 = cluster["n1"], cluster["n3"]
    load_zodan(n3)
    arguments = {
        "src_node_name": "n1",
        "src_dsn": n1.dsn(),
        "new_node_name": "n3",
        "new_node_dsn": n3.dsn(),
        "jobs": 1,
        "verify": True,
    }
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    steps = n3.execute(f"SELECT ordinal, kind FROM zodan.plan_add_node({names}) WHERE phase_name = 'verify'", arguments)
    ((ordinal, kind),) = steps
    assert kind == "verify"
    return cluster, arguments, ordinal


def joined(cluster: Cluster) -> None:
    """Note that n3 is a member now, and check that all rows are equal."""
    node = cluster["n3"]
    if node in cluster.blanks:
        cluster.blanks.remove(node)
        cluster.members.append(node)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, "small"])


def resume(cluster: Cluster) -> None:
    """Finish the operation of n3."""
    call(cluster["n3"], "zodan.resume", p_operation=1, p_dsns=_dsns(cluster))


def _dsns(cluster: Cluster) -> Any:
    return psycopg.types.json.Jsonb({node.name: node.dsn() for node in cluster.nodes})


def test_a_join_under_writers_compares_all_rows(make_cluster: MakeCluster) -> None:
    cluster, arguments, _ = prepared(make_cluster)
    n3 = cluster["n3"]
    with Writers(cluster.members) as writers:
        call(n3, "spock.add_node", **arguments)
    assert writers.failures == []
    joined(cluster)
    ((_, state, error, result),) = n3.execute(_STEP)
    assert (state, error) == ("done", None)
    assert (result["tables"], result["different"], result["undecided"]) == (4, 0, 0)
    assert result["rows"] >= _ROWS + 50
    found = n3.execute(_FOUND)
    assert {(name, result) for name, _, result, *_ in found} == {
        (f"public.{name}", "equal") for name in (*TABLES, "small")
    }


def test_planted_differences_fail_the_join_and_are_named(make_cluster: MakeCluster) -> None:
    cluster, arguments, step = prepared(make_cluster)
    n3 = cluster["n3"]
    HeldCall(n3, f"before {step}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    plant(n3, f"UPDATE {KEYED} SET filler = '' WHERE id = -7", f"DELETE FROM {KEYED} WHERE id = -8")
    with pytest.raises(psycopg.Error) as raised:
        resume(cluster)
    assert raised.value.sqlstate == "ZD404"
    assert f"public.{KEYED} (2 rows)" in str(raised.value.diag.message_detail)
    assert "resume" in str(raised.value.diag.message_hint)
    assert list(find(str(raised.value.diag.message_detail))) == []
    of = {
        (name, str(key)): (result, different, nodes) for name, key, result, different, _, nodes, _ in n3.execute(_FOUND)
    }
    assert of[f"public.{KEYED}", "None"][:2] == ("different", 2)
    changed = of[f"public.{KEYED}", "{'id': '-7'}"][2]
    assert {node: has["row"]["filler"][:3] for node, has in changed.items()} == {"n1": "xxx", "n2": "xxx", "n3": ""}
    assert of[f"public.{KEYED}", "{'id': '-8'}"][2]["n3"] is None
    assert of["public.small", "None"][0] == "equal"
    ((_, state, error, _),) = n3.execute(_STEP)
    assert state == "failed"
    assert "rows are different on the nodes" in error
    # Repaired, and called again: only the table that was different is compared again.
    before = n3.execute("SELECT compared_at FROM zodan.compared WHERE table_name = 'public.small'")
    plant(n3, f"UPDATE {KEYED} SET filler = repeat('x', 200) WHERE id = -7")
    plant(n3, f"INSERT INTO {KEYED} SELECT -8, 'n1', 0, repeat('x', 200)")
    resume(cluster)
    joined(cluster)
    assert n3.execute("SELECT compared_at FROM zodan.compared WHERE table_name = 'public.small'") == before
    assert {row[2] for row in n3.execute(_FOUND)} == {"equal"}


def test_what_cannot_be_decided_fails_the_join_in_other_words(make_cluster: MakeCluster) -> None:
    cluster, arguments, step = prepared(make_cluster)
    n2, n3 = cluster["n2"], cluster["n3"]
    HeldCall(n3, f"before {step}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    with psycopg.connect(n2.dsn()) as holder, n3.connect() as connection:
        holder.execute("LOCK TABLE small IN ACCESS EXCLUSIVE MODE")
        connection.execute("SET zodan.look_timeout = '1s'")
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("CALL zodan.resume(1, %s)", [_dsns(cluster)])
    assert raised.value.sqlstate == "ZD405"
    assert "public.small (node n2: no answer within 00:00:01, waiting for process" in str(
        raised.value.diag.message_detail
    )
    resume(cluster)
    joined(cluster)


def test_a_killed_comparison_goes_on_with_the_tables_that_are_left(make_cluster: MakeCluster) -> None:
    cluster, arguments, step = prepared(make_cluster)
    n2, n3 = cluster["n2"], cluster["n3"]
    HeldCall(n3, f"before {step}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    times = "SELECT table_name, compared_at FROM zodan.compared WHERE number = 0 ORDER BY 1"
    with psycopg.connect(n2.dsn()) as holder, n3.connect() as connection:
        holder.execute("LOCK TABLE small IN ACCESS EXCLUSIVE MODE")

        def run() -> None:
            with pytest.raises(psycopg.Error):
                connection.execute("CALL zodan.resume(1, %s)", [_dsns(cluster)])

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(
            lambda: "" if f"public.{KEYED}" in dict(n3.execute(times)) else str(n3.execute(times)),
            _BUDGET_S,
            "the first table",
        )
        before = dict(n3.execute(times))
        assert "public.small" not in before
        n3.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": connection.info.backend_pid})
        thread.join(_BUDGET_S)
    wait_unlocked(cluster.nodes)
    # With another column, what was equal is no longer all that is to be compared.
    for node in cluster.nodes:
        at(node, f"ALTER TABLE {KEYED} ADD more int")
    stale = before.pop(f"public.{KEYED}")
    resume(cluster)
    joined(cluster)
    after = dict(n3.execute(times))
    assert set(after) == {f"public.{name}" for name in (*TABLES, "small")}
    assert {name: when for name, when in after.items() if name in before} == before
    assert after[f"public.{KEYED}"] > stale
