"""Some members are compared: changes that come from the others are no difference while they are on their way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.calls import load_zodan, state
from support.clusters import MakeCluster
from support.planting import plant
from support.shell import run
from support.tables import add_to_sets, wait_level
from zodan_sql.sandbox import Cluster, wait_until

_BUDGET_S = 60.0


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes with two tables, and Zodan on the first."""
    made = make_module_cluster(members=3, blanks=0)
    for node in made.members:
        for table in ("sub", "other"):
            node.execute(f"CREATE TABLE {table} (k int PRIMARY KEY, v text)")
        add_to_sets(node, {"sub": "default", "other": "default"})
    for table in ("sub", "other"):
        made["n1"].execute(f"INSERT INTO {table} VALUES (1, 'v'), (2, 'v')")
    wait_level(made.members)
    load_zodan(made["n1"])
    return made


def verify(cluster: Cluster, *tables: str) -> list[tuple[Any, ...]]:
    """Compare tables on n1 and n2, and return table, key, result and why of each row."""
    with cluster["n1"].connect() as connection:
        connection.execute("SET zodan.sync_timeout = '3s'")
        return connection.execute(
            "SELECT table_name, row_key ->> 'k', result, why FROM zodan.verify(%s, tables => %s, nodes => '{n2,n1}')",
            [cluster["n3"].dsn(), list(tables)],
        ).fetchall()


def wait_row(cluster: Cluster, node: str, key: int) -> None:
    """Wait until a row has come."""

    def problem() -> str:
        return "" if cluster[node].execute("SELECT k FROM sub WHERE k = %s", [key]) else f"node {node} does not have it"

    wait_until(problem, _BUDGET_S, f"row {key}")


def test_a_change_that_another_member_made_is_on_its_way(cluster: Cluster) -> None:
    before = state(cluster.members)
    with psycopg.connect(cluster["n2"].dsn()) as holder:
        holder.execute("LOCK TABLE other IN SHARE MODE")
        cluster["n3"].execute("UPDATE other SET v = 'w' WHERE k = 1")
        cluster["n3"].execute("INSERT INTO sub VALUES (3, 'v')")
        wait_row(cluster, "n1", 3)
        found = verify(cluster, "sub")
        assert [row[:3] for row in found] == [("public.sub", None, "undecided"), ("public.sub", "3", "undecided")]
        assert found[1][3] == "the marks have made no progress for 00:00:03"
    wait_row(cluster, "n2", 3)
    assert verify(cluster, "sub", "other") == [(f"public.{table}", None, "equal", None) for table in ("other", "sub")]
    assert state(cluster.members) == before


@pytest.fixture
def held(cluster: Cluster) -> Iterator[None]:
    """Disable what n2 takes from n3."""
    cluster["n2"].execute("SELECT spock.sub_disable('sub_n3_n2', true)")
    yield
    cluster["n2"].execute("SELECT spock.sub_enable('sub_n3_n2', true)")


@pytest.mark.usefixtures("held")
def test_a_stream_from_another_member_is_disabled(cluster: Cluster, tmp_path: Path) -> None:
    cluster["n3"].execute("INSERT INTO sub VALUES (4, 'v')")
    wait_row(cluster, "n1", 4)
    why = "the subscription of node n2 from node n3 is disabled"
    assert verify(cluster, "sub", "other") == [
        ("public.other", None, "equal", None),
        ("public.sub", None, "undecided", None),
        ("public.sub", "4", "undecided", why),
    ]
    given = ("--dsn", cluster["n2"].dsn(), "--nodes", "n1,n2", "--resume", str(tmp_path / "file"))
    for kept in ("all 2 tables are compared", "the results of 1 of 2 tables are from"):
        ended = run("verify", *given)
        assert ended.code == 2, ended.out + ended.err
        assert why in ended.out
        assert kept in ended.out


def test_when_it_has_come_a_planted_difference_is_proven(cluster: Cluster) -> None:
    wait_row(cluster, "n2", 4)
    plant(cluster["n2"], "UPDATE sub SET v = 'planted' WHERE k = 2")
    found = verify(cluster, "sub", "other")
    assert [row[:3] for row in found if row[2] != "equal"] == [
        ("public.sub", None, "different"),
        ("public.sub", "2", "different"),
    ]


def test_a_member_that_is_down_may_have_sent_what_is_different(cluster: Cluster) -> None:
    """The last test of this cluster: it stops a node."""
    cluster["n3"].stop()
    with cluster["n1"].connect() as connection:
        connection.execute("SET zodan.sync_timeout = '3s'")
        found = connection.execute(
            "SELECT table_name, row_key ->> 'k', result, why FROM zodan.verify(%s, nodes => '{n2,n1}')",
            [cluster["n2"].dsn()],
        ).fetchall()
    assert found == [
        ("public.other", None, "equal", None),
        ("public.sub", None, "undecided", None),
        ("public.sub", "2", "undecided", "no mark could be set on node n3: it could not be reached"),
    ]
