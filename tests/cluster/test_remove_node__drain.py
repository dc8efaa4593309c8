"""A node leaves: everything committed on it is everywhere, its writers go on, and nothing of it is left."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg
import pytest

from support.calls import add_node, call, exceptions, leftovers, load_zodan, remove_node
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.objects import at
from support.sets import read_sets
from support.tables import CHAIN, KEYED, KEYLESS, TABLES, assert_rows_equal, checksum, create_tables, wait_level
from support.writers import OFTEN_S, Writers
from zodan_sql.sandbox import Cluster, Node

_ROWS = 300_000
_CUSTOM = "custom"


def test_rows_committed_just_before_reach_every_survivor(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    for node in cluster.members:
        node.execute("SELECT spock.repset_create(%(set)s, replicate_update := false)", {"set": _CUSTOM})
        node.execute("CREATE TABLE extra (id int PRIMARY KEY)")
        node.execute("SELECT spock.repset_add_table(%(set)s, 'extra')", {"set": _CUSTOM})
    n1, n2, n3 = cluster.nodes
    wait_level(cluster.members)
    with Writers([n3, n1], pause_s=OFTEN_S) as writers:
        n3.execute(
            f"INSERT INTO {KEYED} SELECT -i, 'bulk', 0, 'x' FROM generate_series(1, %(rows)s) i", {"rows": _ROWS}
        )
        remove_node(cluster, "n3", at="n1")
        # The writers on the node that has left are written to no one's harm, and are not stopped.
        written = writers.writes
        written_on = n3.execute(f"SELECT count(*) FROM {KEYLESS} WHERE node = 'n3'")[0][0]
    assert writers.failures == []
    assert writers.writes > written
    wait_level(cluster.members)
    for survivor in (n1, n2):
        assert survivor.execute(f"SELECT count(*) FROM {KEYED} WHERE node = 'bulk'") == [(_ROWS,)]
    assert_rows_equal(cluster.members, TABLES)
    # Every survivor ends at the same row of the leaver's, and it is one of those written while it left.
    reached = n1.execute(f"SELECT count(*), max(number) FROM {KEYLESS} WHERE node = 'n3'")[0]
    assert reached[0] == reached[1] <= written_on
    assert leftovers(cluster.nodes, "n3") == []
    assert nothing_of_spock(n3) == []
    assert exceptions(cluster.members) == []
    # The database that left keeps its rows; the survivors go on.
    assert checksum(n3, KEYED)[0] >= _ROWS
    n1.execute("INSERT INTO extra VALUES (1)")
    n2.execute(f"INSERT INTO {CHAIN} VALUES (-1, 'n2')")
    wait_level(cluster.members)
    assert n1.execute(f"SELECT id FROM {CHAIN} WHERE id = -1") == [(-1,)]
    assert n3.execute("SELECT * FROM extra") == []

    # Down to one node, which stays a node with its sets and takes writes.
    sets = read_sets(n1)
    remove_node(cluster, "n2")
    assert leftovers(cluster.nodes, "n2") == []
    assert nothing_of_spock(n2) == []
    assert n1.execute("SELECT node_name::text FROM spock.node") == [("n1",)]
    assert n1.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert read_sets(n1) == sets
    n1.execute("INSERT INTO extra VALUES (2)")


@pytest.mark.slow
def test_leaving_and_joining_again_under_the_same_name(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    seen = []
    with Writers([n1, n2]) as writers:
        for round_number in range(3):
            add_node(cluster, "n1", "n3")
            n3.execute(f"INSERT INTO {CHAIN} VALUES (%(id)s, 'n3')", {"id": -1 - round_number})
            # The last time the source forgets it from afar.
            remove_node(cluster, "n3", at="n1" if round_number == 2 else None)
            assert leftovers(cluster.nodes, "n3") == []
            assert nothing_of_spock(n3) == []
            seen.append([counts(node) for node in (n1, n2)])
            clear(n3)
    assert writers.failures == []
    # Nothing of Spock's grows from round to round.
    assert seen[0] == seen[1] == seen[2]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert n2.execute(f"SELECT id FROM {CHAIN} WHERE id < 0 ORDER BY 1") == [(-3,), (-2,), (-1,)]


def test_a_second_subscription_is_drained_too(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    for node in cluster.members:
        at(node, "CREATE TABLE extra (id int PRIMARY KEY)")
        node.execute("SELECT spock.repset_create(%(set)s)", {"set": _CUSTOM})
        node.execute("SELECT spock.repset_add_table(%(set)s, 'extra')", {"set": _CUSTOM})
    subscribe = (
        "SELECT spock.sub_create('second', %(dsn)s, ARRAY[%(set)s], false, false, '{}', apply_delay => interval '3 s')"
    )
    n1.execute(subscribe, {"dsn": n2.dsn(), "set": _CUSTOM})
    cluster.wait_replicating()
    wait_level(cluster.members)
    n2.execute("INSERT INTO extra SELECT generate_series(1, 1000)")
    remove_node(cluster, "n2")
    assert n1.execute("SELECT count(*) FROM extra") == [(1000,)]
    assert leftovers(cluster.nodes, "n2") == []


def nothing_of_spock(node: Node) -> list[tuple[Any, ...]]:
    """List what a database that is no node any more should not have."""
    return node.execute(
        "SELECT 'node ' || node_name FROM spock.node"
        " UNION ALL SELECT 'subscription ' || sub_name FROM spock.subscription"
        " UNION ALL SELECT 'set ' || set_name FROM spock.replication_set"
        " UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots"
        " UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin"
    )


def counts(node: Node) -> tuple[Any, ...]:
    """Count what an operation could leave behind on a member."""
    (row,) = node.execute(
        "SELECT (SELECT count(*) FROM spock.node), (SELECT count(*) FROM spock.node_interface),"
        " (SELECT count(*) FROM spock.subscription), (SELECT count(*) FROM spock.local_sync_status),"
        " (SELECT count(*) FROM spock.replication_set), (SELECT count(*) FROM pg_replication_slots),"
        " (SELECT count(*) FROM pg_replication_origin),"
        " (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'zodan %%')"
    )
    return row


def test_the_health_check_names_a_removal_that_was_interrupted(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    n1, n2, _ = cluster.nodes
    create_tables(cluster)
    load_zodan(n2)
    given = {"target_node_name": "n1", "target_node_dsn": n1.dsn()}
    plan = (
        "SELECT ordinal FROM zodan.plan_remove_node(%(target_node_name)s, %(target_node_dsn)s)"
        " WHERE phase_name = 'settled'"
    )
    HeldCall(n2, f"before {n2.execute(plan, given)[0][0]}", "spock.remove_node", given).kill()
    wait_unlocked(cluster.nodes)
    for source in (n1, n2):
        hints = n2.execute(
            "SELECT hint FROM zodan.checks('post', %(name)s, %(dsn)s) WHERE key = 'set-tables' AND NOT passed",
            {"name": source.name, "dsn": source.dsn()},
        )
        assert hints
        assert all('"n1" publishes no table' in hint and "spock.remove_node" in hint for (hint,) in hints), hints


def clear(node: Node) -> None:
    """Empty a database that left, so that it can join again."""
    with closing(node.connect()) as connection:
        for table in TABLES:
            connection.execute(f"DROP TABLE public.{table}".encode())


def half_removed(make: MakeCluster, members: int, target: str, phase: str) -> Cluster:
    """Make members that are level, and a blank; a removal of one of them, called on n1, dies before a phase."""
    cluster = make(members=members, blanks=1)
    create_tables(cluster)
    wait_level(cluster.members)
    n1, leaving = cluster["n1"], cluster[target]
    load_zodan(n1)
    given = {"target_node_name": target, "target_node_dsn": leaving.dsn()}
    names = ", ".join(f"{name} => %({name})s" for name in given)
    first = f"SELECT min(ordinal) FROM zodan.plan_remove_node({names}) WHERE phase_name = %(phase)s"
    (ordinal,) = n1.execute(first, {**given, "phase": phase})[0]
    HeldCall(n1, f"before {ordinal}", "spock.remove_node", given).kill()
    wait_unlocked([n1, leaving])
    return cluster


def remove_right_after(cluster: Cluster, name: str, rows: int) -> None:
    """Write rows on a node and remove it at once, called on n1: all others have them, and nothing of it is left."""
    cluster[name].execute(
        f"INSERT INTO {KEYLESS} SELECT %(name)s, i, repeat('x', 200) FROM generate_series(1, %(rows)s) i",
        {"name": name, "rows": rows},
    )
    remove_node(cluster, name, at="n1")
    counts = {node.name: node.execute(f"SELECT count(*) FROM {KEYLESS}") for node in cluster.members}
    assert set(map(str, counts.values())) == {str([(rows,)])}, counts
    assert leftovers(cluster.nodes, name) == []


def test_a_removal_that_another_call_ended_does_not_stand_for_the_next(make_cluster: MakeCluster) -> None:
    cluster = half_removed(make_cluster, 3, "n3", "leave")
    n1, _, n3 = cluster.members
    remove_node(cluster, "n3", at="n2")
    n3.execute(f"DROP TABLE {', '.join(TABLES)}")
    add_node(cluster, "n1", "n3")
    add_node(cluster, "n1", "n4")
    # What has to be drained now was not there when the journal of n1 noted that all was drained.
    remove_right_after(cluster, "n3", 100_000)
    assert n1.execute("SELECT state FROM zodan.operation ORDER BY operation_id") == [("given up",), ("done",)]


def test_a_removal_that_had_not_begun_reaches_a_node_that_joined_since(make_cluster: MakeCluster) -> None:
    cluster = half_removed(make_cluster, 2, "n2", "unpublish")
    add_node(cluster, "n1", "n3")
    with pytest.raises(psycopg.Error) as refused:
        call(cluster["n1"], "zodan.resume", p_operation=1)
    assert refused.value.sqlstate == "ZD006"
    remove_right_after(cluster, "n2", 50_000)


def test_a_node_that_publishes_again_is_drained_again(make_cluster: MakeCluster) -> None:
    cluster = half_removed(make_cluster, 3, "n3", "leave")
    cluster["n3"].execute("SELECT spock.repset_add_table('default_insert_only', %(table)s)", {"table": KEYLESS})
    remove_right_after(cluster, "n3", 100_000)
