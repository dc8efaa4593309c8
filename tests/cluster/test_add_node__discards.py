"""Transactions that the new node cannot apply while it catches up: none passes for applied."""

from __future__ import annotations

import psycopg
import pytest

from support.calls import add_node, call, load_zodan, remove_node
from support.clusters import MakeCluster
from support.joins import Join, log_exception, make_filled, planned, refused
from support.objects import at
from support.tables import KEYED, TABLES, assert_rows_equal, create_tables, wait_level
from support.writers import Writers
from zodan_sql.sandbox import detect_engine, wait_until

_APART = ["CREATE TABLE apart (id int PRIMARY KEY)", "SELECT spock.repset_add_table('default', 'apart')"]


#: What Spock can do with a transaction that it cannot apply; pglogical tries again for ever.
_BEHAVIOURS = ["transdiscard", "discard", "sub_disable"] if detect_engine().is_real else ["retry"]


@pytest.fixture(params=_BEHAVIOURS)
def join(make_cluster: MakeCluster, request: pytest.FixtureRequest) -> Join:
    """Return a join whose members have a table that only they will change."""
    join = Join(make_cluster)
    for node in join.cluster.nodes if join.cluster.engine.is_real else []:
        node.execute(f"ALTER SYSTEM SET spock.exception_behaviour = '{request.param}'")
        node.execute("SELECT pg_reload_conf()")
    for node in (join.n1, join.n2):
        at(node, *_APART)
    join.n3.execute("ALTER ROLE CURRENT_USER SET zodan.sync_timeout = '5 s'")
    join.plan = planned(join.n1, join.n3)[1]
    return join


def _insert(join: Join, values: str) -> None:
    """Write one transaction into the table and into another, on n1."""
    with join.n1.connect() as one, one.transaction():
        one.execute(f"INSERT INTO apart VALUES ({values})".encode())
        one.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n1', 0, 'with it')")


def _resume(join: Join) -> None:
    """Resume, as somebody does who has removed the cause; Spock may only then come to disable the subscription."""
    for last in (False, True):
        if join.cluster.engine.is_real:
            join.n3.execute("SELECT spock.sub_enable(sub_name) FROM spock.subscription WHERE NOT sub_enabled")
        try:
            call(join.n3, "zodan.resume", p_operation=1)
            return
        except psycopg.DatabaseError as error:
            if last or error.sqlstate != "ZD202":
                raise


def _check(join: Join) -> None:
    join.check()
    assert_rows_equal(join.cluster.members, ["apart"])
    assert join.n3.execute(f"SELECT count(*), (SELECT 1 FROM {KEYED} WHERE id = 999999999999) FROM apart") == [(1, 1)]


def test_a_column_that_comes_later(join: Join) -> None:
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("level", "n1")
        for node in (join.n1, join.n2):
            at(node, "ALTER TABLE apart ADD x int")
        _insert(join, "1, 1")
        held.let_go()
        # The worker cannot even read it, and tries for ever; once it can, Spock may discard it.
        assert held.error is not None
        assert held.error.sqlstate in {"ZD202", "ZD301"}
        at(join.n3, "ALTER TABLE apart ADD x int")
        _resume(join)
    assert writers.failures == []
    _check(join)


def test_a_row_that_is_refused(join: Join, request: pytest.FixtureRequest) -> None:
    discards = "discard" in request.node.callspec.params["join"]
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("level", "n1")
        at(join.n3, "ALTER TABLE apart ADD CHECK (id < 0)")
        _insert(join, "1")
        held.let_go()
        if not discards:
            # It is kept for later, and the caller is told why it does not go on.
            assert held.error is not None
            assert held.error.sqlstate in {"ZD202", "ZD301"}
            at(join.n3, "ALTER TABLE apart DROP CONSTRAINT apart_id_check")
            _resume(join)
    # Where Spock has logged it, whatever it did with it then, the copy started over.
    assert held.error is None or not discards
    assert join.attempts("note", "n3") == (2 if join.cluster.engine.is_real else 1)
    assert writers.failures == []
    _check(join)


def test_a_transaction_that_the_source_discards(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    discards = join.cluster.engine.is_real
    for node in join.cluster.nodes if discards else []:
        node.execute("ALTER SYSTEM SET spock.exception_behaviour = 'transdiscard'")
        node.execute("SELECT pg_reload_conf()")
    join.plan = planned(join.n1, join.n3)[1]
    held = join.held("level", "n1")
    if discards:
        at(join.n1, f"ALTER TABLE {KEYED} ADD CONSTRAINT odd CHECK (id <> 999999999997)")
    row = f"INSERT INTO {KEYED} VALUES (999999999997, 'n2', 0, 'discarded')"
    join.n2.execute(row)
    if discards:
        logged = "SELECT 1 FROM spock.exception_log WHERE table_name = 'app_keyed'"
        wait_until(lambda: "" if join.n1.execute(logged) else "nothing is logged", 60.0, "n1 to discard it")
        at(join.n1, f"ALTER TABLE {KEYED} DROP CONSTRAINT odd")
    else:
        log_exception(join.n1, "n2", "INSERT", KEYED)
    held.let_go()
    # The node is there, and does not pass for whole.
    assert isinstance(held.error, psycopg.Error)
    assert held.error.sqlstate == "ZD402"
    assert f"INSERT on public.{KEYED}" in str(held.error)
    for node in (join.n1, join.n3) if discards else []:
        at(node, "BEGIN", "SELECT spock.repair_mode(true)", row, "COMMIT")
    at(join.n1, "DELETE FROM spock.exception_log")
    call(join.n3, "zodan.resume", p_operation=1)
    join.check()


def test_a_slot_that_is_lost_while_the_rows_are_copied(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    join.plan = planned(join.n1, join.n3)[1]
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("streaming", "n3")
        rows = join.n3.execute("SELECT object_name FROM zodan.step WHERE phase_name = 'slot'")
        drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = ANY (%(slots)s)"
        assert len(join.n1.execute(drop, {"slots": [name for (name,) in rows]})) == 1
        held.let_go()
    assert held.error is None
    assert join.attempts("note", "n3") == 2
    assert writers.failures == []
    join.check()


def test_a_discarded_statement_without_a_table_stops_no_check(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    wait_level(cluster.members)
    n1, _, n3 = cluster.nodes
    load_zodan(n3)
    log_exception(n1, "n2", "DDL")
    told = add_node(cluster, "n1", "n3")
    assert [line for line in told if "DDL on no table, 1 times" in line]
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    remove_node(cluster, "n3")


@pytest.mark.skipif(not detect_engine().is_real, reason="pglogical discards nothing")
def test_a_node_that_would_discard_without_a_trace_is_refused(make_cluster: MakeCluster) -> None:
    cluster = make_filled(make_cluster, 10)
    n3 = cluster["n3"]
    for name, value in (("exception_logging", "none"), ("exception_behaviour", "transdiscard")):
        n3.execute(f"ALTER SYSTEM SET spock.{name} = '{value}'")
    n3.execute("SELECT pg_reload_conf()")
    refused(cluster, "exception-logging", "spock.exception_logging none")
    n3.execute("ALTER SYSTEM SET spock.exception_behaviour = 'sub_disable'")
    n3.execute("SELECT pg_reload_conf()")
    add_node(cluster, "n1", "n3")
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
