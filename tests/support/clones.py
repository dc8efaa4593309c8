"""Physical copies: a place for the new server, and the command that clones into it."""

from __future__ import annotations

from pathlib import Path

from support.calls import exceptions, remove_node
from support.shell import Ended, run
from support.tables import TABLES, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node
from zodan_sql.sandbox.os_user import give, remove_folder


def make_place(cluster: Cluster, name: str = "n3") -> Node:
    """Return a blank of a cluster as a place for a server: its port is free, and its data directory gone."""
    place = cluster[name]
    if place.is_running():
        place.stop()
    remove_folder(place.data_dir)
    return place


def take_in(cluster: Cluster, place: Node) -> None:
    """Make a server that has joined one of the cluster's members."""
    cluster.blanks.remove(place)
    cluster.members.append(place)


def _place_words(place: Node) -> list[str]:
    words = ["--new-node-name", place.name, "--new-node-dsn", place.dsn(), "--pgdata", str(place.data_dir)]
    return [*words, "--pg-bin", str(place.engine.pg_bin), "--set", f"unix_socket_directories={place.socket_dir}"]


def leave(cluster: Cluster, place: Node) -> None:
    """Make a server that has joined a member, check that all have the same rows, and remove it again."""
    take_in(cluster, place)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert exceptions(cluster.members) == []
    remove_node(cluster, place.name, at="n1")


def clone_words(source: Node, place: Node, *more: str) -> list[str]:
    """Return the words that clone ``source`` to ``place``."""
    return ["clone", "--src-node-name", source.name, "--src-dsn", source.dsn(), *_place_words(place), *more]


def replace_words(old: Node, place: Node, *more: str) -> list[str]:
    """Return the words that replace ``old`` by a clone in ``place``."""
    words = ["replace-node", "--old-node-name", old.name, "--old-node-dsn", old.dsn(), "--clone"]
    return [*words, *_place_words(place), *more]


def clone(source: Node, place: Node, *more: str, **environment: str) -> Ended:
    """Clone ``source`` to ``place``."""
    return run(*clone_words(source, place, *more), **environment)


def replace(old: Node, place: Node, *more: str, **environment: str) -> Ended:
    """Replace ``old`` by a clone in ``place``."""
    return run(*replace_words(old, place, *more), **environment)


def record_of(place: Node) -> Path:
    """Return the file in which an unfinished clone keeps what it knows."""
    return place.data_dir.with_name("data.zodan-clone.json")


def password_file(source: Node, folder: Path) -> Path:
    """Write a password file for whoever backs up ``source``, and return its path."""
    path = folder / "passwords"
    with source.connect() as connection:
        password = connection.info.password.replace("\\", "\\\\").replace(":", "\\:")
    path.write_text(f"*:*:*:*:{password}\n")
    give(path)
    path.chmod(0o600)
    return path
