"""What the model has found in earlier plans, one interleaving each, and that each has its safeguard."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest

from model.cluster_model import Doubled, Lost, Stream, Stuck, Violation
from model.machines import NEW, SOURCE, TARGET, AdditionMachine, RemovalMachine
from model.protocol import RIGHT, Variant

Ends = AbstractContextManager[Any]


def _with_and_without(safeguard: str, violation: type[Violation]) -> list[tuple[Variant, Ends]]:
    """Return the plan as it is, which holds, and the plan without a safeguard, which goes wrong like this."""
    return [(RIGHT, nullcontext()), (replace(RIGHT, **{safeguard: False}), pytest.raises(violation))]


@pytest.mark.parametrize(("variant", "ends"), _with_and_without("copy_begun_anew", Lost))
def test_a_flip_that_is_taken_back_after_the_copy_was_disabled_loses_nothing(variant: Variant, ends: Ends) -> None:
    """The copy's worker is stopped inside a transaction; enabled again, it meets that transaction and discards it."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster, copy = machine.cluster, Stream(SOURCE, NEW, "copy")
        assert not cluster.nodes[NEW].live.subscriptions[copy].enabled
        cluster.insert(SOURCE, keyed=False)
        assert cluster.begin_apply(copy)
        cluster.stop_worker(copy)
        machine.kill_caller()
        machine.call_again()
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without("copy_ended", Doubled))
def test_a_copy_whose_connection_is_lost_as_it_ends_brings_nothing_twice(variant: Variant, ends: Ends) -> None:
    """Its slot is let go of while its worker still ends a transaction that the direct stream then sends again."""
    with ends:
        machine = AdditionMachine(variant, phases=["detached"])
        machine.call(peers=1, phase=0, rolls_back=False, rows=0)
        cluster, copy, direct = machine.cluster, Stream(SOURCE, NEW, "copy"), Stream(SOURCE, NEW)
        cluster.insert(SOURCE, keyed=False)
        assert cluster.begin_apply(copy)
        cluster.lose_connection(copy)
        for _ in range(20):
            if not cluster.nodes[NEW].live.subscriptions[direct].enabled:
                machine.go_on(1, 0, helped=False)
        if copy in cluster.workers:
            cluster.apply(copy)
        machine.teardown()


@pytest.mark.parametrize(("variant", "ends"), _with_and_without("drained_once", Stuck))
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


@pytest.mark.parametrize(("variant", "ends"), _with_and_without("clean_takes_back_own", Stuck))
def test_a_join_that_has_cleared_nothing_yet_can_be_taken_back(variant: Variant, ends: Ends) -> None:
    """An origin of an earlier N is no work of this operation: no rollback drops it, and its proof stops at it."""
    with ends:
        machine = AdditionMachine(variant)
        machine.call(peers=1, phase=0, rolls_back=True, rows=0, stale=True)
        machine.kill_caller()
        machine.teardown()
