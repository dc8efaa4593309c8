"""Replacements that were interrupted, and what happened to the cluster before they were taken up again."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import add_node, call, leftovers, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.joins import planned
from support.parameters import some_slow
from support.replacing import arguments, check_replaced, kill_before, note_replaced
from support.tables import KEYED, TABLES, assert_rows_equal, create_on, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 30.0


class Begun:
    """A replacement of n1 by n4 that was killed before a phase; n5 is blank."""

    def __init__(self, make_cluster: MakeCluster, phase: str, *, present: bool = False, source: str = "n1") -> None:
        self.cluster: Cluster = make_cluster(members=3, blanks=2)
        self.n1, self.n2, self.n3, self.n4, self.n5 = self.cluster.nodes
        create_tables(self.cluster)
        fill(self.n1, 300)
        wait_level(self.cluster.members)
        load_zodan(self.n4)
        if present:
            create_on(self.n4)
        more = {"src_node_name": source, "src_dsn": self.cluster[source].dsn()} if source != "n1" else {}
        if present:
            more["structure"] = "present"
        self.given = arguments(self.n1, self.n4, quiet="0.3 s", verify=False, **more)
        kill_before(phase, self.n4, self.given, self.cluster.nodes)

    @property
    def way(self) -> dict[str, Any]:
        """The arguments of zodan.resume and zodan.rollback."""
        return {"p_operation": 1, "p_dsns": Jsonb({node.name: node.dsn() for node in self.cluster.nodes})}

    def refused(self, procedure: str, sqlstate: str, words: str, **given: Any) -> None:
        """Check that a call refuses and changes nothing."""
        up = [node for node in self.cluster.nodes if node.is_running()]
        before: Any = state(up)
        with pytest.raises(psycopg.Error) as error:
            call(self.n4, procedure, **given)
        said = " ".join(
            filter(
                None, (error.value.diag.message_primary, error.value.diag.message_detail, error.value.diag.message_hint)
            )
        )
        assert (error.value.sqlstate, words in said) == (sqlstate, True), said
        assert state(up) == before

    def operations(self) -> list[tuple[Any, ...]]:
        """Return kind and state of the operations in the journal."""
        return self.n4.execute("SELECT kind, state FROM zodan.operation ORDER BY operation_id")


def note_joined(begun: Begun) -> None:
    """Note that n4 is a member."""
    begun.cluster.blanks.remove(begun.n4)
    begun.cluster.members.append(begun.n4)


@pytest.mark.slow
def test_a_node_that_joined_meanwhile_keeps_its_rows(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "quiet", present=True)
    members = [begun.n1, begun.n2, begun.n3]
    add_node(begun.cluster, "n2", "n5")
    wait_level([*members, begun.n4, begun.n5])
    begun.refused("zodan.rollback", "ZD112", "spock.remove_node", **begun.way)
    call(begun.n4, "spock.remove_node", target_node_name="n4", target_node_dsn=begun.n4.dsn())
    wait_level([*members, begun.n5])
    assert_rows_equal([*members, begun.n5])
    assert begun.n5.execute(f"SELECT count(*) FROM {KEYED}") == [(300,)]
    assert begun.operations() == [("replace_node", "given up"), ("remove_node", "done")]


@pytest.mark.parametrize("again", some_slow(["zodan.rollback", "zodan.resume"], {"zodan.rollback"}))
def test_a_rollback_that_was_killed_once_the_node_was_gone(make_cluster: MakeCluster, again: str) -> None:
    begun = Begun(make_cluster, "quiet")
    (register,) = begun.n4.execute(
        "SELECT ordinal FROM zodan.step WHERE phase_name = 'register' AND node = 'n4' LIMIT 1"
    )[0]
    HeldCall(begun.n4, f"after {register}", "zodan.rollback", begun.way).kill()
    wait_unlocked(begun.cluster.nodes)
    call(begun.n4, again, **begun.way)
    if again == "zodan.resume":
        note_replaced(begun.cluster, begun.n1, begun.n4)
        check_replaced(begun.cluster, begun.n1)
    else:
        assert leftovers(begun.cluster.nodes, "n4") == []
        check_replaced(begun.cluster)


def test_the_new_node_was_removed_by_a_call_on_another_node(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "quiet")
    note_joined(begun)
    remove_node(begun.cluster, "n4", at="n2")
    begun.refused("zodan.resume", "ZD003", "CALL zodan.rollback(1)", **begun.way)
    call(begun.n4, "zodan.rollback", **begun.way)
    assert begun.operations() == [("replace_node", "rolled back")]
    check_replaced(begun.cluster)


@pytest.mark.slow
def test_an_operation_that_another_join_overtook_is_over(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "quiet")
    note_joined(begun)
    remove_node(begun.cluster, "n4", at="n2")
    begun.n4.execute(f"DROP TABLE {', '.join(TABLES)}")
    add_node(begun.cluster, "n2", "n4")
    begun.refused("zodan.rollback", "ZD006", "given up", **begun.way)
    check_replaced(begun.cluster)


@pytest.mark.slow
def test_the_old_node_died_before_the_new_one_joined(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "prepare", source="n3")
    begun.n1.stop("immediate")
    load_zodan(begun.n2)
    call(begun.n2, "spock.remove_node", target_node_name="n1", target_node_dsn=begun.n1.dsn(), force=True)
    (later,) = begun.n4.execute("SELECT min(ordinal) FROM zodan.step WHERE phase_name = 'way_back'")[0]
    HeldCall(begun.n4, f"before {later}", "zodan.resume", begun.way).kill()
    wait_unlocked([begun.n2, begun.n3, begun.n4])
    call(begun.n4, "zodan.resume", **begun.way)
    note_replaced(begun.cluster, begun.n1, begun.n4)
    check_replaced(begun.cluster, begun.n1)
    assert begun.operations() == [("replace_node", "done")]


def test_the_old_node_that_was_the_source_died(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "prepare")
    begun.n1.stop("immediate")
    load_zodan(begun.n2)
    call(begun.n2, "spock.remove_node", target_node_name="n1", target_node_dsn=begun.n1.dsn(), force=True)
    begun.refused("zodan.resume", "ZD113", "CALL zodan.rollback(1)", **begun.way)
    call(begun.n4, "zodan.rollback", **begun.way)
    assert leftovers([begun.n2, begun.n3, begun.n4], "n4") == []


@pytest.mark.slow
def test_a_resume_waits_as_long_as_its_own_session_says(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "quiet")
    ended = threading.Event()

    def write() -> None:
        with begun.n1.connect() as connection:
            number = 10**6
            while not ended.wait(0.1):
                number += 1
                connection.execute(f"INSERT INTO {KEYED} VALUES (%s, 'n1', 0, 'w')", [number])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with begun.n4.connect() as connection, pytest.raises(psycopg.Error) as error:
            connection.execute("SET zodan.sync_timeout = '3 s'")
            connection.execute("CALL zodan.resume(1, %s)", [begun.way["p_dsns"]])
    finally:
        ended.set()
        writer.join(_BUDGET_S)
    assert error.value.sqlstate == "ZD301"
    assert "nothing moved for 00:00:03" in str(error.value.diag.message_detail)


def test_a_join_that_ends_while_its_rollback_begins_stays(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    create_tables(cluster)
    fill(n1, 100)
    wait_level(cluster.members)
    load_zodan(n3)
    given, plan = planned(n1, n3)
    held = HeldCall(n3, f"after {plan.steps[-1][0]}", "spock.add_node", given)
    errors: list[psycopg.Error] = []

    def roll_back() -> None:
        try:
            call(n3, "zodan.rollback", p_operation=1)
        except psycopg.Error as error:
            errors.append(error)

    with psycopg.connect(n2.dsn()) as lock:
        # Whoever surveys the cluster waits here.
        lock.execute("LOCK TABLE pg_catalog.pg_replication_origin IN ACCESS EXCLUSIVE MODE")
        second = threading.Thread(target=roll_back)
        second.start()
        wait_until(lambda: "" if _waits(n2) else "it runs", _BUDGET_S, "the rollback to wait")
        held.let_go()
        lock.rollback()
    second.join(_BUDGET_S)
    assert [error.sqlstate for error in errors] == ["ZD006"]
    assert n3.execute("SELECT state FROM zodan.operation") == [("done",)]
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members)


def _waits(node: Node) -> bool:
    return bool(
        node.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'zodan add_node%%'"
        )
    )


def test_a_dry_run_that_is_null_is_none_and_takes_the_lock(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, _, n3 = cluster.nodes
    load_zodan(n3)
    load_zodan(n1)
    given = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n3", "new_node_dsn": n3.dsn()}
    held = HeldCall(n3, "before 1", "spock.add_node", {**given, "dry_run": None})
    with pytest.raises(psycopg.Error) as error:
        call(n1, "spock.remove_node", target_node_name="n2", target_node_dsn=cluster["n2"].dsn())
    assert error.value.sqlstate == "ZD110"
    held.kill()
