"""What holds an operation up: a lost connection, a lock that somebody holds, a time limit of the caller's."""

from __future__ import annotations

import psycopg
import pytest

from support.calls import add_node, call, exceptions
from support.clusters import MakeCluster
from support.joins import Join, planned
from support.objects import at
from support.tables import KEYED, assert_rows_equal, wait_level
from support.writers import Writers
from zodan_sql.sandbox import wait_until

_BUDGET_S = 60.0


@pytest.mark.parametrize(
    ("phase", "where"),
    [pytest.param("copied", "n3", marks=pytest.mark.slow), ("prepare", "n2"), ("pause", "n1"), ("switch", "n3")],
)
def test_a_lost_connection_is_opened_again(make_cluster: MakeCluster, phase: str, where: str) -> None:
    join = Join(make_cluster)
    with Writers([join.n1, join.n2]) as writers:
        held = join.held(phase, where)
        join.cluster[where].execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'zodan add%%'"
        )
        held.let_go()
    assert held.error is None
    assert writers.failures == []
    join.check()
    assert exceptions(join.cluster.members) == []


def test_a_server_may_restart_while_it_is_waited_for(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    held = join.held("levelled", "n1")
    join.n1.stop("fast")
    held.let_go_on()
    wait_until(lambda: _is_missed(join), _BUDGET_S, "the connection to be missed")
    join.n1.start()
    held.finish()
    assert held.error is None
    join.check()


def _is_missed(join: Join) -> str:
    log = join.n3.log_text()
    return "" if 'lost the connection to node "n1"' in log else "it is not missed yet"


def test_a_locked_table_is_named_with_who_holds_it(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    given = {name: join.arguments[name] for name in ("src_node_name", "src_dsn", "new_node_name", "new_node_dsn")}
    join.n3.execute("ALTER ROLE CURRENT_USER SET zodan.look_timeout = '1 s'")
    with join.n2.connect() as lock, lock.transaction():
        lock.execute(f"LOCK TABLE {KEYED}")
        pid = lock.info.backend_pid
        for procedure in ("spock.health_check", "spock.add_node"):
            with pytest.raises(psycopg.Error) as refused:
                call(join.n3, procedure, **given)
            assert refused.value.sqlstate == "ZD100"
            assert f"waiting for process {pid} (" in str(refused.value.diag.message_detail), refused.value.diag
    call(join.n3, "spock.health_check", **given)


@pytest.mark.parametrize("limit", ["statement_timeout"])
def test_time_limits_of_the_caller_are_refused(make_cluster: MakeCluster, limit: str) -> None:
    join = Join(make_cluster)
    join.n3.execute(f"ALTER ROLE CURRENT_USER SET {limit} = '50 s'")
    with pytest.raises(psycopg.Error) as refused:
        add_node(join.cluster, "n1", "n3")
    assert refused.value.sqlstate == "ZD008"
    assert refused.value.diag.message_hint == f"Run SET {limit} = 0, then call again."
    assert join.n3.execute("SELECT count(*) FROM zodan.operation") == [(0,)]
    # What does not last is not refused.
    add_node(join.cluster, "n1", "n3", dry_run=True)


def test_a_slot_that_waits_says_for_what(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    held = join.held("prepare", "n2")
    with join.n2.connect() as long, long.transaction():
        long.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n2', 0, 'long')")
        pid = long.info.backend_pid
        held.let_go_on()
        who = f"process {pid} ({long.info.user}, client backend, idle in transaction, in a transaction for 00:00:1"
        wait_until(
            lambda: "" if f"waiting for {who}" in join.n3.log_text() else "nothing is said yet",
            _BUDGET_S,
            "the step to say what it waits for",
        )
    held.finish()
    assert held.error is None
    join.check()


#: Rows that take their time on the node where they are indexed or applied, without anything to count meanwhile.
_SLOW = """
CREATE TABLE slow (id int PRIMARY KEY, v int)
CREATE FUNCTION slowly(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN v; END'
CREATE INDEX slow_v ON slow (public.slowly(v))
CREATE FUNCTION slow_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(NEW.v); RETURN NEW; END'
CREATE TRIGGER slow_row BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION slow_row()
ALTER TABLE slow ENABLE REPLICA TRIGGER slow_row
"""


@pytest.mark.slow
def test_a_worker_that_works_is_progress(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    for node in (join.n1, join.n2):
        at(node, *_SLOW.strip().split("\n"), "SELECT spock.repset_add_table('default', 'slow')")
        at(node, "INSERT INTO slow VALUES (1, 0) ON CONFLICT DO NOTHING")
        at(
            node,
            "CREATE OR REPLACE FUNCTION slowly(v int) RETURNS int LANGUAGE plpgsql IMMUTABLE"
            " AS 'BEGIN IF v = 0 THEN PERFORM pg_sleep(6); END IF; RETURN v; END'",
        )
    wait_level([join.n1, join.n2])
    join.n3.execute("ALTER ROLE CURRENT_USER SET zodan.sync_timeout = '3 s'")
    join.plan = planned(join.n1, join.n3)[1]
    held = join.held("level", "n1")
    join.n1.execute("INSERT INTO slow VALUES (2, 6)")
    held.let_go()
    assert held.error is None
    join.check()
    assert_rows_equal(join.cluster.members, ["slow"])


def test_a_worker_that_waits_for_a_lock_is_none(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    join.n3.execute("ALTER ROLE CURRENT_USER SET zodan.sync_timeout = '3 s'")
    held = join.held("level", "n1")
    with join.n3.connect() as lock, lock.transaction():
        lock.execute(f"LOCK TABLE {KEYED}")
        join.n1.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n1', 0, 'late')")
        held.let_go()
    assert held.error is not None
    assert held.error.sqlstate == "ZD301"
    call(join.n3, "zodan.resume", p_operation=1)
    join.check()
