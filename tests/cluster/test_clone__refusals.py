"""What a clone refuses, with everything named at once and nothing changed; and what it does not refuse."""

from __future__ import annotations

import shutil

import pytest

from support.clones import clone, make_place, record_of
from support.clusters import MakeCluster
from support.objects import at
from support.tables import create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster
from zodan_sql.sandbox.mesh import wait_replicating
from zodan_sql.sandbox.os_user import copy_folder, make_folder

_SLOTS = "SELECT count(*) FROM pg_replication_slots"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members with rows, and n3, a place for a copy."""
    cluster = make_module_cluster(members=2, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], 100)
    wait_level(cluster.members)
    make_place(cluster)
    return cluster


def test_everything_wrong_is_named_at_once(cluster: Cluster) -> None:
    n1, place = cluster["n1"], cluster["n3"]
    before = n1.execute(_SLOTS)
    make_folder(place.data_dir)
    (place.data_dir / "mine").touch()
    at(n1, "CREATE VIEW nodes AS SELECT node_name FROM spock.node", "CREATE DATABASE second")
    with n1.connect(dbname="second") as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
    try:
        ended = clone(n1, place, "--new-node-name", "n2", "--new-node-dsn", cluster["n2"].dsn())
        more = clone(n1, place)
    finally:
        at(n1, "DROP VIEW nodes")
        with n1.connect(dbname="second") as connection:
            connection.execute("DROP EXTENSION spock CASCADE")
    assert ended.code == 3
    for words in ('knows a node "n2"', "something answers", "is not empty", "view nodes", 'database "second"'):
        assert words in ended.err, words
    assert [path.name for path in place.data_dir.iterdir()] == ["mine"]
    assert n1.execute(_SLOTS) == before
    assert not record_of(place).exists()
    assert "--strip-other-nodes" in more.err
    shutil.rmtree(place.data_dir)


def test_a_dry_run_lists_the_steps_and_changes_nothing(cluster: Cluster) -> None:
    n1, place = cluster["n1"], cluster["n3"]
    before = n1.execute(_SLOTS)
    ended = clone(n1, place, "--dry-run")
    assert ended.code == 0, ended.err
    assert "make the slot of the copy on n1" in ended.out
    assert n1.execute(_SLOTS) == before
    assert not place.data_dir.exists()


def test_what_no_server_could_start_with_is_refused(cluster: Cluster) -> None:
    n1, place = cluster["n1"], cluster["n3"]
    settings = ("shared_buffers=much", "nosuch=1", "port=7", "a b=1", "spock.some=1")
    words = [word for each in settings for word in ("--set", each)]
    ended = clone(n1, place, "--dry-run", *words, "--tablespace-mapping", "/nowhere=here")
    assert ended.code == 3
    for said in (
        '"shared_buffers"',
        '"nosuch"',
        "--set names the port",
        "--set a b",
        "no tablespace in /nowhere",
        "here",
    ):
        assert said in ended.err, said
    assert "spock.some" not in ended.err


@pytest.mark.parametrize("rate", ["0", "31kB", "2GB"])
def test_a_rate_that_pg_basebackup_does_not_take_is_refused(cluster: Cluster, rate: str) -> None:
    ended = clone(cluster["n1"], cluster["n3"], "--dry-run", "--max-rate", rate)
    assert ended.code == 2
    assert "32kB to 1GB" in ended.err


@pytest.mark.parametrize("name", ["block_size", "segment_size"])
def test_programs_that_were_built_otherwise_are_refused(cluster: Cluster, name: str) -> None:
    n1, place = cluster["n1"], cluster["n3"]
    folder = place.engine.pg_bin
    made = place.folder / f"programs {name}"
    made.mkdir()
    made.chmod(0o755)
    for program in ("pg_ctl", "pg_basebackup", "pg_controldata"):
        (made / program).symlink_to(folder / program)
    postgres = made / "postgres"
    postgres.write_text(f'#!/bin/sh\n[ "$2" = {name} ] && echo 12345 || exec {folder}/postgres "$@"\n')
    postgres.chmod(0o755)
    ended = clone(n1, place, "--dry-run", "--pg-bin", str(made))
    assert ended.code == 3
    assert f"has {name} 12345, the source " in ended.err
    assert clone(n1, place, "--dry-run").code == 0


@pytest.mark.parametrize("kind", ["other server", "shut down", "snapshot of another life", "running"])
def test_what_is_no_untouched_copy_is_refused(cluster: Cluster, kind: str) -> None:
    n1, n2, place = cluster["n1"], cluster["n2"], cluster["n3"]
    shutil.rmtree(place.data_dir, ignore_errors=True)
    # The case before stopped a member.
    wait_replicating(cluster.members)
    assert clone(n1, place, "--restored", "--prepare-only").code == 0
    source = n2 if kind == "other server" else n1
    source.stop("fast" if kind == "shut down" else "immediate")
    copy_folder(source.data_dir, place.data_dir)
    source.start()
    if kind == "running":
        place.write_configuration(cluster["n2"].data_dir.joinpath("postgresql.conf").read_text())
        at_place = place.data_dir / "postgresql.auto.conf"
        at_place.write_text("shared_preload_libraries = ''\n")
        (place.data_dir / "postmaster.pid").unlink(missing_ok=True)
        place.start()
    ended = clone(n1, place, "--restored")
    if kind == "running":
        place.stop()
    assert ended.code == 3, ended.err + ended.out
    assert "Restore" in ended.err
    assert clone(n1, place, "--restored", "--empty-pgdata", "--rollback").code == 2
    assert clone(n1, place, "--restored", "--rollback").code == 0
    assert place.data_dir.exists()


def test_a_wrong_address_of_the_new_node_is_found(cluster: Cluster) -> None:
    n1, place = cluster["n1"], cluster["n3"]
    shutil.rmtree(place.data_dir, ignore_errors=True)
    wait_replicating(cluster.members)
    ended = clone(n1, place, ZODAN_CLONE_HOOK="start")
    assert ended.code == 9, ended.err
    ended = clone(n1, place, "--new-node-dsn", cluster["n2"].dsn())
    assert ended.code == 2
    assert "does not lead to the copy" in ended.err
    assert clone(n1, place, "--rollback", "--empty-pgdata").code == 0
