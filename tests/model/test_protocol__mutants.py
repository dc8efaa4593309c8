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

FOCUS = {"resume_looks": ["switch"], "kept_connections": ["caught up", "detach"]}

GAP = (Lost, Dangling, Different)
"""A commit that never comes shows as itself, or by what builds on it."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("machine", "left_out", "found"),
    [
        (AdditionMachine, ["forwarded_copy"], GAP),
        (AdditionMachine, ["barrier"], GAP),
        (AdditionMachine, ["pause", "confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["stream_end"], (Doubled,)),
        (AdditionMachine, ["forwarding_off"], (Doubled,)),
        (AdditionMachine, ["peer_slots_first"], GAP),
        (AdditionMachine, ["way_back_slots_first"], GAP),
        (AdditionMachine, ["position_of_source"], GAP),
        (AdditionMachine, ["resume_looks"], (Stuck, Doubled)),
        (AdditionMachine, ["take_back_resumes_apply"], (Leftover,)),
        (AdditionMachine, ["kept_connections"], GAP),
        (RemovalMachine, ["drain"], GAP),
        (RemovalMachine, ["unpublish"], GAP),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, list) else "",
)
def test_without(machine: type[ClusterMachine], left_out: list[str], found: tuple[type[Violation], ...]) -> None:
    # Two need a death at one moment: the search begins there.
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
