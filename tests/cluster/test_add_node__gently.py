"""A copy that is gentle: it keeps to a rate, and pauses for slots and peers of the source."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import psycopg

from support.calls import add_node, load_zodan
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.joins import planned
from support.tables import KEYED, TABLES, add_to_sets, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 60.0
_WAITS = "SELECT coalesce(max(waiting_for), '') FROM zodan.step WHERE phase_name = 'copied'"
#: WAL that a slot holds, and that nothing else is about.
_MB = "SELECT pg_logical_emit_message(false, 'zodan test', repeat('x', 1 << 20))"
_HELD = "SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = 'others'"


_LANES = (
    "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    f" WHERE a.application_name LIKE 'zodan_copy%%' AND l.granted AND l.relation = '{KEYED}'::regclass"
)


def _locks(waiter: psycopg.Connection[Any]) -> None:
    """Wait for a lock that nobody else could wait for at the same time, until it is cancelled."""
    with suppress(psycopg.errors.QueryCanceled), waiter.transaction():
        waiter.execute(f"LOCK TABLE {KEYED}")


def _said(node: Node, words: str) -> None:
    wait_until(lambda: "" if words in node.log_text() else f"not yet: {words}", _BUDGET_S, "what is to be said")


def _waits(node: Node, words: str) -> None:
    wait_until(
        lambda: "" if words in node.execute(_WAITS)[0][0] else str(node.execute(_WAITS)),
        _BUDGET_S,
        f"the wait: {words}",
    )


def _with_two_tables(make_cluster: MakeCluster) -> Cluster:
    """Make a member with two tables whose indexes are built after their rows, the first the larger, and a blank."""
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    for table, rows in (("first", 14000), ("second", 12000)):
        n1.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, filler text)")
        n1.execute(f"INSERT INTO {table} SELECT i, repeat('x', 900) FROM generate_series(1, {rows}) AS i")
    add_to_sets(n1, dict.fromkeys(("first", "second"), "default"))
    load_zodan(n2)
    return cluster


def test_a_copy_keeps_to_its_rate_when_it_goes_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    fill(n1, 12000, 1000)
    load_zodan(n2)
    arguments, plan = planned(n1, n2)
    rate = 8 << 20
    limits = {"jobs": 2, "max_rate": rate}
    held = HeldCall(n2, f"before {plan.at('copied', 'n2')}", "spock.add_node", arguments | limits)
    held.kill()
    add_node(cluster, "n1", "n2")
    units = n2.execute(
        "SELECT started_at, finished_at, bytes / extract(epoch FROM finished_at - started_at), bytes FROM zodan.unit"
        " WHERE phase_name = 'copied' ORDER BY started_at"
    )
    assert max(size for *_, size in units) > 4 << 20
    # No unit was faster, nor all that ran at the same time together.
    together = [sum(r for since, until, r, _ in units if since <= begun < until) for begun, *_ in units]
    assert [speed for speed in together if speed > rate] == []
    assert n2.execute("SELECT units -> 'max_rate' FROM zodan.step WHERE phase_name = 'copied'") == [(rate,)]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert n2.execute(f"SELECT count(*) FROM {KEYED}") == [(12000,)]


def _allow(n1: Node, part: int) -> None:
    """Let slots hold so much that slot "others" holds this part of it, in per cent, or a little less."""
    held = int(n1.execute(_HELD)[0][0]) >> 20
    n1.execute(f"ALTER SYSTEM SET max_slot_wal_keep_size = '{held * 100 // part + 1}MB'")
    n1.execute("SELECT pg_reload_conf()")


def test_a_copy_pauses_while_a_slot_is_nearly_full(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    fill(n1, 2000)
    load_zodan(n2)
    n1.execute("SELECT pg_create_physical_replication_slot('others', true)")
    for _ in range(50):
        n1.execute(_MB)
    arguments, plan = planned(n1, n2)
    held = HeldCall(n2, f"before {plan.at('copied', 'n2')}", "spock.add_node", arguments)
    _allow(n1, 90)
    held.let_go_on()
    _said(n2, 'the copy pauses, waiting for slot "others" on node "n1", which holds ')
    _waits(n2, " % of max_slot_wal_keep_size, and which nobody reads")
    assert n2.execute("SELECT DISTINCT state FROM zodan.unit WHERE phase_name = 'copied'") == [("pending",)]
    paused = "SELECT count(*) FROM zodan.sample WHERE measure ->> 'paused' LIKE 'slot \"others\"%%'"
    wait_until(lambda: "" if n2.execute(paused)[0][0] else "no sample", _BUDGET_S, "a sample to say so")
    # It goes on only when there is some room.
    _allow(n1, 76)
    _waits(n2, "holds 7")
    n2.execute("SELECT pg_cancel_backend(%(pid)s)", {"pid": held.pid})
    held.finish()
    assert held.error is not None
    assert held.error.sqlstate == "57014"
    wait_unlocked(cluster.nodes)
    # The copy's own slot does not hold it up: with what was written since, it is the one that is nearly full.
    _allow(n1, 100)
    n1.execute("SELECT pg_drop_replication_slot('others')")
    n1.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '20MB'")
    n1.execute("SELECT pg_reload_conf()")
    for _ in range(17):
        n1.execute(_MB)
    add_node(cluster, "n1", "n2")
    assert n2 in cluster.members
    assert n2.execute(_WAITS) == [("",)]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)


def test_a_peer_that_lags_and_a_session_that_waits_behind_a_unit_are_named(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    create_tables(cluster)
    fill(n1, 24000, 1000)
    wait_level(cluster.members)
    load_zodan(n3)
    arguments, plan = planned(n1, n3)
    limits = {"jobs": 1, "max_rate": 3 << 20, "max_lag": "500 ms"}
    held = HeldCall(n3, f"before {plan.at('copied', 'n3')}", "spock.add_node", arguments | limits)
    with n2.connect() as lock, lock.transaction():
        lock.execute(f"LOCK TABLE {KEYED}")
        n1.execute(f"INSERT INTO {KEYED} VALUES (1, 'n1', 0, 'late')")
        held.let_go_on()
        with n1.connect() as waiter:
            waiter.execute("SET application_name = 'ddl'")
            pid = waiter.info.backend_pid
            wait_until(lambda: "" if n1.execute(_LANES)[0][0] else "no lane", _BUDGET_S, "a lane to lock the table")
            stuck = threading.Thread(target=_locks, args=(waiter,), daemon=True)
            stuck.start()
            named = (
                f'process {pid} ({waiter.info.user}, ddl) on node "n1" waits for AccessExclusiveLock on public.{KEYED}'
            )
            _said(n3, f"{named} behind the copy of public.{KEYED}, part ")
            behind = "SELECT count(*) FROM zodan.sample WHERE strpos(measure ->> 'behind', %(named)s) = 1"
            wait_until(
                lambda: "" if n3.execute(behind, {"named": named})[0][0] else "no sample", _BUDGET_S, "a sample of it"
            )
            n1.execute("SELECT pg_cancel_backend(%(pid)s)", {"pid": pid})
            stuck.join(_BUDGET_S)
        _said(n3, "the copy pauses, waiting for peer ")
        _waits(n3, 'which lags behind node "n1" by more than 00:00:00.5')
        (streams,) = n1.execute("SELECT array_agg(application_name) FROM pg_stat_replication")
        assert n3.execute(_WAITS)[0][0].split('"')[1] in streams[0]
    _said(n3, "the copy goes on")
    held.finish()
    assert held.error is None
    assert n3.log_text().count(named) == 1
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)


def test_a_snapshot_that_does_not_come_says_for_whom_it_waits(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    fill(n1, 2000)
    load_zodan(n2)
    n2.execute("ALTER ROLE CURRENT_USER SET zodan.sync_timeout = '12 s'")
    arguments, plan = planned(n1, n2)
    held = HeldCall(n2, f"before {plan.at('copied', 'n2')}", "spock.add_node", arguments)
    with n1.connect() as long, long.transaction():
        long.execute("SET application_name = 'long'")
        long.execute(f"INSERT INTO {KEYED} VALUES (1, 'n1', 0, 'late')")
        pid, user = long.info.backend_pid, long.info.user
        who = f"process {pid} ({user}, long, idle in transaction, in a transaction for 00:00:1"
        held.let_go_on()
        _said(n2, 'node "n1" has given no snapshot for 00:00:1')
        _said(n2, f": waiting for {who}")
        _waits(n2, who)
        held.finish()
    assert held.error is not None
    assert held.error.sqlstate == "ZD302"
    detail = str(held.error.diag.message_detail)
    assert 'node "n1" has given no snapshot for 00:00:12' in detail
    assert f"it waited for {who}" in detail
    add_node(cluster, "n1", "n2")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)


def test_indexes_are_built_while_other_tables_are_copied(make_cluster: MakeCluster) -> None:
    cluster = _with_two_tables(make_cluster)
    n2 = cluster["n2"]
    # With this rate the second table takes seconds.
    add_node(cluster, "n1", "n2", jobs=2, max_rate=8 << 20)
    ended = "SELECT finished_at FROM zodan.unit WHERE title = 'index public.first_pkey'"
    last = "SELECT max(finished_at) FROM zodan.unit WHERE phase_name = 'copied'"
    assert n2.execute(ended)[0][0] < n2.execute(last)[0][0]
    own = "SELECT max(finished_at) FROM zodan.unit WHERE phase_name = 'copied' AND bundle = 'public.first'"
    begun = ended.replace("finished_at", "started_at")
    assert n2.execute(own)[0][0] <= n2.execute(begun)[0][0]
    lanes = dict(n2.execute("SELECT title, lane FROM zodan.unit WHERE phase_name = 'indexes'"))
    assert set(lanes) == {"index public.first_pkey", "index public.second_pkey"}
    assert min(lanes.values()) > 2, "they have sessions of their own"
    assert n2.execute("SELECT count(*) FROM pg_index WHERE NOT (indisvalid AND indisready)") == [(0,)]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, (*TABLES, "first", "second"))


def test_a_unit_that_fails_waits_for_what_is_built_beside_it(make_cluster: MakeCluster) -> None:
    cluster = _with_two_tables(make_cluster)
    n1, n2 = cluster.nodes
    arguments, plan = planned(n1, n2)
    limits = {"jobs": 1, "max_rate": 8 << 20}
    held = HeldCall(n2, f"before {plan.at('copied', 'n2')}", "spock.add_node", arguments | limits)
    # No rows of the second table may come.
    n2.execute("ALTER TABLE second ADD CHECK (id < 0)")
    held.let_go()
    assert held.error is not None
    assert "second_id_check" in str(held.error.diag.message_detail)
    ended = "SELECT phase_name, state FROM zodan.step WHERE state IN ('failed', 'running') ORDER BY ordinal"
    assert n2.execute(ended) == [("copied", "failed"), ("indexes", "failed")]
    assert n2.execute("SELECT count(*) FROM zodan.unit WHERE state = 'running'") == [(0,)]
    n2.execute("ALTER TABLE second DROP CONSTRAINT second_id_check")
    add_node(cluster, "n1", "n2")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, (*TABLES, "first", "second"))
