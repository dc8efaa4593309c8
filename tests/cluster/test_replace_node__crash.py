"""A replacement whose caller is killed at a step of either half: resumed, or rolled back until the removal begins."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import call, load_zodan, state
from support.clusters import MakeCluster
from support.crash import ChainWatch, HeldCall, wait_unlocked
from support.parameters import some_slow
from support.replacing import arguments, check_replaced, note_replaced
from support.tables import KEYLESS, TABLES, create_tables, fill, wait_level
from support.writers import RARELY_S, Writers
from zodan_sql.sandbox import Cluster

#: Short: nobody writes on the old node here.
_QUIET = "0.3 s"
#: Rests of a writer: enough writes for every race, few enough rows to compare them after every case.
#: Phases of the join, of what is between the halves, and of the removal: the call dies before their first step.
_JOIN = ("slot", "copied", "prepare", "switch", "way_back", "whole")
_BETWEEN = ("joined", "beside", "quiet")
_REMOVAL = ("unpublish", "drained", "leave", "forget", "drop", "proven")


class Stage:
    """Two members that stay, and two nodes that replace each other in turn."""

    def __init__(self, make_cluster: MakeCluster) -> None:
        self.cluster: Cluster = make_cluster(members=3, blanks=1)
        self.old, *self.stay = self.cluster.members
        (self.new,) = self.cluster.blanks
        create_tables(self.cluster)
        fill(self.stay[0], 1000)
        wait_level(self.cluster.members)
        load_zodan(self.old)
        load_zodan(self.new)
        self._series = 0

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of the next replacement."""
        return arguments(self.old, self.new, quiet=_QUIET)

    def ordinal(self, phase: str, last: bool) -> int:
        """Return the ordinal of the first step of a phase, or of the last phase of that name."""
        names = ", ".join(f"{name} => %({name})s" for name in self.given)
        rows = self.new.execute(
            f"SELECT min(ordinal) FROM zodan.plan_replace_node({names}) WHERE phase_name = %(phase)s"
            " GROUP BY phase ORDER BY phase",
            {**self.given, "phase": phase},
        )
        return int(rows[-1 if last else 0][0])

    def writers(self) -> Writers:
        """Return writers on the nodes that stay, with keys that no others had."""
        self._series += 1
        self.old.execute(
            f"INSERT INTO {KEYLESS} SELECT %(name)s, %(series)s * 1000 + i, 'last' FROM generate_series(1, 300) i",
            {"name": self.old.name, "series": self._series},
        )
        watch = ChainWatch([*self.cluster.nodes], inserter=self.stay[-1])
        return Writers(self.stay, series=self._series, pause_s=RARELY_S, may_hand_over=watch.has_come)

    def kill(self, phase: str, last: bool) -> None:
        """Call, and kill the call before a phase."""
        held = HeldCall(self.new, f"before {self.ordinal(phase, last)}", "zodan.replace_node", self.given)
        held.kill()
        wait_unlocked(self.cluster.nodes)

    @property
    def number(self) -> int:
        """The number of the last operation."""
        return int(self.new.execute("SELECT max(operation_id) FROM zodan.operation")[0][0])

    def resume(self, again: bool) -> None:
        """Finish the operation, by the same call or by zodan.resume."""
        if again:
            call(self.new, "zodan.replace_node", **self.given)
        else:
            dsns = Jsonb({self.old.name: self.old.dsn(), self.new.name: self.new.dsn()})
            call(self.new, "zodan.resume", p_operation=self.number, p_dsns=dsns)

    def rollback(self) -> None:
        """Roll the operation back."""
        dsns = Jsonb({self.old.name: self.old.dsn(), self.new.name: self.new.dsn()})
        call(self.new, "zodan.rollback", p_operation=self.number, p_dsns=dsns)

    def turn(self) -> None:
        """Check that the new node has replaced the old one, and make the old one ready to replace the new one."""
        note_replaced(self.cluster, self.old, self.new)
        check_replaced(self.cluster, self.old)
        self.old.execute(f"DROP TABLE {', '.join(TABLES)}")
        self.cluster.blanks.append(self.old)
        self.old, self.new = self.new, self.old


@pytest.fixture(scope="module")
def stage(make_module_cluster: MakeCluster) -> Stage:
    return Stage(make_module_cluster)


@pytest.mark.parametrize("phase", some_slow([*_JOIN, *_BETWEEN, *_REMOVAL], ("switch", "leave")))
def test_killed_and_resumed(stage: Stage, phase: str) -> None:
    with stage.writers() as writers:
        stage.kill(phase, last=phase in _REMOVAL)
        stage.resume(again=stage.number % 2 == 0)
    assert writers.failures == []
    stage.turn()


@pytest.mark.parametrize("phase", some_slow(["copied", "switch", *_BETWEEN], ("quiet",)))
def test_killed_and_rolled_back(stage: Stage, phase: str) -> None:
    before: Any = state(stage.cluster.nodes)
    with stage.writers() as writers:
        stage.kill(phase, last=False)
        stage.rollback()
    assert writers.failures == []
    assert state(stage.cluster.nodes) == before
    check_replaced(stage.cluster)


@pytest.mark.parametrize("phase", some_slow(["settled", "forget"], ("settled",)))
def test_not_rolled_back_once_the_removal_has_begun(stage: Stage, phase: str) -> None:
    with stage.writers() as writers:
        stage.kill(phase, last=True)
        before: Any = state(stage.cluster.nodes)
        with pytest.raises(psycopg.Error) as refused:
            stage.rollback()
        assert refused.value.sqlstate == "ZD007"
        assert f"zodan.resume({stage.number})" in str(refused.value.diag.message_hint)
        assert state(stage.cluster.nodes) == before
        stage.resume(again=True)
    assert writers.failures == []
    stage.turn()
