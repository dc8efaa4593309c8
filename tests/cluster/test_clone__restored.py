"""Copies that others made: by pg_basebackup long before, from an archive, as a snapshot of the running source."""

from __future__ import annotations

import os
import time

import pytest

from support.clones import clone, leave, make_place, password_file
from support.clusters import MakeCluster
from support.freezing import frozen
from support.objects import at
from support.tables import create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node
from zodan_sql.sandbox.mesh import wait_replicating
from zodan_sql.sandbox.os_user import copy_folder, make_folder, run

_RESTORED = "--restored"
_RESOURCE_MANAGER = 144
#: How old the old copy is, at least.
_AGE_S = float(os.environ.get("ZODAN_CLONE_AGE_S", "0"))


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members with rows, and n3, a place for a copy; n1 archives its WAL beside its data."""
    cluster = make_module_cluster(members=2, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], 2000)
    archive = make_folder(cluster.base / "archive")
    with (cluster["n1"].data_dir / "postgresql.conf").open("a") as file:
        file.write(f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\n")
    cluster["n1"].restart()
    wait_level(cluster.members)
    return cluster


def _back_up(source: Node, place: Node, wal: str) -> None:
    run(
        [
            "env",
            f"PGPASSFILE={password_file(source, place.folder)}",
            str(source.engine.pg_bin / "pg_basebackup"),
            *("-D", str(place.data_dir), "-c", "fast", "-X", wal, "-d", source.dsn(password=False)),
        ]
    )


def _joins(cluster: Cluster, place: Node, *more: str) -> str:
    ended = clone(cluster["n1"], place, _RESTORED, *more)
    assert ended.code == 0, ended.err + ended.out
    return ended.out


def _leaves(cluster: Cluster, place: Node, writers: Writers) -> None:
    assert writers.failures == []
    assert place.execute("SHOW archive_mode") == [("off",)]
    leave(cluster, place)


def test_an_old_copy_and_the_archive_of_a_source_that_was_restarted(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    place = make_place(cluster)
    with Writers(cluster.members) as writers:
        _back_up(n1, place, "none")
        time.sleep(_AGE_S)
        with writers.excused(n1):
            # Spock 6 writes at its end what only Spock can read.
            n1.restart()
            wait_replicating(cluster.members)
        assert clone(n1, place, _RESTORED, "--prepare-only").code == 0
        archive = cluster.base / "archive"
        out = _joins(cluster, place, "--restore-command", f"cp {archive}/%f %p")
    assert "the copy has everything up to" in out
    _leaves(cluster, place, writers)


def test_a_copy_that_ends_before_the_slot_is_refused(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    place = make_place(cluster)
    _back_up(n1, place, "stream")
    at(n1, "INSERT INTO app_keyed SELECT -i - 100000, 'later', 0, 'x' FROM generate_series(1, 100) AS i")
    ended = clone(n1, place, _RESTORED)
    assert ended.code == 4, ended.err
    assert "--restore-command" in ended.err
    assert clone(n1, place, _RESTORED, "--rollback").code == 0


def test_a_snapshot_of_the_running_source(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    place = make_place(cluster)
    # A slot of somebody else comes along, and a subscription of PostgreSQL's own: its publisher keeps its slot.
    at(n1, "SELECT pg_create_logical_replication_slot('of_others', 'pgoutput')")
    at(cluster["n2"], "CREATE PUBLICATION few", "SELECT pg_create_logical_replication_slot('of_native', 'pgoutput')")
    native = cluster["n2"].dsn().replace("'", "''")
    at(
        n1,
        f"CREATE SUBSCRIPTION native CONNECTION '{native}' PUBLICATION few"
        " WITH (create_slot = false, slot_name = of_native)",
    )
    with Writers(cluster.members, series=3) as writers:
        assert clone(n1, place, _RESTORED, "--prepare-only").code == 0
        with frozen(n1):
            copy_folder(n1.data_dir, place.data_dir)
        _joins(cluster, place)
    assert place.execute("SELECT count(*) FROM pg_subscription") == [(0,)]
    assert place.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'of_others'") == [(0,)]
    assert cluster["n2"].execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'of_native'") == [(1,)]
    _leaves(cluster, place, writers)
    at(n1, "DROP SUBSCRIPTION native", "SELECT pg_drop_replication_slot('of_others')")
