"""A copy whose snapshot is lost under writers: what is copied stays, and every table goes on from its own position."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import call, exceptions, load_zodan, remove_node
from support.clusters import MakeCluster
from support.crash import HeldCall, keepers, wait_unlocked
from support.joins import planned
from support.tables import TABLES, add_to_sets, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, wait_until

#: One in three parts, then one after the other, the larger ones first.
_DDL = """
CREATE TABLE parted (id int PRIMARY KEY, filler text);
CREATE TABLE emptied (id int PRIMARY KEY, filler text);
CREATE TABLE root (id int PRIMARY KEY, filler text) PARTITION BY RANGE (id);
CREATE TABLE leaf_1 PARTITION OF root FOR VALUES FROM (0) TO (100000);
CREATE TABLE leaf_2 PARTITION OF root FOR VALUES FROM (100000) TO (200000);
CREATE TABLE kept (id int PRIMARY KEY, filler text);
CREATE TABLE keyless (id int, filler text);
"""
_SETS = dict.fromkeys(("parted", "emptied", "root", "leaf_1", "leaf_2", "kept"), "default") | {
    "keyless": "default_insert_only"
}
_FILL = "INSERT INTO {} SELECT i, repeat('x', 900) FROM generate_series({}, {}) i"
_ROWS = (
    ("parted", 1, 22000),
    ("emptied", 1, 8000),
    ("root", 1, 7000),
    ("root", 100001, 107000),
    ("kept", 1, 6000),
    ("keyless", 1, 5000),
)
#: Nobody waits this long.
_BUDGET_S = 60.0
_UNITS = (
    "SELECT title, lsn::text FROM zodan.unit WHERE phase_name = 'copied' AND state = 'done'"
    " AND operation_id = (SELECT max(operation_id) FROM zodan.operation)"
)


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(2, 1)
    create_tables(cluster)
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute(_DDL.encode())
        add_to_sets(node, _SETS)
    fill(cluster["n1"], 1000)
    for table, first, last in _ROWS:
        cluster["n1"].execute(_FILL.format(table, first, last))
    wait_level(cluster.members)
    load_zodan(cluster["n3"])
    return cluster


@contextmanager
def _changing(node: Node) -> Iterator[None]:
    """Change rows that are copied already, and insert into a table without a key, all the time."""
    over = threading.Event()
    failures: list[Exception] = []

    def change() -> None:
        number = 0
        try:
            with node.connect() as connection:
                while not over.wait(0.002):
                    number += 1
                    for table in ("parted", "kept"):
                        connection.execute(
                            f"UPDATE {table} SET filler = 'at {number}' WHERE id = {number * 7 % 6000}".encode()
                        )
                    connection.execute(f"INSERT INTO keyless VALUES ({-number}, 'new')".encode())
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failures == []


def _held(cluster: Cluster, point: str, jobs: int = 2) -> HeldCall:
    arguments = planned(cluster["n1"], cluster["n3"])[0]
    return HeldCall(cluster["n3"], point, "spock.add_node", arguments | {"jobs": jobs})


def _call_again(cluster: Cluster) -> list[str]:
    arguments = planned(cluster["n1"], cluster["n3"])[0]
    return call(cluster["n3"], "spock.add_node", **arguments, jobs=2)


def _done(cluster: Cluster) -> dict[str, str]:
    """Return the units that are done, and their positions."""
    return {str(title): str(lsn) for title, lsn in cluster["n3"].execute(_UNITS)}


def _end_keeper(node: Node) -> None:
    """End the session that keeps the snapshot, as a restart of the server would."""
    ended = node.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name ~ '^zodan snapshot '"
    )
    assert ended == [(True,)]


def _attempts(cluster: Cluster) -> dict[str, int]:
    """Return how often each unit was begun in the last operation."""
    return dict(
        cluster["n3"].execute(
            "SELECT title, attempts FROM zodan.unit WHERE phase_name = 'copied'"
            " AND operation_id = (SELECT max(operation_id) FROM zodan.operation)"
        )
    )


def _check(cluster: Cluster) -> None:
    cluster.members.append(cluster.blanks.pop())
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, (*TABLES, *_SETS))
    assert not exceptions(cluster.members)
    remove_node(cluster, "n3")


def test_every_snapshot_that_is_lost(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    with Writers(cluster.members) as writers, _changing(n1):
        # One job, or a part of the table may still be under way.
        _held(cluster, "copied done 5", jobs=1).kill()
        wait_unlocked(cluster.nodes)
        _end_keeper(n1)
        first = _done(cluster)
        assert {f"public.parted, part {part} of 3" for part in (1, 2, 3)} <= first.keys(), first
        n1.execute("TRUNCATE emptied")
        n1.execute(_FILL.format("emptied", 1, 10))
        # Two jobs: unit 6 may have been under way, and is done then. Unit 7 was not begun.
        held = _held(cluster, "copied copying 7")
        second = _done(cluster)
        assert first.items() <= second.items() or any("emptied" in title for title in first)
        for node, name in ((n1, "zodan snapshot"), (n3, "zodan_copy")):
            node.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^{name}'")
        n1.execute("TRUNCATE root")
        n1.execute(_FILL.format("root", 99990, 100010))
        held.let_go()
        assert held.error is None, held.error
    assert writers.failures == []
    last = _done(cluster)
    assert len(set(last.values())) > 1, (first, second, last)
    parts = {title: lsn for title, lsn in first.items() if "parted" in title}
    assert parts.items() <= last.items(), (first, second, last)
    _check(cluster)


@pytest.mark.slow
def test_a_stream_that_breaks_before_it_has_passed_them_all(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    plan = planned(n1, n3)[1]
    with Writers(cluster.members) as writers, _changing(n1):
        _held(cluster, "copied done 5").kill()
        wait_unlocked(cluster.nodes)
        _end_keeper(n1)
        held = _held(cluster, f"before {plan.at('levelled', 'n3')}")
        positions = set(_done(cluster).values())
        n3.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type ~ 'spock apply|pglogical apply'"
        )
        if not cluster.engine.is_real:
            n3.execute("SELECT spock._wake_manager()")
        held.let_go()
        assert held.error is None, held.error
    assert writers.failures == []
    assert len(positions) == 2, positions
    # The copy has begun again, with one snapshot.
    assert len(set(_done(cluster).values())) == 1
    _check(cluster)


def test_a_snapshot_that_outlives_its_caller(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    with Writers(cluster.members) as writers, _changing(n1):
        _held(cluster, "copied done 2", 1).kill()
        wait_unlocked(cluster.nodes)
        (first,) = keepers(n1)
        copied = _done(cluster)
        assert 0 < len([title for title in copied if "parted" in title]) < 3, copied
        # The next caller dies too, and what it takes over is the first snapshot.
        held = _held(cluster, "copied copying 4", 1)
        (second,) = keepers(n1)
        assert second != first
        assert second.split()[-1] == first.split()[-1]
        held.kill()
        wait_unlocked(cluster.nodes)
        copied |= _done(cluster)
        before = _attempts(cluster)
        _call_again(cluster)
    assert writers.failures == []
    assert not keepers(n1)
    assert copied.items() <= _done(cluster).items()
    assert len(set(_done(cluster).values())) == 1
    assert {title: before[title] for title in copied} == {title: _attempts(cluster)[title] for title in copied}
    _check(cluster)


@pytest.mark.slow
def test_a_snapshot_that_is_kept_no_longer(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    with Writers(cluster.members) as writers, _changing(n1):
        _held(cluster, "copied done 2", 1).kill()
        wait_unlocked(cluster.nodes)
        first = _done(cluster)
        parts = {title for title in first if "parted" in title}
        _end_keeper(n1)
        _call_again(cluster)
    assert writers.failures == []
    assert not keepers(n1)
    attempts = _attempts(cluster)
    assert parts
    assert all(attempts[title] == 2 for title in parts), attempts
    assert not {first[title] for title in parts} & set(_done(cluster).values())
    _check(cluster)


def test_a_snapshot_whose_table_was_rewritten_comes_back_no_more(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    with Writers(cluster.members) as writers:
        _held(cluster, "copied done 2", 1).kill()
        wait_unlocked(cluster.nodes)
        first = _done(cluster)
        n1.execute("TRUNCATE kept")
        n1.execute(_FILL.format("kept", 1, 10))
        # All but this table go on from the snapshot; then there is another, which nobody takes for the first.
        _call_again(cluster)
    assert writers.failures == []
    assert not keepers(n1)
    last = _done(cluster)
    (kept,) = (lsn for title, lsn in last.items() if "kept" in title)
    assert kept not in first.values()
    assert {title: lsn for title, lsn in first.items() if "parted" in title}.items() <= last.items(), (first, last)
    _check(cluster)


def test_a_rollback_ends_what_keeps_the_snapshot(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    _held(cluster, "copied done 2", 1).kill()
    wait_unlocked(cluster.nodes)
    assert keepers(n1)
    dsns = {node.name: node.dsn() for node in cluster.members}
    call(n3, "zodan.rollback", p_operation=1, p_dsns=Jsonb(dsns))
    wait_until(lambda: ", ".join(keepers(n1)), 10, "the session to end")


def test_a_lane_that_cannot_connect_before_there_is_a_unit_is_tried_again(cluster: Cluster) -> None:
    n1, _, n3 = cluster.nodes
    n3.execute("ALTER SYSTEM SET max_connections = 25")
    n3.restart()
    arguments, plan = planned(n1, n3)
    held = HeldCall(n3, f"before {plan.at('copied', 'n3')}", "spock.add_node", arguments | {"jobs": 4})

    def refused() -> int:
        return n3.log_text().count("too many clients already")

    with ExitStack() as others:
        while refused() == 0:
            with suppress(psycopg.OperationalError):
                others.enter_context(n3.connect())
        before = refused()
        held.let_go_on()
        # One of them has a unit, which waits for the snapshot; the others have none.
        wait_until(lambda: "" if refused() >= before + 4 else "not refused", _BUDGET_S, "the lanes to be refused")
    held.finish()
    assert held.error is None, held.error
    wait_level(cluster.nodes)
    assert_rows_equal(cluster.nodes, [*TABLES, *_SETS])
