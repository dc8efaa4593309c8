"""A clone that is killed after any step, or within one, goes on when called again, or is taken back without a trace."""

from __future__ import annotations

import itertools
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.calls import call, load_zodan
from support.clones import clone, clone_words, leave, make_place, record_of
from support.clusters import MakeCluster
from support.crash import HeldCall
from support.parameters import some_slow
from support.shell import end, start
from support.tables import create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.client.connection import parse_dsn
from zodan_sql.cloning.clone import STEPS
from zodan_sql.sandbox import Cluster, Node, SandboxError, wait_until

_KILLED = 9
_SERIES = itertools.count(100)
_APPLIED = "SELECT max(remote_lsn) FROM pg_replication_origin_status"
_STREAMS = """
SELECT array_agg(slot_name::text ORDER BY slot_name), (SELECT count(*)::int FROM spock.subscription WHERE sub_enabled),
       (SELECT array_agg(roname ORDER BY roname) FROM pg_replication_origin),
       (SELECT array_agg(node_name::text ORDER BY node_name) FROM spock.node)
  FROM pg_replication_slots
"""


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members with rows, and n3, a place for a copy."""
    cluster = make_module_cluster(members=2, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], 2000)
    wait_level(cluster.members)
    return cluster


def _kill_at(cluster: Cluster, place: Node, step: str, *more: str) -> None:
    ended = clone(cluster["n1"], place, *more, ZODAN_CLONE_HOOK=step)
    assert ended.code == _KILLED, ended.err + ended.out


def _streams(cluster: Cluster) -> list[Any]:
    return [node.execute(_STREAMS) for node in cluster.members]


def test_killed_after_every_step_it_goes_on(cluster: Cluster) -> None:
    place = make_place(cluster)
    with Writers(cluster.members) as writers:
        for step in STEPS:
            _kill_at(cluster, place, step, *(["--empty-pgdata"] if step == "copy" else []))
            if step == "copy":
                # Nobody knows whether the copy that is there is whole.
                ended = clone(cluster["n1"], place)
                assert ended.code == 3
                assert "--empty-pgdata" in ended.err
                _kill_at(cluster, place, "recover", "--empty-pgdata")
        ended = clone(cluster["n1"], place)
        assert ended.code == 0, ended.err
    assert writers.failures == []
    assert not record_of(place).exists()
    leave(cluster, place)


@pytest.mark.parametrize("step", some_slow([step for step in STEPS if step != "join"], quick=("slot", "strip")))
def test_killed_after_any_step_it_is_taken_back(cluster: Cluster, step: str) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    with Writers(cluster.members, series=sorted(STEPS).index(step) + 1) as writers:
        _kill_at(cluster, place, step)
        ended = clone(cluster["n1"], place, "--rollback", "--empty-pgdata")
        assert ended.code == 0, ended.err
    assert writers.failures == []
    assert _streams(cluster) == before
    assert not record_of(place).exists()
    assert list(place.data_dir.iterdir()) == [] if place.data_dir.exists() else step == "slot"
    assert not place.is_running()


def _join_by_hand(cluster: Cluster, place: Node) -> dict[str, Any]:
    """Return the arguments of a call in psql that goes on where a clone has stopped."""
    load_zodan(place)
    n1 = cluster["n1"]
    named = {"src_node_name": n1.name, "src_dsn": n1.dsn(), "new_node_name": place.name, "new_node_dsn": place.dsn()}
    return {**named, "copy": "present"}


def test_a_call_in_psql_goes_on_from_there(cluster: Cluster) -> None:
    place = make_place(cluster)
    _kill_at(cluster, place, "start")
    arguments = _join_by_hand(cluster, place)
    with pytest.raises(psycopg.Error) as raised:
        call(place, "spock.add_node", **arguments | {"copy": "rows"})
    assert "copy => 'present'" in str(raised.value.diag.message_hint)
    call(place, "spock.add_node", **arguments)
    # The clone learns that it is done.
    ended = clone(cluster["n1"], place)
    assert ended.code == 0, ended.err
    assert not record_of(place).exists()
    leave(cluster, place)


def _break_join(cluster: Cluster, point: str, ending: str) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    with Writers(cluster.members, series=next(_SERIES)) as writers:
        _kill_at(cluster, place, "start")
        HeldCall(place, point, "spock.add_node", _join_by_hand(cluster, place)).kill()
        ended = clone(cluster["n1"], place, *(["--rollback"] if ending == "rollback" else []))
        assert ended.code == 0, f"{point}: {ended.err}"
    assert writers.failures == []
    if ending == "resume":
        leave(cluster, place)
    else:
        with pytest.raises(SandboxError):
            place.start()
        assert _streams(cluster) == before


@pytest.mark.parametrize(
    ("point", "ending"),
    [
        *(pytest.param(point, "rollback", marks=pytest.mark.slow) for point in ("after 1", "after 27")),
        ("before 17", "resume"),
    ],
)
def test_a_join_that_is_killed(cluster: Cluster, point: str, ending: str) -> None:
    _break_join(cluster, point, ending)


def test_a_clone_that_has_joined_is_not_taken_back(cluster: Cluster) -> None:
    place = make_place(cluster)
    _kill_at(cluster, place, "join")
    for stopped in (False, True):
        if stopped:
            place.stop()
        ended = clone(cluster["n1"], place, "--rollback", "--empty-pgdata")
        assert ended.code != 0
        assert ("does not run" if stopped else "n3 has joined") in ended.err
    place.start()
    assert clone(cluster["n1"], place).code == 0
    assert not record_of(place).exists()
    leave(cluster, place)


def test_a_server_that_was_started_may_have_joined_since(cluster: Cluster) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    _kill_at(cluster, place, "start")
    place.stop()
    ended = clone(cluster["n1"], place, "--rollback")
    assert ended.code != 0
    assert "does not run" in ended.err
    place.start()
    assert clone(cluster["n1"], place, "--rollback", "--empty-pgdata").code == 0
    assert _streams(cluster) == before
    # One that never came up has not.
    ended = clone(cluster["n1"], place, "--start-command", "exit 1")
    assert ended.code != 0
    assert clone(cluster["n1"], place, "--rollback", "--empty-pgdata").code == 0
    assert _streams(cluster) == before


def _find_step(cluster: Cluster, place: Node, phase: str) -> int:
    """Return the number of the first step of a phase of the join of a copy that has been started."""
    with place.connect() as connection:
        arguments = _join_by_hand(cluster, place)
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        query = f"SELECT min(ordinal) FROM zodan.plan_add_node({names}) WHERE phase_name = %(phase)s"
        row = connection.execute(query.encode(), arguments | {"phase": phase}).fetchone()
    assert row is not None
    return int(row[0])


def test_killed_within_the_flip_its_stream_goes_on(cluster: Cluster) -> None:
    """It is disabled then, perhaps within a transaction, and there is no second copy."""
    place = make_place(cluster)
    _kill_at(cluster, place, "start")
    step = _find_step(cluster, place, "switch")
    assert clone(cluster["n1"], place, "--rollback", "--empty-pgdata").code == 0
    for _ in range(int(os.environ.get("ZODAN_CLONE_TIMES", "1"))):
        _break_join(cluster, f"before {step}", "resume")


@pytest.mark.slow
def test_a_flip_that_fails_is_tried_again_with_the_same_copy(cluster: Cluster) -> None:
    """The pause of the source ends too early, after the stream of the copy was disabled."""
    place = make_place(cluster)
    source = cluster["n1"]
    _kill_at(cluster, place, "start")
    step = _find_step(cluster, place, "confirm")
    with Writers(cluster.members, series=next(_SERIES)) as writers:
        held = HeldCall(place, f"before {step}", "spock.add_node", _join_by_hand(cluster, place))
        applied = source.execute(_APPLIED)
        wait_until(lambda: "" if source.execute(_APPLIED) != applied else "paused", 60, "the pause to end")
        held.let_go()
    assert held.error is None
    assert writers.failures == []
    assert place.execute("SELECT min(s.attempts) FROM zodan.step s WHERE s.phase_name = 'switch'") == [(1,)]
    assert place.execute("SELECT min(s.attempts) FROM zodan.step s WHERE s.phase_name = 'pause'") == [(2,)]
    assert place.execute("SELECT min(s.attempts) FROM zodan.step s WHERE s.phase_name = 'note'") == [(1,)]
    assert clone(source, place).code == 0
    leave(cluster, place)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ending", ["resume", "rollback"])
def test_a_join_that_is_killed_at_every_step(cluster: Cluster, ending: str) -> None:
    place = make_place(cluster)
    _kill_at(cluster, place, "start")
    with place.connect() as connection:
        arguments = _join_by_hand(cluster, place)
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        query = f"SELECT ordinal FROM zodan.plan_add_node({names}) WHERE do_sql IS NOT NULL ORDER BY ordinal"
        steps = [row[0] for row in connection.execute(query.encode(), arguments).fetchall()]
    assert clone(cluster["n1"], place, "--rollback", "--empty-pgdata").code == 0
    for step in steps[:: int(os.environ.get("ZODAN_CLONE_EVERY", "3"))]:
        _break_join(cluster, f"after {step}", ending)


def test_killed_while_it_copies_it_copies_again(cluster: Cluster) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    copying = start(*clone_words(cluster["n1"], place, "--max-rate", "4MB"))
    wait_until(lambda: "" if (place.data_dir / "base").exists() else "nothing there", 60, "the copy to begin")
    time.sleep(0.5)
    assert _seen_by_others(place) == []
    copying.send_signal(signal.SIGKILL)
    end(copying)
    # What has come so far starts under nobody's hands.
    with pytest.raises(SandboxError):
        place.start()
    assert "invalid permissions" in place.log_text() + _control_log(place)
    assert clone(cluster["n1"], place).code == 3
    ended = clone(cluster["n1"], place, "--empty-pgdata")
    assert ended.code == 0, ended.err
    leave(cluster, place)
    assert _streams(cluster) == before


def _seen_by_others(place: Node) -> list[str]:
    """Return the servers' and the copying processes' command lines that have the password."""
    words = [bytes(part, "utf-8") for part in parse_dsn(place.dsn(), "")["password"].split()]
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes()
            if b"pg_basebackup" in line.split(b"\0")[0] and any(word in line for word in words):
                found.append(line.decode(errors="replace"))
    return found


def _control_log(place: Node) -> str:
    return "".join(path.read_text(errors="replace") for path in (place.folder / "logs").iterdir())


def test_an_unstripped_copy_does_not_start(cluster: Cluster) -> None:
    place = make_place(cluster)
    _kill_at(cluster, place, "recover")
    # The server in quarantine does not outlive its caller.
    wait_until(lambda: "it runs" if place.is_running() else "", 30, "its end")
    with (place.data_dir / "postgresql.conf").open("a") as file:
        file.write(f"port = {place.port}\n")
    with pytest.raises(SandboxError):
        place.start()
    assert "zodan-clone-is-not-finished" in place.log_text()
    # Whoever takes that away is found out.
    configuration = place.data_dir / "postgresql.auto.conf"
    text = configuration.read_text()
    configuration.write_text(text[: text.index("# zodan clone")])
    ended = clone(cluster["n1"], place)
    assert ended.code == 4
    assert "may have lost" in ended.err
    assert clone(cluster["n1"], place, "--rollback", "--empty-pgdata").code == 0
    assert list(place.data_dir.iterdir()) == []
