"""The protocols hold under every interleaving that was tried.

ZODAN_EXAMPLES says how many; the marker slow tries long ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from model.machines import AdditionMachine, ClusterMachine, RemovalMachine

FEW = 300
EXAMPLES = int(os.environ.get("ZODAN_EXAMPLES", FEW))


def run(make: Callable[[], ClusterMachine], examples: int, events: int) -> None:
    """Run a machine that many times, with that many events after each head start."""
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=examples,
            stateful_step_count=events,
            derandomize=examples <= FEW,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", [AdditionMachine, RemovalMachine])
def test_nothing_is_lost_doubled_or_left(make: Callable[[], ClusterMachine]) -> None:
    run(make, EXAMPLES, 20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("make", [AdditionMachine, RemovalMachine])
def test_nothing_is_lost_doubled_or_left__for_long(make: Callable[[], ClusterMachine]) -> None:
    run(make, 2500, 60)
