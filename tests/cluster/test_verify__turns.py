"""Nodes that share a machine are read one after the other: the others' processors stay free for who writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import combinations

import pytest

from support.calls import load_zodan
from support.clusters import MakeCluster
from support.tables import add_to_sets, wait_level
from zodan_sql.sandbox import Cluster, Node

_ROWS = 150_000
_REST_S = 0.002
#: When a session that reads began and ended what it hashed last. All servers are on one machine, and have one clock.
_HASHED = """
SELECT query_start, state_change FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'idle' AND pid <> pg_backend_pid()
   AND query LIKE '%%hashtextextended(pg_catalog.concat(%%'
"""
Span = tuple[datetime, datetime]


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes on this machine with a table that has a key and one that has none, both equal everywhere."""
    cluster = make_module_cluster(members=3)
    for node in cluster.members:
        node.execute("CREATE TABLE keyed (k int PRIMARY KEY, v text)")
        node.execute("CREATE TABLE keyless (k int, v text)")
        add_to_sets(node, {"keyed": "default", "keyless": "default_insert_only"})
    for table in ("keyed", "keyless"):
        cluster["n1"].execute(
            f"INSERT INTO {table} SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, {_ROWS}) AS i"
        )
    wait_level(cluster.members)
    load_zodan(cluster["n1"])
    return cluster


@contextmanager
def watched(nodes: Sequence[Node]) -> Iterator[dict[str, set[Span]]]:
    """Watch the sessions that read, and return when they did on each node."""
    spans: dict[str, set[Span]] = {node.name: set() for node in nodes}
    ended = threading.Event()

    def watch(node: Node) -> None:
        with node.connect() as connection:
            while not ended.wait(_REST_S):
                spans[node.name].update(connection.execute(_HASHED).fetchall())

    threads = [threading.Thread(target=watch, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    try:
        yield spans
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("table", ["keyed", "keyless"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_no_two_nodes_are_read_at_once(cluster: Cluster, table: str, jobs: int) -> None:
    with watched(cluster.members) as spans:
        found = cluster["n1"].execute(
            "SELECT table_name, compared, result FROM zodan.verify(%(dsn)s, tables => %(tables)s, jobs => %(jobs)s)",
            {"dsn": cluster["n2"].dsn(), "tables": [f"public.{table}"], "jobs": jobs},
        )
    assert found == [(f"public.{table}", _ROWS, "equal")]
    assert all(len(seen) > 1 for seen in spans.values()), spans
    for one, other in combinations(spans, 2):
        for began, ended in spans[one]:
            beside = [span for span in spans[other] if span[0] < ended and span[1] > began]
            assert not beside, f"{one} was read from {began} to {ended}, and {other} meanwhile: {beside}"
