"""The model has teeth: with a safeguard left out, hypothesis finds what goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from model.cluster_model import Dangling, Different, Doubled, Leftover, Lost, Returned, Stuck, Torn, Violation
from model.machines import AdditionMachine, ClusterMachine, Fault, RemovalMachine
from model.protocol import RIGHT

EXAMPLES = 3000

#: Safeguards of the copy of the rows: small steps, and no rollback, which would take the harm back too.
COPYING = ["snapshot_lsn", "rewrites_seen", "old_times", "unit_marked", "copy_emptied", "stream_from_snapshot"]

#: Those that only several snapshots need.
BUNDLES = ["head_sent", "head_before_snapshots", "head_proved", "stream_from_head", "stream_before_snapshots"]
BUNDLES += ["stream_before_last", "own_positions", "files_compared", "bundle_whole", "parted_cleared"]
BUNDLES += ["keeper_known"]

FOCUS = {
    "origins_cleared": ["mark", "switch"],
    "way_back_slots_first": ["resume", "way_back"],
    "resume_looks": ["switch"],
    "kept_connections": ["caught_up", "detach"],
    "confirm": ["pause", "positions", "caught_up"],
    "position_of_copy": ["caught_up", "detach", "detached"],
    "own_copy": ["detach", "detached"],
    "copy_begun_anew": ["detach", "detached"],
    "durable": ["leave"],
    "drained_once": ["leave"],
    "clean_takes_back_own": ["clean"],
    "stream_end": ["switch", "enable"],
    "durable_turn": ["enable", "resume", "way_back"],
    "take_back_resumes_apply": ["pause", "positions"],
    "approach_again": ["mark", "caught_up"],
    "copy_takes_all_back": ["detached", "confirm"],
    "begun_stream_seen": ["detach", "detached"],
    "keepers_ended": ["copied"],
    **{safeguard: ["copied"] for safeguard in [*COPYING, *BUNDLES]},
}

#: What has to go wrong beside a death; nothing for those that are not here.
FAULTS: dict[str, list[Fault]] = {
    "durable_turn": ["switch off"],
    "discards_seen": ["discard"],
    "rewrites_seen": ["rewrite"],
    "restarts_seen": ["forget"],
    "slots_seen": ["lose slot"],
    "approach_again": ["lose slot"],
    **{safeguard: ["cut off"] for safeguard in BUNDLES},
    "parted_cleared": ["cut off", "rewrite"],
}

GAP = (Lost, Dangling, Different)
"""A commit that never comes shows as itself, or by what builds on it."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("machine", "left_out", "found"),
    [
        # The position of an earlier N's origin would pass for the turn.
        (AdditionMachine, ["origins_cleared", "durable_turn"], GAP),
        (AdditionMachine, ["forwarded_copy"], GAP),
        (AdditionMachine, ["own_copy"], GAP),
        # That a slot is beyond the position of its stream would be seen in the flip.
        (AdditionMachine, ["barrier", "slots_seen"], GAP),
        (AdditionMachine, ["advance_confirmed", "slots_seen"], GAP),
        (AdditionMachine, ["pause", "confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["confirm"], (Doubled, *GAP)),
        (AdditionMachine, ["stream_end"], (Doubled,)),
        (AdditionMachine, ["forwarding_off"], (Doubled,)),
        (AdditionMachine, ["peer_slots_first", "slots_seen"], GAP),
        (AdditionMachine, ["way_back_slots_first"], GAP),
        (AdditionMachine, ["position_of_source"], GAP),
        (AdditionMachine, ["position_of_copy"], (Doubled,)),
        (AdditionMachine, ["copy_dropped"], (Leftover,)),
        (AdditionMachine, ["resume_looks"], (Stuck, Doubled, *GAP)),
        (AdditionMachine, ["take_back_resumes_apply"], (Leftover,)),
        (AdditionMachine, ["kept_connections"], GAP),
        (AdditionMachine, ["copy_begun_anew", "discards_seen"], GAP),
        (AdditionMachine, ["clean_takes_back_own"], (Stuck,)),
        (AdditionMachine, ["durable_turn"], (Stuck, Doubled, *GAP)),
        (AdditionMachine, ["copy_takes_all_back"], (Returned,)),
        (AdditionMachine, ["discards_seen"], GAP),
        (AdditionMachine, ["snapshot_lsn"], (Doubled, *GAP)),
        (AdditionMachine, ["rewrites_seen"], GAP),
        (AdditionMachine, ["old_times"], GAP),
        # Rows with a key cannot come twice: no call gets past them.
        (AdditionMachine, ["unit_marked"], (Stuck, *GAP)),
        (AdditionMachine, ["copy_emptied"], (Doubled, *GAP)),
        (AdditionMachine, ["stream_from_snapshot"], (Doubled, *GAP)),
        # With the lock of the head it would be seen that the stream did not begin there.
        (AdditionMachine, ["head_sent", "head_proved"], GAP),
        (AdditionMachine, ["stream_before_snapshots", "head_proved"], GAP),
        (AdditionMachine, ["stream_before_last", "head_proved"], GAP),
        (AdditionMachine, ["stream_from_head"], GAP),
        (AdditionMachine, ["head_before_snapshots"], GAP),
        (AdditionMachine, ["head_proved"], GAP),
        (AdditionMachine, ["own_positions"], GAP),
        (AdditionMachine, ["files_compared"], (Torn, *GAP)),
        (AdditionMachine, ["bundle_whole", "parted_cleared"], (Doubled, *GAP)),
        (AdditionMachine, ["parted_cleared"], GAP),
        (AdditionMachine, ["keeper_known"], (Doubled, *GAP)),
        (AdditionMachine, ["keepers_ended"], (Leftover,)),
        (AdditionMachine, ["begun_stream_seen"], (Stuck, Doubled, *GAP)),
        (AdditionMachine, ["restarts_seen"], GAP),
        (AdditionMachine, ["slots_seen"], (Stuck,)),
        (AdditionMachine, ["approach_again", "slots_seen"], (Stuck, *GAP)),
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
    focus: dict[str, Any] = {"phases": FOCUS[left_out[0]]} if left_out[0] in FOCUS else {}
    if machine is AdditionMachine:
        focus["faults"] = FAULTS.get(left_out[0], [])
    if left_out[0] == "kept_connections":
        focus["pace"] = 2
    if left_out[0] in (*COPYING, *BUNDLES):
        focus |= {"takes_back": False, "pace": 2}
    if left_out[0] in BUNDLES:
        # Long schedules find most of it.
        focus["turns"] = 60
    variant = replace(RIGHT, **dict.fromkeys(left_out, False))
    with pytest.raises(found):
        run_state_machine_as_test(
            lambda: machine(variant, **focus),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=5 if left_out[0] in BUNDLES else 20,
                # What is found is not made smaller: that takes longer than finding it.
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                deadline=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
