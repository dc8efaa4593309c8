"""The turn to the direct streams: what nobody may switch, lose or discard unseen on the way there and after it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.calls import add_node, call, exceptions, leftovers
from support.clusters import MakeCluster
from support.crash import wait_unlocked
from support.joins import Join
from support.parameters import some_slow
from support.tables import CHAIN, KEYED, wait_level
from support.writers import Writers
from zodan_sql.building.render import read_default
from zodan_sql.sandbox import Node, wait_until

_BUDGET_S = 60.0
_COPY = ("note", "n3")


@pytest.fixture
def join(make_cluster: MakeCluster) -> Join:
    return Join(make_cluster)


@pytest.mark.parametrize("switched_off", [["sub_n1_n3"], ["sub_n1_n3", "sub_n2_n3"]])
def test_streams_that_were_switched_off_after_the_turn_do_not_undo_it(join: Join, switched_off: list[str]) -> None:
    with Writers([join.n1, join.n2]) as writers:
        join.held("way_back", "n1").kill()
        wait_unlocked(join.cluster.nodes)
    # At rest: a worker that is stopped inside a transaction has Spock discard that, in any mesh.
    wait_until(lambda: _lags(join), _BUDGET_S, "n3 to be level")
    join.n3.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n3', 0, 'early')")
    for name in switched_off:
        join.n3.execute("SELECT spock.sub_disable(%(name)s, false)", {"name": name})
    for number, node in enumerate((join.n1, join.n2)):
        node.execute(f"INSERT INTO {KEYED} VALUES ({999999999990 + number}, 'x', 0, 'meanwhile')")
    call(join.n3, "zodan.resume", p_operation=1)
    assert writers.failures == []
    join.check()
    assert join.n1.execute(f"SELECT node FROM {KEYED} WHERE id = 999999999999") == [("n3",)]
    assert join.attempts(*_COPY) == 1


def _lags(join: Join) -> str:
    counts = {node.name: node.execute(f"SELECT count(*) FROM {KEYED}")[0][0] for node in (join.n1, join.n2, join.n3)}
    return "" if len(set(counts.values())) == 1 else str(counts)


def test_what_was_discarded_before_the_turn_has_the_copy_start_over(join: Join) -> None:
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("held", "n3")
        join.discard()
        held.let_go()
    assert held.error is None
    assert writers.failures == []
    join.check()
    assert join.attempts(*_COPY) == 2
    # Nothing of n3 is published before the copy that it keeps is made: its slots are younger than that.
    assert join.n3.execute(
        "SELECT bool_and(s.started_at > c.finished_at AND s.attempts = 2) FROM zodan.step AS s, zodan.step AS c"
        " WHERE s.node = 'n3' AND s.phase_name = 'prepare' AND s.object_name IS NOT NULL AND c.phase_name = 'copied'"
    ) == [(True,)]


def test_a_copy_does_not_start_over_where_users_have_written(join: Join) -> None:
    held = join.held("held", "n3")
    join.discard()
    join.n3.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n3', 0, 'early')")
    held.let_go()
    assert held.error is not None
    assert held.error.sqlstate == "ZD111"
    assert held.error.diag.message_detail is not None
    assert f"public.{KEYED}: 1" in held.error.diag.message_detail
    assert "it failed" in held.error.diag.message_detail
    assert join.n3.execute(f"SELECT count(*) FROM {KEYED} WHERE id = 999999999999") == [(1,)]
    join.n3.execute(f"DELETE FROM {KEYED} WHERE id = 999999999999")
    call(join.n3, "zodan.resume", p_operation=1)
    join.check()


def test_what_was_discarded_after_the_turn_is_not_called_joined(join: Join) -> None:
    held = join.held("way_back", "n1")
    join.discard()
    held.let_go()
    assert held.error is not None
    assert held.error.sqlstate == "ZD402"
    assert "INSERT on public.app_keyed, 1 rows" in str(held.error.diag.message_detail)
    with pytest.raises(psycopg.Error) as again:
        add_node(join.cluster, "n1", "n3")
    assert again.value.sqlstate == "ZD402"
    join.n3.execute("DELETE FROM spock.exception_log")
    add_node(join.cluster, "n1", "n3")
    join.check()


@pytest.mark.parametrize(("node", "other"), [("n1", "n3"), ("n2", "n3"), ("n3", "n2")])
def test_a_slot_that_is_lost_while_it_waits_is_made_again(join: Join, node: str, other: str) -> None:
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("pause", "n1")
        join.cluster[node].execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE %(part)s",
            {"part": f"spk_%sub_{node}_{other}"},
        )
        held.let_go()
    assert held.error is None
    assert writers.failures == []
    join.check()
    assert exceptions(join.cluster.members) == []
    assert join.attempts(*_COPY) == 1
    assert join.attempts("pause", "n1") == 2


def test_a_server_that_crashes_while_it_catches_up_has_every_row_once(join: Join) -> None:
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("levelled", "n3")
        wait_until(lambda: _lacks(join.n3, KEYED, 2100), _BUDGET_S, "rows to come")
        join.n3.stop("immediate")
        held.finish()
        join.n3.start()
        wait_unlocked(join.cluster.nodes)
        call(join.n3, "zodan.resume", p_operation=1)
    assert writers.failures == []
    join.check()
    # With Spock 5 the origin goes back in a crash and the rows do not, so that the copy has to start over.
    ((forgets,),) = join.n3.execute("SELECT extversion LIKE '5.%%' FROM pg_extension WHERE extname = 'spock'")
    assert join.attempts(*_COPY) == (2 if forgets else 1)


def _lacks(node: Node, table: str, rows: int) -> str:
    ((count,),) = node.execute(f"SELECT count(*) FROM {table}")
    return "" if count >= rows else f"{count} rows of {rows}"


def test_a_table_that_is_rewritten_before_it_is_copied_is_copied_again(join: Join) -> None:
    for node in (join.n1, join.n2):
        node.execute("CREATE TABLE rw (id int PRIMARY KEY, v int DEFAULT 0)")
        node.execute("CREATE TABLE vf (id int PRIMARY KEY, v int)")
        node.execute("SELECT spock.repset_add_table('default', t) FROM unnest(ARRAY['rw', 'vf']::regclass[]) AS t")
    join.n1.execute("INSERT INTO rw SELECT i, i FROM generate_series(1, 100) AS i")
    join.n1.execute("INSERT INTO vf SELECT i, i FROM generate_series(1, 100) AS i")
    wait_level([join.n1, join.n2])
    held = join.held("copying", "n3")
    # The restore waits for this lock, its snapshot taken. VACUUM FULL rewrites too, but keeps its rows visible to it.
    with join.n3.connect() as lock, lock.transaction():
        lock.execute("LOCK TABLE pg_catalog.pg_attrdef IN SHARE MODE")
        held.let_go_on()
        wait_until(lambda: _restore_waits(join.n3), _BUDGET_S, "the restore to wait")
        for node in (join.n1, join.n2):
            node.execute("ALTER TABLE rw ALTER v TYPE numeric")
            node.execute("VACUUM FULL vf")
    held.finish()
    assert held.error is None
    join.check()
    assert join.n3.execute("SELECT count(*), (SELECT count(*) FROM vf) FROM rw") == [(100, 100)]
    assert join.attempts(*_COPY) == 2


def _restore_waits(node: Node) -> str:
    waits = node.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'pg_catalog.pg_attrdef'::regclass")
    return "" if waits else "it does not wait yet"


def test_a_table_that_is_added_meanwhile_is_published_by_the_new_node(join: Join) -> None:
    held = join.held("way_back", "n1")
    for node in join.cluster.nodes:
        node.execute("CREATE TABLE later (id int PRIMARY KEY)")
    for node in (join.n1, join.n2):
        node.execute("SELECT spock.repset_add_table('default', 'later')")
    held.let_go()
    assert held.error is None
    join.check()
    join.n3.execute("INSERT INTO later VALUES (3)")
    wait_level(join.cluster.members)
    assert [node.execute("SELECT id FROM later") for node in join.cluster.members] == [[(3,)]] * 3


def test_a_long_transaction_on_the_source_is_waited_for(join: Join) -> None:
    held = join.held("ready", "n1")
    # The worker has written, and now waits for the lock in the middle of its transaction.
    with join.n1.connect() as lock, join.n2.connect() as long, lock.transaction():
        lock.execute(f"LOCK TABLE {CHAIN}")
        with long.transaction():
            long.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n2', 0, 'long')")
            long.execute(f"INSERT INTO {CHAIN} VALUES (999999999999, 'n2')")
        wait_until(lambda: _is_stuck(join.n1), _BUDGET_S, "apply to wait for the lock")
        held.let_go_on()
        wait_until(lambda: _is_waited_for(join), _BUDGET_S, "the join to wait for the transaction")
        # Apply of what others send goes on: nothing is paused.
        assert join.attempts("pause", "n1") == 0
    held.finish()
    assert held.error is None
    join.check()
    assert join.attempts("pause", "n1") == 1


@pytest.mark.parametrize("member", some_slow(["n1", "n2"], quick=("n2",)))
def test_a_slot_that_waited_is_advanced_before_the_flip(join: Join, member: str) -> None:
    node, wait = join.cluster[member], read_default("advance_bytes", int)
    with Writers([join.n1, join.n2]) as writers:
        held = join.held("near", "n1")
        for _ in range(wait // 10_000_000 + 2):
            node.execute("SELECT pg_logical_emit_message(false, 'zodan test', repeat('x', 10000000))")
        (slot,) = node.execute(
            "SELECT slot_name, restart_lsn FROM pg_replication_slots WHERE slot_name LIKE %(part)s",
            {"part": f"spk_%sub_{member}_n3"},
        )
        held.kill()
        wait_unlocked(join.cluster.nodes)
        held = join.held("pause", "n1")
        (after,) = node.execute(
            "SELECT pg_current_wal_lsn() - restart_lsn, confirmed_flush_lsn >= restart_lsn FROM pg_replication_slots"
            " WHERE slot_name = %(slot)s AND restart_lsn > %(before)s",
            {"slot": slot[0], "before": slot[1]},
        )
        held.let_go()
    assert after[0] < wait
    assert held.error is None
    assert writers.failures == []
    join.check()


def _is_stuck(node: Node) -> str:
    rows = node.execute(
        f"SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) WHERE NOT l.granted"
        f" AND l.relation = '{CHAIN}'::regclass AND a.xact_start < clock_timestamp() - interval '1 s'"
    )
    return "" if rows else "it does not wait"


def _is_waited_for(join: Join) -> str:
    rows = join.n3.execute(
        "SELECT started_at < clock_timestamp() - interval '1 s' AND state = 'running' FROM zodan.step"
        " WHERE phase_name = 'ready'"
    )
    return "" if rows == [(True,)] else str(rows)


def test_the_lock_of_a_dead_caller_is_taken_over_while_its_statement_runs(join: Join) -> None:
    held = join.held("prepare", "n1")
    # A slot is made only once this transaction is over.
    with join.n1.connect() as long, long.transaction():
        long.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n1', 0, 'long')")
        held.let_go_on()
        wait_until(lambda: _makes_a_slot(join.n1), _BUDGET_S, "the slot to be waited for")
        held.kill()
        again = join.held("prepare", "n1")
        again.let_go_on()
        wait_until(lambda: _makes_a_slot(join.n1), _BUDGET_S, "the slot to be waited for again")
    again.finish()
    assert again.error is None
    join.check()


def _makes_a_slot(node: Node) -> str:
    rows = node.execute(
        "SELECT 1 FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid) WHERE a.application_name LIKE 'zodan %%'"
        " AND a.query LIKE '%%pg_create_logical_replication_slot%%' AND NOT l.granted"
    )
    return "" if rows else "it is not waited for"


def test_a_stream_that_lost_its_slot_after_the_turn_is_not_called_joined(join: Join) -> None:
    held = join.held("whole", "n1")
    with join.n1.connect() as source:
        # As max_slot_wal_keep_size does it: the worker is ended, and comes back to no slot.
        drop = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE slot_name LIKE 'spk_%sub_n1_n3' AND pg_terminate_backend(active_pid, 5000)"
        )
        wait_until(lambda: _dropped(source, drop), _BUDGET_S, "the slot to be dropped")
    held.let_go()
    assert held.error is not None
    assert (held.error.sqlstate, "sub_n1_n3 is gone" in str(held.error)) == ("ZD202", True), held.error
    assert join.n3.execute("SELECT state FROM zodan.operation") == [("failed",)]
    call(join.n3, "zodan.rollback", p_operation=1)
    assert leftovers(join.cluster.nodes, "n3") == []


def _dropped(source: psycopg.Connection[Any], drop: str) -> str:
    try:
        return "" if source.execute(drop.encode()).fetchall() else "it is in no use"
    except psycopg.errors.ObjectInUse as error:
        return str(error)
