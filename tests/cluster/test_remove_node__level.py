"""A dead node that not all members have followed equally far: ``level`` brings their rows level first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from support.calls import call, leftovers, load_zodan
from support.clusters import MakeCluster
from support.tables import CHAIN, KEYED, KEYLESS, TABLES, assert_rows_equal, create_tables, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 120.0


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    load_zodan(cluster["n1"])
    return cluster


@contextmanager
def behind(cluster: Cluster, *names: str, target: str = "n3") -> Iterator[None]:
    """What the target commits meanwhile does not come to the members ``names``; at the end it dies."""
    wait_level(cluster.members)
    for name in names:
        cluster[name].execute("SELECT spock.sub_disable(%(sub)s, true)", {"sub": f"sub_{target}_{name}"})
        wait_until(lambda name=name: _working(cluster[name], target), _BUDGET_S, f"{name} to stop")
    yield
    kill(cluster, target)


def _working(node: Node, provider: str) -> str:
    """Name the slot that is still read from."""
    return "".join(
        str(row[0])
        for row in node.execute(
            "SELECT o.external_id FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin"
            " JOIN pg_stat_activity a ON concat_ws(' ', a.backend_type, a.application_name)"
            " ~ ('apply .*:' || s.sub_id || '( |$)')"
            " JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name"
            " WHERE n.node_name = %(provider)s",
            {"provider": provider},
        )
    )


def kill(cluster: Cluster, target: str = "n3") -> None:
    """Wait until those who still follow the target have all that it committed, and stop it for good."""
    node = cluster[target]
    mark = node.execute("SELECT spock.sync_event(true)")[0][0]
    survivors = [member for member in cluster.members if member is not node]
    wait_until(lambda: _waiting(survivors, target, mark), _BUDGET_S, "somebody to have all of the target")
    node.stop("immediate")
    cluster.members.remove(node)


def _waiting(nodes: list[Node], provider: str, mark: str) -> str:
    found = [
        row[0]
        for node in nodes
        for row in node.execute(
            "SELECT o.remote_lsn >= %(mark)s::pg_lsn FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin"
            " JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name"
            " WHERE n.node_name = %(provider)s AND s.sub_enabled",
            {"mark": mark, "provider": provider},
        )
    ]
    return "" if found and all(found) else f"{found} at {mark}"


def remove(cluster: Cluster, at: str = "n1", target: str = "n3", **options: Any) -> list[str]:
    given = {"level": True} | options
    return call(
        cluster[at],
        "spock.remove_node",
        target_node_name=target,
        target_node_dsn="host=127.0.0.1 port=1 dbname=app connect_timeout=1",
        force=True,
        **given,
    )


def same(cluster: Cluster, *tables: str) -> None:
    """Check that the survivors have the same rows, that nothing of the target is left, and that they go on."""
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, tables or TABLES)
    assert leftovers(cluster.members, "n3") == []
    for node in cluster.members:
        assert node.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'zodan%'") == []


def test_ten_thousand_rows_behind_under_writers(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'x' FROM generate_series(1, 2000) i")
    n1.execute(f"INSERT INTO {KEYED} SELECT i, 'n1', 0, 'x' FROM generate_series(10001, 12000) i")
    n2.execute(f"INSERT INTO {KEYED} SELECT i, 'n2', 0, 'x' FROM generate_series(20001, 22000) i")
    wait_level(cluster.members)
    with Writers([n1, n2]) as writers:
        with behind(cluster, "n2"):
            with n3.connect() as connection:
                for i in range(2000):
                    connection.execute(f"INSERT INTO {KEYED} VALUES (%s, 'n3', 0, repeat('y', 100))", [100_000 + i])
            n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'z' FROM generate_series(200001, 205000) i")
            n3.execute(f"INSERT INTO {KEYLESS} SELECT 'n3', i / 2, 'z' FROM generate_series(1, 3000) i")
            n3.execute(f"UPDATE {KEYED} SET value = 7 WHERE id BETWEEN 1001 AND 1500 OR id BETWEEN 11001 AND 11500")
            n3.execute(f"UPDATE {KEYED} SET value = 8 WHERE id BETWEEN 21001 AND 21500")
            n3.execute(f"DELETE FROM {KEYED} WHERE id BETWEEN 1501 AND 2000 OR id BETWEEN 11501 AND 12000")
            n3.execute(f"DELETE FROM {KEYED} WHERE id BETWEEN 21501 AND 22000")
        # Of what n2 lacks, some is changed on n1 meanwhile.
        n1.execute(f"UPDATE {KEYED} SET value = value + 1 WHERE id BETWEEN 100000 AND 100010")
        remove(cluster)
    assert writers.failures == []
    same(cluster)
