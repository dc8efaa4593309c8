"""Whatever dies between two units of a copy or inside one, the copy goes on, or is taken back; no unit comes twice.

A part of a sample runs always; the rest of it, and all cases, are slow.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass
from typing import Literal

import pytest

from support.calls import state
from support.clusters import MakeCluster
from support.crash import ENDINGS, Ending, HeldCall, Stage, keepers, wait_unlocked
from support.parameters import some_slow
from support.tables import add_to_sets, wait_level

#: In three parts, and with indexes that are built afterwards.
_LARGE = """
CREATE TABLE large (id int PRIMARY KEY, value int, filler text);
CREATE INDEX large_value ON large (value);
CREATE INDEX large_filler ON large (left(filler, 3), id);
"""
_FILL = "INSERT INTO large SELECT i, i % 100, repeat('x', 900) FROM generate_series(1, 22000) i"
_JOBS = 2
#: Where the executor stops: a phase, what has happened, and the number of the unit.
_POINTS = (
    "copied opening 1",
    "copied snapshot 1",
    "copied copying 1",
    "copied done 1",
    "copied copying 2",
    "copied done 2",
    "copied copying 3",
    "copied done 3",
    "copied copying 4",
    "copied done 4",
    "indexes copying 1",
    "indexes done 1",
    "indexes done 3",
)
Fault = Literal["caller", "own node", "source", "connections"]
_FAULTS: tuple[Fault, ...] = ("caller", "own node", "source", "connections")
_SEED = 20261127


@dataclass(frozen=True)
class UnitCase:
    """A point, what breaks there, and how the operation ends."""

    point: str
    fault: Fault
    ending: Ending


_ALL = [UnitCase(point, fault, ending) for point in _POINTS for fault in _FAULTS for ending in ENDINGS]


def _sample() -> list[UnitCase]:
    """Return a case for each point, every fault and ending about equally often."""
    chosen = random.Random(_SEED)
    ways = [(fault, ending) for fault in _FAULTS for ending in ENDINGS] * 2
    chosen.shuffle(ways)
    return [UnitCase(point, *way) for point, way in zip(_POINTS, ways, strict=False)]


class Units(Stage):
    """A stage with a large table, whose joins are broken at units."""

    def __init__(self, make_cluster: MakeCluster) -> None:
        super().__init__(make_cluster, more_tables=_LARGE)
        for node in self.cluster.members:
            add_to_sets(node, {"large": "default"})
        self.source.execute(_FILL)
        wait_level(self.cluster.members)
        self.arguments["add_node"]["jobs"] = _JOBS

    def run_unit(self, case: UnitCase) -> str:
        """Break a join as a case says, end it, and check everything; return its letter as run does."""
        self.make_ready("add_node")
        with self.writers() as writers:
            held = HeldCall(self.own, case.point, "spock.add_node", self.arguments["add_node"])
            if case.fault == "caller":
                held.kill()
            elif case.fault == "connections":
                self.own.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'zodan\\_copy%' AND backend_type = 'client backend'"
                )
                self.source.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'zodan snapshot%'"
                )
                held.let_go()
            else:
                node = {"own node": self.own, "source": self.source}[case.fault]
                with writers.excused(node):
                    node.restart("immediate")
                    self._wake_stand_in()
                held.let_go()
            wait_unlocked(self.cluster.nodes)
            done_before = self.done_units()
            if held.error is None:
                letter = "D"
            elif case.ending == "resume":
                self.resume("add_node", call_again=case.fault != "source")
                letter = "R"
            else:
                self.rollback()
                letter = "B"
        assert not writers.failures, writers.failures
        assert not keepers(self.source), "the snapshot is still kept"
        if letter == "B":
            assert state(self.cluster.nodes) == self._blank_state
            return letter
        again = [unit for unit in done_before if unit not in self.done_units()]
        assert not again, f"copied again: {again}"
        self.note_end("add_node")
        self.check_level_after(case)
        return letter

    def done_units(self) -> list[tuple[int, str]]:
        """Return the units that are done, of tables of which all are: the other parts lose their snapshot."""
        return self.own.execute(
            "SELECT number, lsn::text FROM zodan.unit AS u WHERE phase_name = 'copied' AND operation_id ="
            " (SELECT max(operation_id) FROM zodan.operation) AND NOT EXISTS (SELECT FROM zodan.unit AS o WHERE"
            " (o.operation_id, o.phase_name, o.bundle) = (u.operation_id, u.phase_name, u.bundle)"
            " AND o.state <> 'done')"
        )

    def check_level_after(self, case: UnitCase) -> None:
        wait_level(self.cluster.members)
        if case.fault in ("own node", "source") and self.cluster.engine.is_real:
            self._drop_doubles()
        self.check_level()


def _run(make_cluster: MakeCluster, cases: list[UnitCase]) -> None:
    stage: Units | None = None
    failures, letters = [], []
    for case in cases:
        try:
            stage = stage or Units(make_cluster)
            letters.append(f"{stage.run_unit(case)} {case}")
        except Exception:
            failures.append(f"{case}\n{traceback.format_exc()}\n{stage.describe() if stage else ''}")
            stage = None
    print("\n".join(letters))
    assert not failures, "\n\n".join(failures)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", some_slow(range(6), quick=(0,)))
def test_a_sample_of_units(make_cluster: MakeCluster, part: int) -> None:
    _run(make_cluster, _sample()[part::6])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fault", _FAULTS)
def test_every_unit(make_cluster: MakeCluster, fault: Fault, ending: Ending) -> None:
    _run(make_cluster, [case for case in _ALL if (case.fault, case.ending) == (fault, ending)])
