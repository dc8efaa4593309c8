"""A physical copy of a member becomes a node while everybody writes."""

from __future__ import annotations

from support.calls import exceptions, leftovers, remove_node
from support.clones import clone, make_place, record_of, take_in
from support.clusters import MakeCluster
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers


def test_a_copy_joins_under_writers_and_leaves(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2 = cluster.members
    create_tables(cluster)
    fill(n1, 2000)
    wait_level(cluster.members)
    place = make_place(cluster)
    with Writers([n1, n2]) as before:
        ended = clone(n1, place)
        assert ended.code == 0, ended.err + ended.out
        # It keeps what the copy lacks: nobody is to drop it.
        assert "inactive slots" not in ended.err
        with Writers([n1, n2, place], series=1) as after:
            pass
    assert before.failures == after.failures == []
    take_in(cluster, place)
    nodes = cluster.members
    wait_level(nodes)
    assert_rows_equal(nodes, TABLES)
    assert exceptions(nodes) == []
    assert not record_of(place).exists()
    remove_node(cluster, place.name, at="n1")
    assert leftovers(cluster.members, place.name) == []
