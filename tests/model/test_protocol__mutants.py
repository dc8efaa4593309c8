"""The model has teeth: with a safeguard left out, hypothesis finds what goes wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from model.cluster_model import Dangling, Different, Doubled, Leftover, Lost, Stuck, Violation
from model.machines import AdditionMachine, ClusterMachine, RemovalMachine
from model.protocol import RIGHT

EXAMPLES = 3000

FOCUS = {
    "origins_cleared": ["mark", "switch"],
    "way_back_slots_first": ["resume", "way back"],
    "resume_looks": ["switch"],
    "kept_connections": ["caught up", "detach"],
    "confirm": ["pause", "positions", "caught up"],
    "own_copy": ["detach", "detached"],
    "copy_begun_anew": ["detach", "detached"],
    "durable": ["leave"],
    "drained_once": ["leave"],
    "clean_takes_back_own": ["clean"],
}

GAP = (Lost, Dangling, Different)
"""A commit that never comes shows as itself, or by what builds on it."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("machine", "left_out", "found"),
    [
        (AdditionMachine, ["origins_cleared"], GAP),
        (AdditionMachine, ["forwarded_copy"], GAP),
        (AdditionMachine, ["own_copy"], GAP),
        (AdditionMachine, ["barrier"], GAP),
        (AdditionMachine, ["pause", "confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["stream_end"], (Doubled,)),
        (AdditionMachine, ["forwarding_off"], (Doubled,)),
        (AdditionMachine, ["peer_slots_first"], GAP),
        (AdditionMachine, ["way_back_slots_first"], GAP),
        (AdditionMachine, ["position_of_source"], GAP),
        (AdditionMachine, ["position_of_copy"], (Doubled,)),
        (AdditionMachine, ["copy_dropped"], (Leftover,)),
        (AdditionMachine, ["resume_looks"], (Stuck, Doubled, *GAP)),
        (AdditionMachine, ["take_back_resumes_apply"], (Leftover,)),
        (AdditionMachine, ["kept_connections"], GAP),
        (AdditionMachine, ["copy_begun_anew"], GAP),
        (AdditionMachine, ["clean_takes_back_own"], (Stuck,)),
        (RemovalMachine, ["drain"], GAP),
        (RemovalMachine, ["unpublish"], GAP),
        (RemovalMachine, ["settled"], GAP),
        (RemovalMachine, ["durable"], GAP),
        (RemovalMachine, ["drained_once"], (Stuck,)),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, list) else "",
)
def test_without(machine: type[ClusterMachine], left_out: list[str], found: tuple[type[Violation], ...]) -> None:
    # Some need a death at one moment: the search begins there.
    focus = {"phases": FOCUS[left_out[0]]} if left_out[0] in FOCUS else {}
    variant = replace(RIGHT, **dict.fromkeys(left_out, False))
    with pytest.raises(found):
        run_state_machine_as_test(
            lambda: machine(variant, **focus),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=20,
                # What is found is not made smaller: that takes longer than finding it.
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                deadline=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
