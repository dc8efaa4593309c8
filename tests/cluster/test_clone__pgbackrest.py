"""A backup that pgBackRest made before, restored by it and brought up to date by its archive, becomes a node."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.clones import clone, leave, make_place, password_file
from support.clusters import MakeCluster
from support.tables import create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, SandboxError
from zodan_sql.sandbox.mesh import wait_replicating
from zodan_sql.sandbox.os_user import give, make_folder, run

_STANZA = "app"
_RESTORED = "--restored"
#: What it says of a server that is newer than itself.
_TOO_NEW = "is this version of PostgreSQL supported?"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("pgbackrest") is None, reason="needs the package pgbackrest"),
]


@dataclass(frozen=True)
class _Backups:
    """What pgBackRest keeps of one server."""

    node: Node
    folder: Path

    @property
    def words(self) -> list[str]:
        """The words that every command begins with."""
        return ["pgbackrest", f"--config={self.folder / 'pgbackrest.conf'}", f"--stanza={_STANZA}"]

    def call(self, *words: str) -> None:
        """Run a command as the servers' user. Raises SandboxError if it fails."""
        secret = f"PGPASSFILE={password_file(self.node, self.folder)}"
        run(["env", secret, *self.words, *words])


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """Two members with rows, and n3, a place for a copy."""
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], 2000)
    wait_level(cluster.members)
    return cluster


@pytest.fixture
def backups(cluster: Cluster) -> _Backups:
    """A stanza of n1, which archives its WAL there."""
    n1 = cluster["n1"]
    folder = make_folder(cluster.base / "backups")
    with n1.connect() as connection:
        info = connection.info
        whom = {"pg1-user": info.user, "pg1-database": info.dbname, "pg1-socket-path": str(n1.socket_dir)}
    entries = {"repo1-path": folder / "repository", "log-path": folder, "lock-path": folder, "spool-path": folder}
    stanza = {"pg1-path": n1.data_dir, "pg1-port": n1.port, **whom}
    path = folder / "pgbackrest.conf"
    lines = ["[global]", *(f"{name}={value}" for name, value in entries.items()), "start-fast=y"]
    lines += [f"[{_STANZA}]", *(f"{name}={value}" for name, value in stanza.items())]
    path.write_text("\n".join(lines) + "\n")
    give(path)
    found = _Backups(n1, folder)
    with (n1.data_dir / "postgresql.conf").open("a") as file:
        file.write(f"archive_mode = on\narchive_command = '{' '.join(found.words)} archive-push %p'\n")
    n1.restart()
    wait_replicating(cluster.members)
    try:
        found.call("stanza-create")
    except SandboxError as error:
        if _TOO_NEW in str(error):
            pytest.skip(f"this pgbackrest does not know the server: {error}")
        raise
    return found


def test_an_old_backup_and_the_archive(cluster: Cluster, backups: _Backups) -> None:
    n1 = cluster["n1"]
    place = make_place(cluster)
    with Writers(cluster.members) as writers:
        backups.call("backup", "--type=full")
        with writers.excused(n1):
            n1.restart()
            wait_replicating(cluster.members)
        assert clone(n1, place, _RESTORED, "--prepare-only").code == 0
        make_folder(place.data_dir)
        backups.call(f"--pg1-path={place.data_dir}", "restore")
        ended = clone(n1, place, _RESTORED)
        assert ended.code == 0, ended.err + ended.out
    assert "the copy has everything up to" in ended.out
    assert writers.failures == []
    # It writes into nobody's stanza.
    assert place.execute("SHOW archive_mode") == [("off",)]
    leave(cluster, place)
