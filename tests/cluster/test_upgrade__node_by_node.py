"""A cluster is replaced node by node by `zodan-sql upgrade`, under writers, and the command is killed on the way.

The new servers are those of ZODAN_PG_BIN_NEW, if that is set; without it they have the version of the members.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from support.calls import load_zodan, state
from support.clusters import MakeCluster
from support.crash import ChainWatch, wait_unlocked
from support.replacing import arguments, check_replaced, kill_before, note_replaced
from support.shell import Ended, end, start
from support.tables import create_tables, fill, wait_level
from support.writers import RARELY_S, Writers
from zodan_sql.client.verify import verify
from zodan_sql.sandbox import Cluster, Engine, Node, detect_engine

_BUDGET_S = 300.0
_REST_S = 0.1
#: Short against a step.
_LOOK_S = 0.01
_STEPS = (
    "SELECT count(*) FILTER (WHERE state = 'done'), bool_or(phase_name = 'quiet' AND state <> 'pending')"
    " FROM zodan.step"
)
_END_CALLS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE application_name = 'zodan-sql' AND pid <> pg_backend_pid()"
)


@pytest.fixture
def newer(engine: Engine) -> Engine:
    """Return the server of the nodes that join; without the setting it is that of the members."""
    pg_bin = os.environ.get("ZODAN_PG_BIN_NEW")
    return detect_engine(Path(pg_bin)) if pg_bin else engine


class Upgrade:
    """Old nodes, those that take their places, and the command that does it."""

    def __init__(self, make_cluster: MakeCluster, newer: Engine, size: int) -> None:
        self.cluster: Cluster = make_cluster(members=size, blanks=0)
        self.new = make_cluster(members=0, blanks=[f"n{size + 1 + i}" for i in range(size)], engine=newer).blanks
        self.old = list(self.cluster.members)
        create_tables(self.cluster)
        fill(self.old[0], 2000)
        wait_level(self.old)
        self.arguments = ["--dsn", self.old[-1].dsn(), "--quiet", "1s"]
        for old, new in zip(self.old, self.new, strict=True):
            self.arguments += ["--map", f"{old.name}={new.name}:{new.dsn()}", "--node-dsn", f"{old.name}={old.dsn()}"]
        self.path = f"{newer.pg_bin}:{os.environ['PATH']}"

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the command."""
        return start("upgrade", *self.arguments, *more, PATH=self.path)

    def run(self, *more: str) -> Ended:
        """Run it to its end."""
        return end(self.start(*more))

    def progress(self, new: Node) -> tuple[int, bool]:
        """Return how many steps the journal of a new node has as done, and whether writers may leave the old node."""
        with suppress(psycopg.Error):
            done, may_leave = new.execute(_STEPS)[0]
            return int(done), bool(may_leave)
        return 0, False

    def done(self) -> int:
        """Return how many steps are done, of all replacements."""
        return sum(self.progress(new)[0] for new in self.new)

    def total(self) -> int:
        """Return how many steps all replacements have together; a plan must be there."""
        steps = [0]
        for new in self.new:
            with suppress(psycopg.Error):
                steps.append(int(new.execute("SELECT count(*) FROM zodan.step")[0][0]))
        return max(steps) * len(self.new)

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill the command and the session that it calls in."""
        process.kill()
        process.communicate()
        for node in self.new:
            node.execute(_END_CALLS)
        wait_unlocked([*self.old, *self.new])


class Application:
    """Writers on all members, which leave an old node when the replacement waits for that."""

    def __init__(self, upgrade: Upgrade) -> None:
        self._upgrade = upgrade
        self._nodes = list(upgrade.old)
        self._series = 0
        self.failures: list[str] = []
        self.writes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._error: BaseException | None = None

    def _begin(self) -> Writers:
        self._series += 1
        watch = ChainWatch([*self._upgrade.old, *self._upgrade.new], inserter=self._nodes[-1])
        writers = Writers(self._nodes, series=self._series, pause_s=RARELY_S, may_hand_over=watch.has_come)
        writers.start()
        return writers

    def _end(self, writers: Writers) -> None:
        writers.stop()
        self.failures += writers.failures
        self.writes += writers.writes

    def _follow(self) -> None:
        try:
            writers = self._begin()
            for place, new in enumerate(self._upgrade.new):
                while not self._upgrade.progress(new)[1]:
                    if self._over.wait(_REST_S):
                        break
                self._nodes[place] = new
                before, writers = writers, self._begin()
                self._end(before)
            self._over.wait(_BUDGET_S)
            self._end(writers)
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Application:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)
        assert self._error is None, self._error


def _goals(upgrade: Upgrade, kills: int) -> Iterator[int]:
    """Return after how many steps each run is killed: at random, and so that there are some left after the last."""
    chance = random.Random(kills)
    yield chance.randrange(10, 30)
    for left in range(kills - 1, 0, -1):
        done = upgrade.done()
        yield done + chance.randrange(1, max(2, 3 * (upgrade.total() - done) // (2 * (left + 1))))


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_all_members_are_replaced_under_writers(make_cluster: MakeCluster, newer: Engine, kills: int) -> None:
    upgrade = Upgrade(make_cluster, newer, size=3 if kills > 2 else 2)
    began = time.monotonic()
    killed: list[int] = []
    with Application(upgrade) as application:
        for goal in _goals(upgrade, kills):
            process = upgrade.start()
            while process.poll() is None and upgrade.done() < goal:
                time.sleep(_LOOK_S)
            assert process.poll() is None, process.communicate()
            killed.append(upgrade.done())
            upgrade.kill(process)
        ended = upgrade.run()
        assert ended.code == 0, ended.err + ended.out
    print(f"killed after {killed} steps, {application.writes} writes, {time.monotonic() - began:.0f} s")
    assert application.failures == []
    for old, new in zip(upgrade.old, upgrade.new, strict=True):
        note_replaced(upgrade.cluster, old, new)
    check_replaced(upgrade.cluster, *upgrade.old)
    found = verify(
        upgrade.new[0].dsn(),
        dict.fromkeys(("tables", "nodes", "jobs", "most", "max_lag")),
        lambda *_: None,
        lambda _: None,
    )
    assert {each.result for each in found.results} == {"equal"}
    # Called once more, it finds that all is done.
    again = upgrade.run("--json")
    assert again.code == 0, again.err
    assert {pair["state"] for pair in json.loads(again.out)["pairs"]} == {"replaced before"}


def test_a_dry_run_shows_every_plan_and_changes_nothing(make_cluster: MakeCluster, engine: Engine) -> None:
    upgrade = Upgrade(make_cluster, engine, size=2)
    before = state([*upgrade.old, *upgrade.new])
    ended = upgrade.run("--dry-run", "--json")
    assert ended.code == 0, ended.err
    pairs = json.loads(ended.out)["pairs"]
    assert [(pair["old"], pair["new"], pair["state"]) for pair in pairs] == [
        ("n1", "n3", "planned"),
        ("n2", "n4", "planned"),
    ]
    for pair in pairs:
        phases = [step["phase_name"] for step in pair["plan"]]
        assert phases.index("switch") < phases.index("verify") < phases.index("joined") < phases.index("unpublish")
    assert state([*upgrade.old, *upgrade.new]) == before


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (["n1=n3"], "OLD=NEW:DSN"),
        (["n1=n3:host=127.0.0.1 dbname=x", "n1=n4:host=127.0.0.1 dbname=y"], "names n1 twice"),
        (["n9=n8:host=127.0.0.1 dbname=x"], 'neither "n9" nor "n8" is a member'),
    ],
)
def test_bad_maps_change_nothing(make_cluster: MakeCluster, pairs: list[str], words: str) -> None:
    cluster = make_cluster(members=2, blanks=0)
    before = state(cluster.nodes)
    ended = end(start("upgrade", "--dsn", cluster["n1"].dsn(), *(part for pair in pairs for part in ("--map", pair))))
    assert ended.code in (2, 3), ended.err
    assert words in ended.err
    assert state(cluster.nodes) == before


def test_a_plan_that_cannot_be_made_is_no_plan(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    pair = f"n1=n2:{cluster['n3'].dsn()}"
    ended = end(start("upgrade", "--dsn", cluster["n1"].dsn(), "--map", pair, "--dry-run", "--json"))
    assert ended.code == 3, ended.err
    assert [each["state"] for each in json.loads(ended.out)["pairs"]] == ["failed"]


def _installed(cluster: Cluster) -> list[str]:
    """Return the nodes that have Zodan."""
    return [each.name for each in cluster.nodes if each.execute("SELECT to_regnamespace('zodan')") != [(None,)]]


@pytest.mark.slow
def test_new_nodes_in_one_database_or_on_a_member_change_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=1)
    n1, n2, _, n4 = (cluster[f"n{i}"] for i in range(1, 5))
    before = state(cluster.nodes)
    for command, words in (
        (["--map", f"n1=n4:{n4.dsn()}", "--map", f"n2=n5:{n4.dsn()}"], "gives n4 and n5 the same database"),
        # The same by another address.
        (["--map", f"n1=n4:{n4.dsn()}", "--map", f"n2=n5:{n4.local_dsn()}"], "gives n4 and n5 the same database"),
        (["--map", f"n1=n4:{n2.dsn()}"], 'the new node "n4" leads to node "n2"'),
        (["--map", f"n1=n4:{n4.dsn()}", "--map", f"n2=n5:{n2.dsn()}"], 'the new node "n5" leads to node "n2"'),
        (["--map", f"n1=n2:{n2.dsn()}"], 'the new node "n2" leads to node "n2"'),
    ):
        for more in ([], ["--dry-run"]):
            ended = end(start("upgrade", "--dsn", n1.dsn(), "--quiet", "0s", *command, *more))
            assert ended.code in (2, 3), ended.err + ended.out
            if not more or command[-1] != f"n1=n2:{n2.dsn()}":
                assert words in ended.err, ended.err
    for command in (
        ["replace-node", "--old-node-name", "n1", "--old-node-dsn", n1.dsn()],
        ["add-node", "--src-node-name", "n1", "--src-dsn", n1.dsn()],
        ["add-node", "--src-node-name", "n1", "--src-dsn", n1.dsn(), "--structure", "client", "--dsn", n4.dsn()],
    ):
        for name in ("n4", "n2"):
            ended = end(start(*command, "--new-node-name", name, "--new-node-dsn", n2.dsn()))
            assert ended.code == 3, ended.err
            assert f'the new node "{name}" leads to node "n2"' in ended.err
    assert _installed(cluster) == []
    assert state(cluster.nodes) == before


def test_an_old_node_that_is_down_was_not_replaced(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    n1, n2, n3 = cluster.nodes
    n1.stop("fast")
    before = state([n2, n3])
    for more in ([], ["--dry-run"]):
        ended = end(start("upgrade", "--dsn", n2.dsn(), "--map", f"n1=n3:{n3.dsn()}", *more))
        assert (ended.code, '"n1" is a member, and cannot be reached' in ended.err) == (3, True), ended.err + ended.out
    assert state([n2, n3]) == before


def test_a_call_that_goes_on_takes_new_options(make_cluster: MakeCluster, engine: Engine) -> None:
    upgrade = Upgrade(make_cluster, engine, size=2)
    n1, _ = upgrade.old
    n3, _ = upgrade.new
    load_zodan(n3)
    given = arguments(n1, n3, quiet="1 h", verify=False)
    kill_before("quiet", n3, given, [*upgrade.old, *upgrade.new])
    ended = end(start("upgrade", "--dsn", n1.dsn(), "--map", f"n1=n3:{n3.dsn()}", "--quiet", "0s", "--jobs", "1"))
    assert ended.code == 0, ended.err
    changed = n3.execute("SELECT arguments ->> 'quiet', arguments ->> 'jobs', state FROM zodan.operation")
    assert changed == [("00:00:00", "1", "done")]
