"""A clone that is killed after any step, or within one, goes on when called again, or is taken back without a trace."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from support.calls import exceptions, remove_node
from support.clones import clone, clone_words, make_place, record_of, take_in
from support.clusters import MakeCluster
from support.shell import end, start
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.cloning.clone import STEPS
from zodan_sql.sandbox import Cluster, Node, SandboxError, wait_until

_KILLED = 9
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


def _leave(cluster: Cluster, place: Node) -> None:
    """Check the node, and make it a place again."""
    take_in(cluster, place)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert exceptions(cluster.members) == []
    remove_node(cluster, place.name, at="n1")


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
    _leave(cluster, place)


@pytest.mark.parametrize("step", [step for step in STEPS if step != "join"])
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


def test_a_join_that_was_killed_is_taken_back_with_its_clone(cluster: Cluster) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    held = start(*clone_words(cluster["n1"], place), hook="mark")
    wait_until(lambda: "" if _is_held(place) else "it has not come there", 60, "the join to be held")
    held.send_signal(signal.SIGKILL)
    end(held)
    ended = clone(cluster["n1"], place, "--rollback")
    assert ended.code == 0, ended.err
    assert _streams(cluster) == before
    with pytest.raises(SandboxError):
        place.start()


def test_killed_while_it_copies_it_copies_again(cluster: Cluster) -> None:
    place = make_place(cluster)
    before = _streams(cluster)
    copying = start(*clone_words(cluster["n1"], place, "--max-rate", "4MB"))
    wait_until(lambda: "" if (place.data_dir / "base").exists() else "nothing there", 60, "the copy to begin")
    time.sleep(0.5)
    copying.send_signal(signal.SIGKILL)
    end(copying)
    # What has come so far starts under nobody's hands.
    with pytest.raises(SandboxError):
        place.start()
    assert "invalid permissions" in place.log_text() + _control_log(place)
    assert clone(cluster["n1"], place).code == 3
    ended = clone(cluster["n1"], place, "--empty-pgdata")
    assert ended.code == 0, ended.err
    _leave(cluster, place)
    assert _streams(cluster) == before


def _is_held(place: Node) -> bool:
    try:
        return place.execute("SELECT state FROM zodan.step WHERE phase_name = 'mark' LIMIT 1") == [("running",)]
    except Exception:
        return False


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
