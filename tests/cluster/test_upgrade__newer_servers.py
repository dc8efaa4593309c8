"""Members are replaced by servers of ZODAN_PG_BIN_NEW, if that is set, while everybody writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.calls import exceptions, leftovers, remove_node
from support.clusters import MakeCluster
from support.shell import add_by_client
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Engine, Node, detect_engine


@pytest.fixture
def newer(engine: Engine) -> Engine:
    """Return the server of the nodes that join; without the setting it is that of the members."""
    pg_bin = os.environ.get("ZODAN_PG_BIN_NEW")
    return detect_engine(Path(pg_bin)) if pg_bin else engine


def _join(cluster: Cluster, new: Node) -> None:
    ended = add_by_client(cluster["n1"], new)
    assert ended.code == 0, ended.err
    cluster.members.append(new)


@pytest.mark.slow
def test_members_are_replaced_under_writers(make_cluster: MakeCluster, newer: Engine) -> None:
    cluster = make_cluster(members=2, blanks=0)
    others = make_cluster(members=0, blanks=["n3", "n4"], engine=newer)
    n1, n2 = cluster.members
    create_tables(cluster)
    fill(n1, 2000)
    wait_level(cluster.members)
    with Writers([n1, n2]) as before:
        for node in others.blanks:
            _join(cluster, node)
        with Writers([*others.blanks], series=1) as between:
            wait_level(cluster.members)
    assert before.failures == between.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    with Writers([*others.blanks], series=2) as after:
        for name in ("n1", "n2"):
            remove_node(cluster, name, at="n4")
    assert after.failures == []
    wait_level(others.blanks)
    assert_rows_equal(others.blanks, TABLES)
    for node in (n1, n2):
        assert leftovers(others.blanks, node.name) == []
    assert exceptions(others.blanks) == []
