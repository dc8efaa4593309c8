"""A member is replaced by a physical copy in one command: exactly, resumed wherever it was killed, or taken back."""

from __future__ import annotations

import signal
import subprocess
from typing import Any

import psycopg
import pytest

from support.calls import load_zodan, state
from support.clones import clone, make_place, record_of, replace, replace_words
from support.clusters import MakeCluster
from support.crash import ChainWatch, HeldCall, wait_unlocked
from support.objects import at
from support.replacing import arguments, check_replaced, note_replaced
from support.shell import Ended, end, start
from support.tables import create_tables, fill, wait_level
from support.writers import RARELY_S, Writers
from zodan_sql.cloning.clone import STEPS
from zodan_sql.sandbox import Cluster, Node, SandboxError, wait_until
from zodan_sql.sandbox.mesh import wait_replicating

_KILLED = 9
_BUDGET_S = 120.0
#: Where a test moves no application: nobody writes on the old node, and one test of the comparison is enough.
_SHORT = ("--quiet", "0.3", "--no-verify")
_SHORT_ARGUMENTS = {"quiet": "0.3 s", "verify": False}
#: Rests of a writer: enough writes for every race, few enough rows to compare them after every case.
_RUNS = "SELECT 1 FROM zodan.step WHERE phase_name = %(phase)s AND state = 'running'"
_WAITED = "SELECT 1 FROM zodan.step WHERE phase_name = 'quiet' AND clock_timestamp() - started_at > interval '7 s'"


class Stage:
    """Members that stay, one that is replaced, and a place for the copy that replaces it. The two take turns."""

    def __init__(self, make_cluster: MakeCluster) -> None:
        self.cluster: Cluster = make_cluster(members=3, blanks=1)
        self.old, *self.stay = self.cluster.members
        self.new = make_place(self.cluster, "n4")
        create_tables(self.cluster)
        fill(self.stay[0], 1000)
        wait_level(self.cluster.members)
        self._series = 0

    def writers(self, *more: Node) -> Writers:
        """Return writers on the nodes that stay, and on ``more``, with keys that no others had."""
        self._series += 1
        nodes = [*more, *self.stay]
        watch = ChainWatch([*self.cluster.members, *more], inserter=nodes[-1])
        return Writers(nodes, series=self._series, pause_s=RARELY_S, may_hand_over=watch.has_come)

    def replace(self, *more: str, **environment: str) -> Ended:
        """Call."""
        return replace(self.old, self.new, *_SHORT, *more, **environment)

    def kill_at(self, step: str, *more: str) -> None:
        """Call, and have the call end as if it had been killed."""
        ended = self.replace(*more, ZODAN_CLONE_HOOK=step)
        assert ended.code == _KILLED, ended.err + ended.out

    def kill_in(self, phase: str, last: bool = False) -> None:
        """Have the copy started, then call in psql, and kill that call before a phase, or the last of that name."""
        self.kill_at("start")
        load_zodan(self.new)
        given = arguments(self.old, self.new, copy="present", **_SHORT_ARGUMENTS)
        names = ", ".join(f"{name} => %({name})s" for name in given)
        rows = self.new.execute(
            f"SELECT min(ordinal) FROM zodan.plan_replace_node({names}) WHERE phase_name = %(phase)s"
            " GROUP BY phase ORDER BY phase",
            given | {"phase": phase},
        )
        HeldCall(self.new, f"before {rows[-1 if last else 0][0]}", "zodan.replace_node", given).kill()
        wait_unlocked([*self.cluster.members, self.new])

    def await_phase(self, phase: str, call: subprocess.Popen[str]) -> None:
        """Wait until a step of a phase is under way."""

        def missing() -> str:
            assert call.poll() is None, end(call)
            try:
                return "" if self.new.execute(_RUNS, {"phase": phase}) else f"no step of {phase} runs"
            except psycopg.Error as error:
                return str(error)

        wait_until(missing, _BUDGET_S, f"phase {phase}")

    def kill(self, call: subprocess.Popen[str]) -> Ended:
        """Kill a call, and wait until its sessions have noticed that it is gone."""
        call.send_signal(signal.SIGKILL)
        ended = end(call)
        wait_unlocked([*self.cluster.members, self.new])
        return ended

    def turn(self) -> None:
        """Check that the new node has replaced the old one, and let the two take turns."""
        assert not record_of(self.new).exists()
        note_replaced(self.cluster, self.old, self.new)
        check_replaced(self.cluster, self.old)
        self.cluster.blanks.append(self.old)
        self.new, self.old = make_place(self.cluster, self.old.name), self.new

    def check_undone(self, before: dict[str, Any]) -> None:
        """Check that the members are as they were, and that nothing is left that could start."""
        assert state(self.cluster.members) == before
        assert not record_of(self.new).exists()
        with pytest.raises(SandboxError):
            self.new.start()
        make_place(self.cluster, self.new.name)
        check_replaced(self.cluster)


@pytest.fixture(scope="module")
def stage(make_module_cluster: MakeCluster) -> Stage:
    return Stage(make_module_cluster)


def test_under_writers_and_killed_while_it_waits_for_them(stage: Stage) -> None:
    old, new = stage.old, stage.new
    with stage.writers(old) as before:
        call = start(*replace_words(old, new))
        stage.await_phase("quiet", call)
        # It waits for as long as users write on the old node, which is longer than they have to be quiet.
        wait_until(lambda: "" if new.execute(_WAITED) else "it has just begun", _BUDGET_S, "the wait to go on")
        assert new.execute("SELECT 1 FROM zodan.step WHERE phase_name = 'quiet' AND state = 'running'") != []
        first = stage.kill(call)
        call = start(*replace_words(old, new))
        stage.await_phase("quiet", call)
        # The application moves while the removal waits for that.
        with stage.writers(new) as beside:
            wait_level([*stage.cluster.members, new])
            before.stop()
            ended = end(call)
    assert ended.code == 0, ended.err
    assert "has replaced" in ended.out
    # The copy's own slot is nobody's outside the cluster.
    assert "outside subscriber" not in first.err + ended.err
    assert before.failures == beside.failures == []
    assert new.execute("SELECT kind, state FROM zodan.operation") == [("replace_node", "done")]
    assert new.execute("SELECT 1 FROM zodan.compared WHERE result <> 'equal'") == []
    assert new.execute("SELECT count(*) > 0 FROM zodan.compared") == [(True,)]
    stage.turn()


@pytest.mark.slow
def test_once_the_removal_has_begun_it_can_only_go_on(stage: Stage) -> None:
    with stage.writers() as writers:
        stage.kill_in("leave", last=True)
        before: Any = state([*stage.cluster.members, stage.new])
        for words, refused in (
            ("zodan-sql replace-node --clone", clone(stage.old, stage.new, "--rollback")),
            ("can no longer be rolled back", stage.replace("--rollback")),
        ):
            assert refused.code == 2, refused.err
            assert words in refused.err
        assert state([*stage.cluster.members, stage.new]) == before
        stage.kill_at("join")
    refused = stage.replace("--rollback")
    assert "has replaced" in refused.err
    assert refused.code == 2
    ended = stage.replace()
    assert ended.code == 0, ended.err
    assert writers.failures == []
    stage.turn()


@pytest.mark.slow
def test_before_the_removal_it_is_taken_back(stage: Stage) -> None:
    before: Any = state(stage.cluster.members)
    with stage.writers() as writers:
        stage.kill_in("quiet")
        ended = stage.replace("--rollback", "--empty-pgdata")
        assert ended.code == 0, ended.err
    assert writers.failures == []
    stage.check_undone(before)


def test_a_dry_run_checks_the_removal_too_and_changes_nothing(stage: Stage) -> None:
    old, stays = stage.old, stage.stay[0]
    before: Any = state(stage.cluster.members)
    ended = stage.replace("--dry-run", "--soak", "1h")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert f"make the slot of the copy on {old.name}" in lines
    assert lines[-4:] == [
        f"join {stage.new.name}",
        "watch the streams of the new node for 1 h",
        f"wait until users no longer write on {old.name}",
        f"remove {old.name}",
    ]
    # What is only in the way of the removal: the copy would have been made from another member, from which all goes.
    (name,) = stays.execute(
        "SELECT sub_name FROM spock.subscription JOIN spock.node ON node_id = sub_origin WHERE node_name = %(old)s",
        {"old": old.name},
    )[0]
    at(stays, f"SELECT spock.sub_disable('{name}', true)")
    source = ["--src-node-name", stage.stay[1].name, "--src-dsn", stage.stay[1].dsn()]
    try:
        refused = stage.replace("--dry-run", *source)
        no_member = stage.replace("--dry-run", "--old-node-name", "n9")
    finally:
        at(stays, f"SELECT spock.sub_enable('{name}', true)")
        wait_replicating(stage.cluster.members)
    assert refused.code == 3
    assert f"{old.name} -> {stays.name}: drains: disabled" in refused.err
    assert no_member.code == 2
    assert state(stage.cluster.members) == before
    assert not stage.new.data_dir.exists()


def test_the_record_of_a_clone_is_not_that_of_a_replacement(stage: Stage) -> None:
    before: Any = state(stage.cluster.members)
    assert clone(stage.old, stage.new, ZODAN_CLONE_HOOK="slot").code == _KILLED
    refused = stage.replace()
    assert refused.code == 2
    assert "zodan-sql clone with" in refused.err
    assert clone(stage.old, stage.new, "--rollback").code == 0
    assert state(stage.cluster.members) == before


@pytest.mark.slow
def test_a_join_by_hand_ends_the_copy_and_says_that_the_old_node_is_there(stage: Stage) -> None:
    stage.kill_at("start")
    load_zodan(stage.new)
    given = arguments(stage.old, stage.new, copy="present")
    source = {"src_node_name": given.pop("old_node_name"), "src_dsn": given.pop("old_node_dsn")}
    HeldCall(stage.new, "before 17", "spock.add_node", given | source).kill()
    wait_unlocked([*stage.cluster.members, stage.new])
    refused = stage.replace()
    assert refused.code == 2
    assert "call of add_node" in refused.err
    assert "zodan-sql resume 1" in refused.err
    resumed = start("resume", "1", "--dsn", stage.new.dsn())
    assert end(resumed).code == 0
    assert "has joined" in stage.replace("--rollback").err
    ended = stage.replace()
    assert ended.code == 6
    assert f"does not remove {stage.old.name}" in ended.err
    assert not record_of(stage.new).exists()
    target = ["--target-node-name", stage.old.name, "--target-dsn", stage.old.dsn()]
    assert end(start("remove-node", *target)).code == 0
    stage.turn()


@pytest.mark.slow
def test_killed_after_every_step_it_goes_on(stage: Stage) -> None:
    with stage.writers() as writers:
        for step in STEPS:
            # Nobody knows whether the copy that is there is whole.
            stage.kill_at(step, *(["--empty-pgdata"] if step == "recover" else []))
        ended = stage.replace()
        assert ended.code == 0, ended.err
    assert writers.failures == []
    stage.turn()


@pytest.mark.slow
@pytest.mark.parametrize("step", [step for step in STEPS if step != "join"])
def test_killed_after_any_step_it_is_taken_back(stage: Stage, step: str) -> None:
    before: Any = state(stage.cluster.members)
    with stage.writers() as writers:
        stage.kill_at(step)
        ended = stage.replace("--rollback", "--empty-pgdata")
        assert ended.code == 0, ended.err
    assert writers.failures == []
    place = stage.new.data_dir
    assert not place.exists() or list(place.iterdir()) == []
    stage.check_undone(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", ["register", "switch", "way_back", "joined", "beside", "unpublish", "forget", "proven"]
)
def test_killed_within_the_operation_it_goes_on(stage: Stage, phase: str) -> None:
    with stage.writers() as writers:
        stage.kill_in(phase, last=True)
        ended = stage.replace()
        assert ended.code == 0, ended.err
    assert writers.failures == []
    stage.turn()


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["register", "switch", "way_back", "beside"])
def test_killed_within_the_operation_it_is_taken_back(stage: Stage, phase: str) -> None:
    before: Any = state(stage.cluster.members)
    with stage.writers() as writers:
        stage.kill_in(phase)
        ended = stage.replace("--rollback", "--empty-pgdata")
        assert ended.code == 0, ended.err
    assert writers.failures == []
    stage.check_undone(before)


@pytest.mark.slow
def test_from_another_member_with_an_old_node_that_dies_in_the_soak(stage: Stage) -> None:
    old, new = stage.old, stage.new
    source = ["--src-node-name", stage.stay[0].name, "--src-dsn", stage.stay[0].dsn()]
    with stage.writers() as writers:
        call = start(*replace_words(old, new, *_SHORT, *source, "--soak", "1h"))
        stage.await_phase("beside", call)
        stage.kill(call)
        old.stop()
        refused = stage.replace(*source)
        assert refused.code == 3, refused.err
        ended = stage.replace(*source, "--force", "--soak", "0")
        assert ended.code == 0, ended.err
    assert writers.failures == []
    assert new.execute("SELECT kind, state FROM zodan.operation") == [("replace_node", "done")]
    stage.turn()
