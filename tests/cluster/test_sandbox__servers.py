"""The servers of a sandbox: kept over stops, found again, removed without a trace."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest

from support.clusters import MakeCluster
from support.tables import KEYED, create_tables, wait_level
from zodan_sql import sandbox
from zodan_sql.sandbox import Cluster, SandboxError, wait_replicating, wait_until


def test_up_status_down(sandbox_folder: Path) -> None:
    base = sandbox_folder
    try:
        made = sandbox.up(base, nodes=2, blanks=1)
        assert not made.was_there
        assert [(node.name, node.role) for node in made.status.nodes] == [
            ("n1", "member"),
            ("n2", "member"),
            ("n3", "blank"),
        ]
        assert made.status.running
        assert made.status.engine
        assert made.status.nodes[0].subscriptions == {"sub_n2_n1": "replicating"}
        Cluster.load(base)["n2"].stop()
        assert [node.running for node in sandbox.status(base).nodes] == [True, False, True]
        again = sandbox.up(base)
        assert again.was_there
        assert again.status.running
        assert stat.S_IMODE((base / "state.json").stat().st_mode) == 0o600
        password = Cluster.load(base)["n1"].dsn().rpartition("password=")[2]
        assert password not in repr((made, again, sandbox.status(base)))
    finally:
        gone = sandbox.down(base)
    assert gone.removed == ["n1", "n2", "n3"]
    assert not base.exists()
    assert not sandbox.status(base).exists
    assert sandbox.down(base).removed == []


def test_create_leaves_nothing_when_it_fails(sandbox_folder: Path) -> None:
    with pytest.raises(SandboxError, match="could not start"):
        Cluster.create(sandbox_folder, ["n1"], extra_conf={"shared_buffers": "nonsense"})
    assert not sandbox_folder.exists()


def test_create_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(SandboxError, match="not empty"):
        Cluster.create(tmp_path, ["n1"])
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_node_comes_back_after_a_crash(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    create_tables(cluster)
    cluster["n2"].stop("immediate")
    cluster["n1"].execute(f"INSERT INTO {KEYED} VALUES (1, 'n1', 0)")
    cluster["n2"].start()
    wait_replicating(cluster.members)
    wait_level(cluster.members)
    assert cluster["n2"].execute(f"SELECT id FROM {KEYED}") == [(1,)]


def test_a_pause_does_not_outlive_the_server(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0, extra_conf={"spock.pause_timeout": "300"})
    create_tables(cluster)
    cluster["n1"].execute("SELECT spock.pause_apply_workers()")
    cluster["n1"].restart("immediate")
    cluster["n2"].execute(f"INSERT INTO {KEYED} VALUES (1, 'n2', 0)")
    wait_until(
        lambda: "" if cluster["n1"].execute(f"SELECT id FROM {KEYED}") == [(1,)] else "no row", 30, "the row to come"
    )


def test_a_blank_is_ready_to_join(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=0)
    node = cluster.add_blank("late")
    assert node.execute("SELECT extname FROM pg_extension WHERE extname IN ('spock', 'dblink') ORDER BY 1") == [
        ("dblink",),
        ("spock",),
    ]
    assert node.execute("SELECT count(*) FROM spock.local_node") == [(0,)]


def test_password_is_asked_for(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=0, mesh=False)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(cluster["n1"].dsn(password=False), passfile="/dev/null")
