"""A join, looked at from all sides: the dry run before it, sets and sequences after it, and no secret anywhere."""

from __future__ import annotations

import itertools
import threading
from contextlib import closing
from typing import Any

import psycopg

from support.calls import add_node, call, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.secrets import find
from support.sets import read_sets
from support.tables import wait_level
from zodan_sql.building.render import read_default
from zodan_sql.sandbox import Cluster, Node

_DDL = """
CREATE TABLE region (id int PRIMARY KEY, area text, secret text);
CREATE TABLE audit (id int, what text);
CREATE TABLE keep (id int PRIMARY KEY);
CREATE TABLE private (id int PRIMARY KEY);
CREATE TABLE serial_key (id serial PRIMARY KEY, node text);
CREATE TABLE identity_key (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, node text);
CREATE SEQUENCE in_a_set;
CREATE SEQUENCE untouched;
"""
_SETS = """
SELECT spock.repset_create('regional');
SELECT spock.repset_create('keeping', replicate_delete := false, replicate_truncate := false);
SELECT spock.repset_add_table('regional', 'region', columns := '{id,area}', row_filter := $$area <> 'local'$$);
SELECT spock.repset_add_table('default_insert_only', 'audit');
SELECT spock.repset_add_table('keeping', 'keep');
SELECT spock.repset_add_table('default', 'serial_key');
SELECT spock.repset_add_table('default', 'identity_key');
SELECT spock.repset_add_seq('regional', 'in_a_set');
"""
_SET_NAMES = ["default", "default_insert_only", "ddl_sql", "regional", "keeping"]
Rows = list[tuple[Any, ...]]


class SerialWriter:
    """Inserts on a node with the keys that its sequences give, until it is stopped."""

    def __init__(self, node: Node) -> None:
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._node = node
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> SerialWriter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        with self._node.connect() as connection:
            for number in itertools.count():
                if self._stop.wait(0.005):
                    return
                table = "serial_key" if number % 2 else "identity_key"
                try:
                    connection.execute(f"INSERT INTO {table} (node) VALUES (%s)".encode(), [self._node.name])
                except psycopg.Error as error:
                    self.failures.append(str(error))


def test_a_join_from_all_sides(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    make_tables(cluster)
    load_zodan(n3)
    wait_level(cluster.members)
    arguments = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n3", "new_node_dsn": n3.dsn()}
    check_dry_run(cluster, n3, "add_node", arguments)

    with SerialWriter(n1) as writer:
        said = add_node(cluster, "n1", "n3", verb=True)
        # The writer still counts on n1, and n2 is far ahead of it: the newcomer starts above both.
        for table in ("serial_key", "identity_key"):
            for _ in range(3):
                n3.execute(f"INSERT INTO {table} (node) VALUES ('n3')")
    assert writer.failures == []
    wait_level(cluster.members)
    for table in ("serial_key", "identity_key"):
        rows = n1.execute(f"SELECT id, node FROM {table} ORDER BY 1")
        assert rows == n2.execute(f"SELECT id, node FROM {table} ORDER BY 1")
        assert rows == n3.execute(f"SELECT id, node FROM {table} ORDER BY 1")
        assert len([row for row in rows if row[1] == "n3"]) == 3
        assert min(row[0] for row in rows if row[1] == "n3") > 5000
    (warning,) = [line for line in said if line.startswith("sequences on ")]
    for sequence in ("serial_key_id_seq", "identity_key_id_seq", "in_a_set", "untouched"):
        assert f"public.{sequence}" in warning

    assert read_sets(n3) == read_sets(n1)
    check_subscriptions_ask_for_all_sets(cluster)
    check_sets_work_from(n3, cluster)

    arguments = {"target_node_name": "n3", "target_node_dsn": n3.dsn()}
    check_dry_run(cluster, n3, "remove_node", arguments)
    said += remove_node(cluster, "n3", verbose_mode=True)
    check_no_secret(cluster, said)


def make_tables(cluster: Cluster) -> None:
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute(_DDL)
            connection.execute(_SETS)
    n1, n2 = cluster.members
    for subscriber, provider in ((n1, "n2"), (n2, "n1")):
        for name in ("regional", "keeping"):
            subscriber.execute(
                "SELECT spock.sub_add_repset(%(subscription)s, %(set)s)",
                {"subscription": f"sub_{provider}_{subscriber.name}", "set": name},
            )
    cluster.wait_replicating()
    n1.execute("INSERT INTO region VALUES (1, 'north', 'x'), (2, 'local', 'x')")
    n1.execute("INSERT INTO keep VALUES (1), (2)")
    n1.execute("INSERT INTO private VALUES (1)")
    # n2 is ahead of n1 by far, and nothing but its sequences tells so.
    for table in ("serial_key", "identity_key"):
        n2.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 5000)")


def check_dry_run(cluster: Cluster, at: Node, procedure: str, arguments: dict[str, str]) -> None:
    """A dry run and the plan function tell the same, change nothing, and need no lock."""
    before = state(cluster.nodes)
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    with closing(cluster["n2"].connect()) as other:
        # The cluster's lock, as another operation holds it.
        other.execute("SELECT pg_advisory_lock(%s)", [read_default("lock_key", int)])
        printed = call(at, f"spock.{procedure}", dry_run=True, **arguments)
        plan = at.execute(f"SELECT * FROM zodan.plan_{procedure}({names})", arguments)
        titles = at.execute(
            f"SELECT format('%%s.%%s %%s: %%s', phase, ordinal, node, title) FROM zodan.plan_{procedure}({names})",
            arguments,
        )
    # Warnings of the preconditions come first; the plan's lines begin with their numbers.
    assert [line for line in printed if line[:1].isdigit()] == [row[0] for row in titles]
    assert len(titles) > 10
    assert list(find(str(plan))) == []
    assert state(cluster.nodes) == before


def check_subscriptions_ask_for_all_sets(cluster: Cluster) -> None:
    for node in cluster.members:
        for name, sets in node.execute("SELECT sub_name::text, sub_replication_sets FROM spock.subscription"):
            assert sorted(sets) == sorted(_SET_NAMES), f"{name} on {node.name}"


def check_sets_work_from(node: Node, cluster: Cluster) -> None:
    """What is written on the new node reaches the others as its sets say."""
    assert node.execute("SELECT * FROM region ORDER BY 1") == [(1, "north", None)]
    with closing(node.connect()) as connection:
        connection.execute("INSERT INTO region VALUES (11, 'south', 'x'), (12, 'local', 'x')")
        connection.execute("INSERT INTO audit VALUES (1, 'first')")
        connection.execute("UPDATE audit SET what = 'changed'")
        connection.execute("INSERT INTO keep VALUES (3)")
        connection.execute("DELETE FROM keep WHERE id IN (1, 3)")
        connection.execute("INSERT INTO private VALUES (2)")
    wait_level(cluster.members)
    for other in cluster.members[:2]:
        assert other.execute("SELECT * FROM region WHERE id > 10") == [(11, "south", None)]
        assert other.execute("SELECT * FROM audit") == [(1, "first")]
        assert other.execute("SELECT id FROM keep ORDER BY 1") == [(1,), (2,), (3,)]
        assert (2,) not in other.execute("SELECT id FROM private")


def check_no_secret(cluster: Cluster, said: list[str]) -> None:
    """Neither what was said nor the journal nor any server's log tells the password."""
    n3 = cluster["n3"]
    journal: Rows = n3.execute("SELECT o::text FROM zodan.operation o UNION ALL SELECT s::text FROM zodan.step s")
    assert len(journal) > 20
    assert len(said) > 20
    assert list(find("\n".join(said))) == []
    assert list(find(str(journal))) == []
    for node in cluster.nodes:
        lines = [line for line in node.log_text().splitlines() if list(find(line))]
        assert lines == [], node.name
