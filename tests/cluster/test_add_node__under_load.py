"""Nodes join while members write, and every row is equal on every node afterwards."""

from __future__ import annotations

import pytest

from support.calls import add_node, exceptions, leftovers, remove_node
from support.clusters import MakeCluster
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import OFTEN_S, Writers


@pytest.mark.parametrize(
    ("members", "joining", "rows"),
    [(1, 1, 20_000), (2, 2, 200_000), pytest.param(3, 2, 20_000, marks=pytest.mark.slow)],
    ids=["second", "third-and-fourth-with-a-long-copy", "fourth-and-fifth"],
)
def test_no_row_is_lost_doubled_or_different(make_cluster: MakeCluster, members: int, joining: int, rows: int) -> None:
    cluster = make_cluster(members=members, blanks=joining)
    create_tables(cluster)
    fill(cluster["n1"], rows)
    wait_level(cluster.members)
    with Writers(cluster.members[:2], pause_s=OFTEN_S) as writers:
        for blank in list(cluster.blanks):
            add_node(cluster, "n1", blank.name)
    assert writers.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert exceptions(cluster.members) == []


def test_the_new_node_is_written_to_and_leaves_again(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2 = cluster.members
    with Writers([n1, n2]) as writers:
        add_node(cluster, "n1", "n3")
        with Writers([cluster["n3"], n1], series=1) as newcomer:
            wait_level(cluster.members)
        assert newcomer.failures == []
    assert writers.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    with Writers([n1, n2], series=2) as writers:
        remove_node(cluster, "n3")
    assert writers.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert leftovers(cluster.nodes, "n3") == []
    assert exceptions(cluster.nodes) == []
