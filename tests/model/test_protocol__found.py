"""What the model has found in earlier plans, one interleaving each, and that each has its safeguard."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from model.cluster_model import (
    Different,
    Doubled,
    Leftover,
    Lost,
    Returned,
    Session,
    Stream,
    Stuck,
    Table,
    Trouble,
    Violation,
)
from model.machines import NEW, SOURCE, TARGET, AdditionMachine, RemovalMachine
from model.protocol import RIGHT, Variant, disable

Ends = AbstractContextManager[Any]


def _with_and_without(violation: type[Violation], *safeguards: str) -> list[tuple[Variant, Ends]]:
    """Return the plan as it is, which holds, and the plan without safeguards, which goes wrong like this."""
    without = replace(RIGHT, **dict.fromkeys(safeguards, False))
    return [(RIGHT, nullcontext()), (without, pytest.raises(violation))]


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "copy_begun_anew", "discards_seen"))
def test_a_flip_that_is_taken_back_after_the_copy_was_disabled_loses_nothing(variant: Variant, ends: Ends) -> None:
    """The copy's worker is stopped inside a transaction; enabled again, it meets that transaction and discards it."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster, copy = machine.cluster, Stream(SOURCE, NEW, "copy")
        assert not cluster.nodes[NEW].live.subscriptions[copy].enabled
        cluster.insert(SOURCE, Table.LOG)
        assert cluster.begin_apply(copy)
        cluster.stop_worker(copy)
        machine.kill_caller()
        machine.call_again()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Doubled, "copy_ended"))
def test_a_copy_whose_connection_is_lost_as_it_ends_brings_nothing_twice(variant: Variant, ends: Ends) -> None:
    """Its slot is let go of while its worker still ends a transaction that the direct stream then sends again."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster, copy, direct = machine.cluster, Stream(SOURCE, NEW, "copy"), Stream(SOURCE, NEW)
        cluster.insert(SOURCE, Table.LOG)
        assert cluster.begin_apply(copy)
        cluster.lose_connection(copy)
        for _ in range(20):
            if not cluster.nodes[NEW].live.subscriptions[direct].enabled:
                machine.go_on(1, 0, helped=False)
        if copy in cluster.workers:
            cluster.apply(copy)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Stuck, "drained_once"))
def test_a_removal_ends_though_a_survivor_died_inside_the_drop_of_its_subscription(
    variant: Variant, ends: Ends
) -> None:
    """The slot on T is gone, the subscription is not: the resumed operation waits for what can never come."""
    with ends:
        machine = RemovalMachine(variant, phases=["leave"])
        machine.call(peers=1, phase=0, rows=0, opens=False)
        cluster, stream = machine.cluster, Stream(TARGET, SOURCE)
        while stream in cluster.nodes[TARGET].slots:
            machine.go_on(1, 0, helped=False)
        cluster.crash(SOURCE)
        assert stream in cluster.nodes[SOURCE].live.subscriptions
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Stuck, "clean_takes_back_own"))
def test_a_join_that_has_cleared_nothing_yet_can_be_taken_back(variant: Variant, ends: Ends) -> None:
    """An origin of an earlier N is no work of this operation: no rollback drops it, and its proof stops at it."""
    with ends:
        machine = AdditionMachine(variant)
        machine.call(peers=1, phase=0, rolls_back=True, rows=0, stale=True)
        machine.kill_caller()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "durable_turn"))
def test_a_stream_that_is_switched_off_after_the_turn_does_not_undo_it(variant: Variant, ends: Ends) -> None:
    """A user has written on N; to take the stream that is off for a turn that was not would drop that row."""
    with ends:
        machine = AdditionMachine(variant, phases=["way_back"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=1)
        cluster = machine.cluster
        cluster.insert(NEW, Table.LOG)
        machine.kill_caller()
        disable(cluster, Stream(SOURCE, NEW))
        machine.call_again()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Returned, "copy_takes_all_back"))
def test_nothing_that_a_second_copy_restores_travels_back(variant: Variant, ends: Ends) -> None:
    """The slots on N are made before the flip; a copy that starts over under them is published to the members."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        machine.kill_caller()
        machine.cluster.crash(NEW)
        machine.call_again()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "discards_seen"))
@pytest.mark.parametrize("phase", ["levelled", "caught_up", "way_back"])
def test_what_was_discarded_is_copied_again_or_told(phase: str, variant: Variant, ends: Ends) -> None:
    """Spock sets aside what it cannot apply and goes on; nothing that waits for a position sees that."""
    with ends:
        machine = AdditionMachine(variant, phases=[phase])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster = machine.cluster
        machine.rest(flush=False)
        cluster.insert(SOURCE, Table.LOG)
        for stream in [stream for stream in cluster.workers if stream.subscriber == NEW]:
            cluster.discard(stream)
        machine.teardown()
        assert machine.operation.status == ("incomplete" if phase == "way_back" else "done")


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "rewrites_seen"))
def test_a_table_that_is_rewritten_before_it_is_copied_is_copied_again(variant: Variant, ends: Ends) -> None:
    """A snapshot finds nothing in a file that is younger than itself."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        while not machine.cluster.sessions:
            machine.go_on(1, 0, helped=False)
        machine.cluster.rewrite(SOURCE, Table.LOG)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Different, "restarts_seen"))
def test_a_server_that_forgot_how_far_it_was_is_copied_to_again(variant: Variant, ends: Ends) -> None:
    """With Spock 5 the origin goes back in a crash and the rows do not: what comes again is there twice."""
    with ends:
        machine = AdditionMachine(variant, phases=["levelled"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster, copy = machine.cluster, Stream(SOURCE, NEW, "copy")
        cluster.insert(SOURCE, Table.LOG)
        machine.rest(flush=True)
        cluster.crash(NEW)
        cluster.set_back(copy)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Stuck, "slots_seen"))
@pytest.mark.parametrize(
    ("phase", "stream"),
    [("caught_up", Stream("A", NEW)), ("caught_up", Stream(NEW, SOURCE)), ("copied", Stream(SOURCE, NEW, "copy"))],
)
def test_a_slot_that_is_lost_while_it_waits_is_made_again(
    phase: str, stream: Stream, variant: Variant, ends: Ends
) -> None:
    """PostgreSQL drops slots that nobody reads from; a turn to a stream without one is for ever."""
    with ends:
        machine = AdditionMachine(variant, phases=[phase])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        machine.cluster.lose_slot(stream)
        machine.teardown()


def _send_units(machine: AdditionMachine, *numbers: int) -> None:
    """Let the caller go on until units are sent, one after the other."""
    for number in numbers:
        while all(session.unit.number != number for session in machine.cluster.sessions):
            machine.go_on(1, 0, helped=False)


def _copy(machine: AdditionMachine, number: int, events: int = 10) -> None:
    """Let the oldest session that copies a unit go on."""
    session = next(session for session in machine.cluster.sessions if session.unit.number == number)
    for _ in range(events):
        if session in machine.cluster.sessions:
            machine.cluster.advance_session(session)


def _lose_a_session_and_the_snapshot(variant: Variant) -> tuple[AdditionMachine, Session]:
    """Send both parts of a table, cut the caller off from the first and the second from its snapshot; insert rows."""
    machine = AdditionMachine(variant, phases=["copied"])
    machine.call(peers=1, phase=0, rolls_back=False, rows=2)
    cluster = machine.cluster
    _send_units(machine, 0, 1)
    late, other = cluster.sessions
    _copy(machine, 0, 1)
    cluster.orphan(late)
    cluster.close_snapshot(SOURCE, late.asked)
    _copy(machine, 1)
    assert other.trouble is Trouble.STALE
    for _ in range(2):
        cluster.insert(SOURCE, Table.LOG)
    return machine, late


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "marks_compared"))
def test_a_unit_that_comes_late_with_an_old_snapshot_is_copied_again(variant: Variant, ends: Ends) -> None:
    """Its caller lost the connection to the session, took the copy back, and began again with a later snapshot."""
    with ends:
        machine, late = _lose_a_session_and_the_snapshot(variant)
        # The session first, then the snapshot.
        machine.go_on(1, 0, helped=False)
        machine.go_on(1, 1, helped=False)
        while not any(session.asked is not late.asked for session in machine.cluster.sessions):
            machine.go_on(1, 0, helped=False)
        _copy(machine, 0)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "parted_cleared"))
def test_a_unit_that_comes_late_while_another_of_its_bundle_waits_is_copied_again(variant: Variant, ends: Ends) -> None:
    """Its caller asks for it once more, finds it done under the lost snapshot, and gets a new one for the other."""
    with ends:
        machine, late = _lose_a_session_and_the_snapshot(variant)
        # The snapshot first, then the session.
        machine.go_on(1, 1, helped=False)
        while not any(session.unit.number == 0 and session is not late for session in machine.cluster.sessions):
            machine.go_on(1, 0, helped=False)
        _copy(machine, 0)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Leftover, "lanes_ended"))
def test_a_session_that_outlives_its_caller_leaves_nothing_behind(variant: Variant, ends: Ends) -> None:
    """It goes on with the unit that it was told, while the copy is taken back."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=True, rows=0)
        _send_units(machine, 0)
        _copy(machine, 0, 1)
        machine.kill_caller()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "lanes_ended", "marks_compared"))
def test_a_session_that_outlives_its_caller_copies_nothing_old(variant: Variant, ends: Ends) -> None:
    """The rows are taken back, because their snapshot ended with its caller, and then the session commits."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        cluster = machine.cluster
        _send_units(machine, 0, 1)
        _copy(machine, 0, 1)
        _copy(machine, 1)
        machine.kill_caller()
        for _ in range(2):
            cluster.insert(SOURCE, Table.LOG)
        machine.call_again()
        while 1 in cluster.nodes[NEW].live.marks:
            machine.go_on(1, 0, helped=False)
        for session in list(cluster.sessions):
            _copy(machine, session.unit.number)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Different, "unit_marked"))
def test_a_unit_whose_caller_died_before_it_heard_is_not_copied_twice(variant: Variant, ends: Ends) -> None:
    """Its session ends as soon as the rows are there; only a mark in the same transaction tells the next caller."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        _send_units(machine, 0)
        _copy(machine, 0, 3)
        machine.kill_caller()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "unit_flushed"))
def test_a_unit_that_counts_as_done_outlives_a_crash_of_the_new_node(variant: Variant, ends: Ends) -> None:
    """The caller, who lives on, may have looked for the last time at what the node has."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        _send_units(machine, 0, 1)
        _copy(machine, 1)
        machine.go_on(1, 0, helped=False)
        machine.cluster.crash(NEW)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Stuck, "units_listed_first"))
def test_a_copy_whose_caller_died_before_it_knew_the_units_goes_on(variant: Variant, ends: Ends) -> None:
    """The subscription of the copy counts as the sign that all before it is done."""
    with ends:
        machine = AdditionMachine(variant, phases=["units"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        copy = Stream(SOURCE, NEW, "copy")
        titles = [step.title for step in machine.operation.steps if step.phase == "units"]
        while copy not in machine.cluster.nodes[NEW].live.subscriptions:
            machine.go_on(1, titles.index(f"create subscription {copy}"), helped=False)
        machine.kill_caller()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Stuck, "begun_stream_seen"))
def test_a_copy_whose_stream_was_disabled_is_not_copied_on_top_of_itself(variant: Variant, ends: Ends) -> None:
    """The marks of its units are gone when its stream begins: without them, nothing seems to be copied."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2, layout=4)
        machine.kill_caller()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "parted_cleared"))
def test_a_part_whose_session_is_lost_after_its_snapshot_takes_the_others_along(variant: Variant, ends: Ends) -> None:
    """It rests, the next unit gets a snapshot for all that is not done, and the other part is of the one before."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        cluster = machine.cluster
        _send_units(machine, 0, 1)
        last = cluster.sessions[1]
        _copy(machine, 0)
        _send_units(machine, 2)
        cluster.close_snapshot(SOURCE, last.asked)
        _copy(machine, 2)
        # What the other unit's lane finds out comes before what this one's does.
        machine.go_on(1, 0, helped=False)
        cluster.orphan(last)
        cluster.end_sessions(NEW)
        for _ in range(2):
            cluster.insert(SOURCE, Table.LOG)
        machine.go_on(1, 1, helped=False)
        while not any(session.asked is not last.asked for session in cluster.sessions):
            machine.go_on(1, 1, helped=False)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without(Lost, "kept_positions"))
def test_a_part_of_the_snapshot_before_the_kept_one_is_copied_again(variant: Variant, ends: Ends) -> None:
    """The caller lost the first snapshot with one part copied, and died when it had another one."""
    with ends:
        machine = AdditionMachine(variant, phases=["copied"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=2)
        cluster, operation = machine.cluster, machine.operation
        _send_units(machine, 0, 1)
        (lost,) = {session.asked for session in cluster.sessions}
        _copy(machine, 0)
        while operation.tasks[0].state != "done":
            machine.go_on(1, 0, helped=False)
        cluster.close_snapshot(SOURCE, lost)
        _copy(machine, 1)
        for _ in range(2):
            cluster.insert(SOURCE, Table.LOG)
        while operation.tasks[1].snapshot in (None, lost):
            machine.go_on(1, 1, helped=False)
        assert operation.tasks[1].spoiled
        operation.kill()
        operation.call()
        machine.teardown()


@pytest.mark.parametrize("variant", [RIGHT])
def test_a_copy_that_lost_sight_of_its_head_has_one_snapshot(variant: Variant) -> None:
    """Nobody knows then where the stream could begin, so that all rows are copied again."""
    machine = AdditionMachine(variant, phases=["copying"])
    machine.call(peers=1, phase=0, rolls_back=False, rows=2)
    machine.cluster.crash(SOURCE)
    for _ in range(100):
        if machine.operation.phase != "copied":
            machine.go_on(1, 0, helped=True)
    assert len({task.unit.bundle for task in machine.operation.tasks}) == 1
    _send_units(machine, 0, 1)
    _copy(machine, 0)
    machine.cluster.close_snapshot(SOURCE, machine.operation.snapshot)
    machine.cluster.insert(SOURCE, Table.LOG)
    machine.teardown()
    assert len({task.lsn for task in machine.operation.tasks}) == 1
