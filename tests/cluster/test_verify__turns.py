"""Nodes that share a machine are read one after the other: the others' processors stay free for who writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.calls import load_zodan
from support.clusters import MakeCluster
from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_TABLES = ("keyed", "keyless")
_ROWS = 30_000
_BUDGET_S = 60.0
#: A row filter at which the sessions that hash rows wait, where somebody holds the lock.
_GATE = """
CREATE FUNCTION gate(k int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_query() LIKE '%hashtextextended(pg_catalog.concat(%' THEN
        PERFORM pg_catalog.pg_advisory_xact_lock_shared(13);
    END IF;
    RETURN true;
END
$$
"""
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 13 AND NOT granted"
#: Sessions that hash rows, or that did last.
_HASHING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE %(hash)s AND pid <> pg_backend_pid()
"""
_HASH = "%hashtextextended(pg_catalog.concat(%"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes on this machine with a table that has a key and one that has none, both equal everywhere."""
    cluster = make_module_cluster(members=3)
    for node in cluster.members:
        node.execute(_GATE)
        node.execute("CREATE TABLE keyed (k int PRIMARY KEY, v text)")
        node.execute("CREATE TABLE keyless (k int, v text)")
        for table, to in (("keyed", "default"), ("keyless", "default_insert_only")):
            node.execute(f"SELECT spock.repset_add_table('{to}', '{table}', row_filter := 'public.gate(k)')")
    for table in _TABLES:
        cluster["n1"].execute(f"INSERT INTO {table} SELECT i, md5(i::text) FROM generate_series(1, {_ROWS}) AS i")
    wait_level(cluster.members)
    load_zodan(cluster["n1"])
    return cluster


@pytest.mark.parametrize("table", _TABLES)
@pytest.mark.parametrize("jobs", [1, 3])
def test_the_next_node_is_read_when_the_first_has_been(cluster: Cluster, table: str, jobs: int) -> None:
    first, *others = cluster.members
    with ThreadPoolExecutor(1) as pool, first.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(13)")
        comparison = pool.submit(_verify, first, table, jobs)
        try:
            wait_until(lambda: "" if _count(first, _WAITING) else "none does", _BUDGET_S, "a reader to wait")
            assert [_count(node, _HASHING) for node in others] == [0, 0]
        finally:
            holder.execute("SELECT pg_advisory_unlock(13)")
        assert comparison.result() == [(f"public.{table}", _ROWS, "equal")]


def _verify(node: Node, table: str, jobs: int) -> list[Any]:
    return node.execute(
        "SELECT table_name, compared, result FROM zodan.verify(%(dsn)s, tables => %(tables)s, jobs => %(jobs)s)",
        {"dsn": node.dsn(), "tables": [f"public.{table}"], "jobs": jobs},
    )


def _count(node: Node, query: str) -> int:
    ((count,),) = node.execute(query, {"hash": _HASH})
    return int(count)
