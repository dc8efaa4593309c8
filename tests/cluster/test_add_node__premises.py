"""What the proof of a join stands on: refused before anything is changed, and harmless neighbours that are not."""

from __future__ import annotations

import pytest

from support.calls import add_node, remove_node
from support.clusters import MakeCluster
from support.joins import make_filled, refused
from support.objects import at, everywhere
from support.tables import TABLES, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster

_ADD = "SELECT spock.repset_add_table('default', '{}')"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members and a blank; whatever a test makes on them it takes away again."""
    return make_filled(make_module_cluster, 100)


def test_a_partition_without_its_root(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE m26 PARTITION OF m FOR VALUES FROM (0) TO (1000)",
        "SELECT spock.repset_add_table('default', 'm26', include_partitions := false)",
    )
    refused(cluster, "partition-roots", "public.m26")
    everywhere(cluster, "SELECT spock.repset_remove_table('default', 'm26')", "DROP TABLE m")


@pytest.mark.parametrize(("node", "other"), [("n1", "n3"), ("n3", "n2")])
def test_a_slot_with_the_name_of_a_stream_to_come(cluster: Cluster, node: str, other: str) -> None:
    (name,) = cluster[node].execute(
        "SELECT spock.spock_gen_slot_name('app', %(node)s, %(sub)s)", {"node": node, "sub": f"sub_{node}_{other}"}
    )[0]
    at(cluster[node], f"SELECT pg_create_logical_replication_slot('{name}', 'spock_output')")
    refused(cluster, "free-slots", str(name))
    at(cluster[node], f"SELECT pg_drop_replication_slot('{name}')")


def test_filters_that_differ(cluster: Cluster) -> None:
    everywhere(cluster, "CREATE TABLE f (id int PRIMARY KEY, region int)")
    for number, node in enumerate(cluster.members, 1):
        at(node, f"SELECT spock.repset_add_table('default', 'f', row_filter := 'region = {number}')")
    refused(cluster, "set-tables", "public.f")
    everywhere(cluster, "SELECT spock.repset_remove_table('default', 'f')", "DROP TABLE f")


def test_a_table_that_one_member_publishes(cluster: Cluster) -> None:
    at(cluster["n2"], "CREATE TABLE only2 (id int PRIMARY KEY)", _ADD.format("only2"))
    refused(cluster, "set-tables", "public.only2")
    at(cluster["n2"], "SELECT spock.repset_remove_table('default', 'only2')", "DROP TABLE only2")


@pytest.mark.parametrize(
    "made",
    [
        "ALTER TABLE k REPLICA IDENTITY FULL",
        "ALTER TABLE k REPLICA IDENTITY NOTHING",
        "ALTER TABLE k DROP CONSTRAINT k_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "ALTER TABLE k DROP CONSTRAINT k_pkey",
    ],
)
def test_a_key_that_cannot_be_used_any_longer(cluster: Cluster, made: str) -> None:
    everywhere(cluster, "CREATE TABLE k (id int PRIMARY KEY)", _ADD.format("k"), made)
    refused(cluster, "keys", "public.k")
    everywhere(cluster, "SELECT spock.repset_remove_table('default', 'k')", "DROP TABLE k")


def test_a_column_list_without_what_needs_a_value(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE c (id int PRIMARY KEY, needed int NOT NULL, free int NOT NULL DEFAULT 1, other int)",
        "SELECT spock.repset_add_table('default', 'c', columns := '{id}')",
    )
    refused(cluster, "needed-columns", "public.c (needed)")
    everywhere(cluster, "SELECT spock.repset_remove_table('default', 'c')", "DROP TABLE c")


def test_two_subscriptions_from_one_provider(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    everywhere(cluster, "SELECT spock.repset_create('extra')")
    n1.execute("SELECT spock.sub_create('second', %(dsn)s, '{extra}', false, false)", {"dsn": n2.dsn()})
    cluster.wait_replicating()
    refused(cluster, "single-subscriptions", "1 too many")
    at(n1, "SELECT spock.sub_drop('second')")
    everywhere(cluster, "SELECT spock.repset_drop('extra')")


def test_the_copy_of_another_node(cluster: Cluster) -> None:
    at(cluster["n2"], "SELECT pg_create_logical_replication_slot('spk_app_n2_zodan_co0e97236a', 'spock_output')")
    refused(cluster, "other-joins", "spk_app_n2_zodan_co0e97236a")
    at(cluster["n2"], "SELECT pg_drop_replication_slot('spk_app_n2_zodan_co0e97236a')")


def test_neighbours_that_do_no_harm(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.nodes
    everywhere(
        cluster,
        # A set for an outside consumer alone, which members do not take from each other, and differs.
        "SELECT spock.repset_create('feed')",
        "CREATE TABLE ex (id int PRIMARY KEY)",
        "SELECT spock.repset_add_table('feed', 'ex', false)",
        "SELECT pg_create_logical_replication_slot('spk_app_out_sub_out', 'spock_output')",
        # A key of another kind, a partition with its root, a filter and a column list that all have.
        "CREATE TABLE u (id int NOT NULL, other int NOT NULL UNIQUE)",
        "ALTER TABLE u REPLICA IDENTITY USING INDEX u_other_key",
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000)",
        "CREATE TABLE r (id int PRIMARY KEY, region int NOT NULL DEFAULT 1, left_out int)",
        _ADD.format("u"),
        _ADD.format("p"),
        "SELECT spock.repset_add_table('default', 'r', columns := '{region,id}', row_filter := 'region = 1')",
    )
    at(n2, "CREATE TABLE apart (id int PRIMARY KEY)", "SELECT spock.repset_add_table('feed', 'apart', false)")
    at(n1, "INSERT INTO u VALUES (1, 2)", "INSERT INTO p VALUES (7)", "INSERT INTO r VALUES (1, 1), (2, 2)")
    wait_level(cluster.members)
    add_node(cluster, "n1", "n3")
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert n3.execute("SELECT (SELECT id FROM u), (SELECT id FROM p), (SELECT string_agg(id::text, ',') FROM r)") == [
        (1, 7, "1")
    ]
    taken = "SELECT 1 FROM spock.subscription WHERE 'feed' = ANY (sub_replication_sets)"
    assert [node.execute(taken) for node in cluster.members] == [[], [], []]
    assert n3.execute("SELECT 1 FROM spock.replication_set WHERE set_name = 'feed'") == []
    at(n3, "INSERT INTO p VALUES (8)")
    wait_level(cluster.members)
    assert n2.execute("SELECT count(*) FROM p") == [(2,)]
    assert n1.execute("SELECT count(*) FROM spock.tables WHERE set_name = 'feed'") == [(1,)]
    remove_node(cluster, "n3")
