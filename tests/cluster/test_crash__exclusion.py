"""One operation at a time in a cluster; a node comes and goes without residue; a caller dies in the flip."""

from __future__ import annotations

import re
import threading
import time

import pytest

from support.calls import call, load_zodan
from support.clusters import MakeCluster
from support.crash import HeldCall, Stage, wait_unlocked
from support.parameters import some_slow
from support.tables import KEYED, assert_rows_equal, wait_level
from zodan_sql.sandbox import Node, wait_until

_CALLERS = 5
_REJOINS = 10
#: Spock's default, after which a pause ends by itself.
_PAUSE_TIMEOUT_S = 10.0


def test_of_two_callers_one_is_told(make_cluster: MakeCluster) -> None:
    stage = Stage(make_cluster)
    load_zodan(stage.source)
    arguments = stage.arguments["add_node"]
    won = set()
    for _ in range(_CALLERS):
        start = threading.Barrier(2)
        calls = {
            node.name: HeldCall(node, "before 1", "spock.add_node", arguments, start)
            for node in (stage.own, stage.source)
        }
        over = {name: call.is_over() for name, call in calls.items()}
        assert sorted(over.values()) == [False, True], {name: call.error for name, call in calls.items()}
        winner, loser = sorted(calls, key=lambda name: over[name])
        told = calls[loser].error
        assert told is not None
        assert told.sqlstate == "ZD110", told
        detail = told.diag.message_detail or ""
        assert re.search(rf'"zodan add_node {stage.own.name} by [0-9.a-f]+" from 127.0.0.1 since 20', detail)
        calls[loser].let_go()
        calls[winner].kill()
        wait_unlocked(stage.cluster.nodes)
        call(stage.cluster[winner], "zodan.rollback", p_operation=_newest(stage.cluster[winner]), p_dsns=stage.dsns)
        won.add(winner)
    stage.check_level()
    print(f"won by {sorted(won)}")


def _newest(node: Node) -> int:
    return int(node.execute("SELECT max(operation_id) FROM zodan.operation")[0][0])


@pytest.mark.slow
def test_a_node_comes_and_goes(make_cluster: MakeCluster) -> None:
    stage = Stage(make_cluster)
    for number in range(_REJOINS):
        begun = time.monotonic()
        stage.make_ready("remove_node")
        joined = time.monotonic()
        wait_level(stage.cluster.members)
        assert_rows_equal(stage.cluster.members)
        compared = time.monotonic()
        # It looks for residue itself.
        stage.make_ready("add_node")
        print(f"{number + 1}: joined in {joined - begun:.1f} s, left in {time.monotonic() - compared:.1f} s")
    stage.check_level()


@pytest.mark.parametrize(
    "point",
    some_slow(["detached", "positions read", "level", "switched"], quick=("detached",)),
)
def test_a_caller_that_dies_in_the_flip_leaves_nothing_paused(make_cluster: MakeCluster, point: str) -> None:
    stage = Stage(make_cluster, pause_timeout_s=_PAUSE_TIMEOUT_S)
    ordinal = _in_the_flip(stage, point)
    with stage.writers() as writers:
        held = HeldCall(stage.own, f"after {ordinal}", "spock.add_node", stage.arguments["add_node"])
        begun = time.monotonic()
        held.kill()
        row = _write(stage.peer)
        wait_until(lambda: "" if _has(stage.source, row) else "no row", _PAUSE_TIMEOUT_S + 5, "the source to apply")
        print(f"applied again {time.monotonic() - begun:.1f} s after the caller died")
        wait_unlocked(stage.cluster.nodes)
        stage.resume("add_node", call_again=True)
    assert not writers.failures, writers.failures
    stage.note_end("add_node")
    stage.check_level()


def _in_the_flip(stage: Stage, point: str) -> int:
    steps = stage.steps("add_node")
    phases = {"positions read": "positions", "level": "caught_up", "detached": "confirm", "switched": "switch"}
    return next(step.ordinal for step in steps if step.phase_name == phases[point])


def _write(node: Node) -> int:
    key = -1_000_000
    node.execute(f"INSERT INTO {KEYED} VALUES (%(key)s, %(name)s, 0)", {"key": key, "name": node.name})
    return key


def _has(node: Node, key: int) -> bool:
    return bool(node.execute(f"SELECT 1 FROM {KEYED} WHERE id = %(key)s", {"key": key}))
