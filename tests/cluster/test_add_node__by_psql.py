"""A copy whose rows come through the psql that the new node's server runs."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import add_node, call, exceptions, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.programs import left_by_programs, running_psqls
from support.secrets import PASSWORD
from support.tables import assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 60.0
#: More than a session asks for at once, and slow to read on the source.
_SLOW = """
CREATE TABLE parts (id bigint PRIMARY KEY, v text NOT NULL, d int);
INSERT INTO parts SELECT i, repeat('x', 400), i FROM generate_series(1, 15000) AS i
"""
_PUBLISH = """
SELECT spock.repset_remove_table(set_name, 'parts') FROM spock.tables WHERE relname = 'parts' AND set_name IS NOT NULL;
SELECT spock.repset_add_table('default', 'parts', false, NULL, {filter})
"""


def _make(make_cluster: MakeCluster, is_slow: bool = True) -> Cluster:
    cluster = make_cluster(members=1, blanks=1)
    # No function of one's own: Spock 6 makes a publication of it.
    row_filter = "'id % 60 > 0 OR length(repeat(v, 20000)) > 0'" if is_slow else "NULL"
    with cluster["n1"].connect() as connection:
        for statement in (_SLOW + ";" + _PUBLISH.format(filter=row_filter)).split(";\n"):
            connection.execute(statement.encode())
    load_zodan(cluster["n2"])
    return cluster


def _check(cluster: Cluster) -> None:
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["parts"])
    assert not exceptions(cluster.members)
    with cluster["n2"].connect() as connection:
        assert left_by_programs(connection) == []
    assert running_psqls(cluster["n2"]) == []


def _copies(source: Node, new: Node) -> str:
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%TO STDOUT (FORMAT%' AND application_name LIKE 'zodan_copy%'"
    )
    return "" if source.execute(query) and running_psqls(new) else "it does not copy yet"


def _arguments(cluster: Cluster, **more: Any) -> dict[str, Any]:
    n1, n2 = cluster["n1"], cluster["n2"]
    names = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n2", "new_node_dsn": n2.dsn()}
    return names | {"jobs": 2, "copy": "psql"} | more


def test_each_part_comes_through_a_program(make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # What the servers find in their environment is not for the source.
    monkeypatch.setenv("PGPASSWORD", "of another server")
    cluster = _make(make_cluster, is_slow=False)
    n1, n2 = cluster.nodes
    n1.execute("INSERT INTO parts SELECT i, repeat('x', 400), i FROM generate_series(15001, 60000) AS i")
    n1.execute("ALTER SYSTEM SET log_connections = on")
    n1.execute("SELECT pg_reload_conf()")

    def join(**more: Any) -> int:
        begun = len(n1.log_text())
        add_node(cluster, "n1", "n2", jobs=1, copy="psql", **more)
        _check(cluster)
        return len(re.findall(r"application_name=zodan_copy_\S+ 1$", n1.log_text()[begun:], re.MULTILINE))

    # A pace is kept by whoever asks for one piece after the other.
    assert join(max_rate=50_000_000) == 1
    parts = n2.execute("SELECT count(*) FROM zodan.unit WHERE title LIKE 'public.parts, part%'")[0][0]
    assert parts > 1
    remove_node(cluster, "n2")
    n2.execute("DROP TABLE parts; TRUNCATE zodan.operation CASCADE")
    assert join() == 1 + parts


@pytest.mark.parametrize(
    "fault",
    [
        "program",
        "new node",
        pytest.param("source session", marks=pytest.mark.slow),
        pytest.param("caller", marks=pytest.mark.slow),
    ],
)
def test_what_breaks_is_copied_again(make_cluster: MakeCluster, fault: str) -> None:
    cluster = _make(make_cluster)
    n1, n2 = cluster.nodes
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(call, n2, "spock.add_node", **_arguments(cluster))
        wait_until(lambda: _copies(n1, n2), _BUDGET_S, "psql to copy")
        programs = [Path(f"/proc/{pid}") for pid in running_psqls(n2)]
        shown = "".join((program / "cmdline").read_text() for program in programs)
        assert "parts" in shown
        assert PASSWORD[:6] not in shown
        if fault == "program":
            os.kill(running_psqls(n2)[0], signal.SIGKILL)
        elif fault == "source session":
            n1.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%TO STDOUT (FORMAT%'"
                " AND application_name LIKE 'zodan_copy%'"
            )
        elif fault == "new node":
            n2.stop("immediate")
            wait_until(lambda: " ".join(str(p) for p in programs if p.exists()), _BUDGET_S, "psql to end")
        else:
            n2.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL spock.add_node%'")
        if fault in ("new node", "caller"):
            with pytest.raises(psycopg.Error):
                joining.result()
        else:
            assert any("trying again" in line for line in joining.result())
    if fault == "new node":
        n2.start()
        with n2.connect() as connection:
            # No password is left by a crash.
            assert left_by_programs(connection) == []
    if fault in ("new node", "caller"):
        call(n2, "spock.add_node", **_arguments(cluster))
    cluster.blanks.remove(n2)
    cluster.members.append(n2)
    _check(cluster)


def test_a_rollback_ends_the_programs(make_cluster: MakeCluster) -> None:
    cluster = _make(make_cluster)
    n2 = cluster["n2"]
    before = state(cluster.nodes)
    with ThreadPoolExecutor(1) as pool:
        joining = pool.submit(call, n2, "spock.add_node", **_arguments(cluster))
        wait_until(lambda: _copies(cluster["n1"], n2), _BUDGET_S, "psql to copy")
        n2.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL spock.add_node%'")
        with pytest.raises(psycopg.Error):
            joining.result()
    call(n2, "zodan.rollback", p_operation=1, p_dsns=Jsonb({"n1": cluster["n1"].dsn()}))
    wait_until(lambda: "psql runs" if running_psqls(n2) else "", _BUDGET_S, "psql to end")
    with n2.connect() as connection:
        assert left_by_programs(connection) == []
    assert state(cluster.nodes) == before


def test_a_row_that_does_not_fit_is_told_as_it_is(make_cluster: MakeCluster) -> None:
    cluster = _make(make_cluster, is_slow=False)
    n1, n2 = cluster.nodes
    _forbid(n1)
    with pytest.raises(psycopg.Error) as raised:
        call(n2, "spock.add_node", **_arguments(cluster))
    assert raised.value.sqlstate == "ZD200"
    assert "violates check constraint" in str(raised.value.diag.message_detail)


def _forbid(node: Node) -> None:
    """Add a constraint that no new row meets and no old one was compared with, by a function that tells them apart."""
    node.execute(
        "CREATE FUNCTION is_old(d int) RETURNS boolean LANGUAGE sql AS"
        " $$ SELECT current_setting('session_replication_role') <> 'replica' OR d <> 9000 $$"
    )
    node.execute("ALTER TABLE parts ADD CHECK (is_old(d))")


def test_a_secret_that_programs_would_show_is_refused(make_cluster: MakeCluster) -> None:
    cluster = _make(make_cluster, is_slow=False)
    before = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as raised:
        call(
            cluster["n2"], "spock.add_node", **_arguments(cluster, src_dsn=cluster["n1"].dsn() + " sslpassword=hidden")
        )
    assert raised.value.sqlstate == "ZD100"
    assert 'copy by psql on "n2"' in str(raised.value.diag.message_detail)
    assert "hidden" not in str(raised.value)
    assert state(cluster.nodes) == before
