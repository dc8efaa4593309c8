"""Casts the net: hooks wherever something comes out of the tests' process, of its children and of its servers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.secrets import Net
from zodan_sql.sandbox import Cluster, Node

NET = Net()

#: Files larger than this are no report of ours.
_LARGEST = 4 << 20
_TEXTS = ("", ".html", ".svg", ".json", ".txt", ".md", ".log", ".sql", ".control", ".mmd", ".dot")
_CONNECTION = "connect_timeout=5 options='-c statement_timeout=20s'"
_DATABASES = "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template1'"
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('zodan') AND relkind = 'r'"
_alive: list[Cluster] = []


class _Cursor(psycopg.Cursor[Any]):
    """Tells the net of every error that a statement meets."""

    def execute(self, *arguments: Any, **options: Any) -> _Cursor:
        try:
            return super().execute(*arguments, **options)
        except psycopg.Error as error:
            NET.add("error", _name(self.connection), everything_of(error))
            raise

    def executemany(self, *arguments: Any, **options: Any) -> None:
        try:
            super().executemany(*arguments, **options)
        except psycopg.Error as error:
            NET.add("error", _name(self.connection), everything_of(error))
            raise


def words_of(diagnostic: psycopg.errors.Diagnostic) -> str:
    """Return every word of an error or a notice."""
    parts = (
        diagnostic.message_primary,
        diagnostic.message_detail,
        diagnostic.message_hint,
        diagnostic.context,
        diagnostic.internal_query,
    )
    return "\n".join(part for part in parts if part)


def everything_of(error: psycopg.Error) -> str:
    """Return every word of an error, as the server and as psycopg say it."""
    return f"{words_of(error.diag)}\n{error}"


def cast() -> None:
    """Hook in. Everything that connects does it by ``psycopg.connect``, every command by ``subprocess``."""
    connect, communicate, read = psycopg.connect, subprocess.Popen.communicate, pytest.CaptureFixture.readouterr
    create, destroy = Cluster.create.__func__, Cluster.destroy  # type: ignore[attr-defined]

    def watched_connect(*arguments: Any, **options: Any) -> psycopg.Connection[Any]:
        try:
            connection = connect(*arguments, **options)
        except psycopg.Error as error:
            NET.add("error", "connecting", everything_of(error))
            raise
        where = _name(connection)
        connection.add_notice_handler(lambda said: NET.add("notice", where, words_of(said)))
        if connection.cursor_factory is psycopg.Cursor:
            connection.cursor_factory = _Cursor
        return connection

    def watched_communicate(self: subprocess.Popen[Any], *arguments: Any, **options: Any) -> tuple[Any, Any]:
        said = communicate(self, *arguments, **options)
        for name, text in zip(("stdout", "stderr"), said, strict=True):
            NET.add("command", f"{name} of {_command(self.args)}", _text(text))
        return said

    def watched_read(self: pytest.CaptureFixture[Any]) -> Any:
        said = read(self)
        NET.add("command", "stdout in this process", _text(said.out))
        NET.add("command", "stderr in this process", _text(said.err))
        return said

    def watched_create(kind: type[Cluster], *arguments: Any, **options: Any) -> Cluster:
        cluster: Cluster = create(kind, *arguments, **options)
        _alive.append(cluster)
        return cluster

    def watched_destroy(self: Cluster) -> None:
        look(self)
        if self in _alive:
            _alive.remove(self)
        destroy(self)

    psycopg.connect = watched_connect
    subprocess.Popen.communicate = watched_communicate  # type: ignore[method-assign]
    pytest.CaptureFixture.readouterr = watched_read  # type: ignore[method-assign]
    Cluster.create = classmethod(watched_create)  # type: ignore[assignment, method-assign]
    Cluster.destroy = watched_destroy  # type: ignore[method-assign]


def look(cluster: Cluster) -> None:
    """Take every server's log, and every row that Zodan keeps in a database of theirs."""
    for node in cluster.nodes:
        NET.add_log(f"log of {node.name}", node.log_text())
        if node.is_running():
            try:
                _take_rows(node)
            except psycopg.Error as error:
                NET.missed.append(f"the rows of {node.name}, {NET.test}: {error}")


def look_at_the_living() -> None:
    """Do so for the clusters that are not destroyed yet."""
    for cluster in _alive:
        look(cluster)


def take_files(folder: Path) -> None:
    """Take every file below a folder that is one of text."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXTS and path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            NET.add("file", path.name, path.read_text(encoding="utf-8", errors="replace"))


def _take_rows(node: Node) -> None:
    with psycopg.Connection.connect(f"{node.local_dsn('postgres')} {_CONNECTION}") as connection:
        databases = [str(name) for (name,) in connection.execute(_DATABASES)]
    for database in databases:
        # The name of the database may be one that needs quoting.
        with psycopg.Connection.connect(f"{node.local_dsn('postgres')} {_CONNECTION}", dbname=database) as connection:
            for (table,) in connection.execute(_TABLES).fetchall():
                rows = connection.execute(sql.SQL("SELECT t::text FROM zodan.{} AS t").format(sql.Identifier(table)))
                text = "\n".join(row for (row,) in rows)
                NET.add("row", f"zodan.{table} in {database} on {node.name}", text)


def _name(connection: psycopg.Connection[Any]) -> str:
    return "a connection" if connection.closed else f"database {connection.info.dbname} on {connection.info.port}"


def _command(arguments: Any) -> str:
    """Name a command without its options, which have connection strings."""
    parts = [str(arguments)] if isinstance(arguments, (str, bytes, Path)) else [str(part) for part in arguments]
    return " ".join([Path(parts[0]).name, *(part for part in parts[1:3] if not part.startswith("-"))])[:60]


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else (said or "")
