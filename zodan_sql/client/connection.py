"""Connections: read a connection string, open a connection, and read rows through it."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row

from zodan_sql.building import render
from zodan_sql.errors import caller_error, from_database

#: Seconds after which a Ctrl-C is repeated that came while a message was handed on.
_AGAIN_S = 0.1

#: Takes a message's severity (NOTICE, WARNING, ...), its text, and its hint.
OnMessage = Callable[[str, str, str], None]

Connection = psycopg.Connection[Any]

#: A connection string, or a connection whose transaction has loaded Zodan.
Where = str | Connection

Row = TypeVar("Row")

#: Not every server has each of the limits.
_SETTINGS = """
SELECT pg_catalog.set_config(s.name, s.value, false)
  FROM (VALUES {}) AS s(name, value)
 WHERE pg_catalog.has_parameter_privilege(s.name, 'SET')
 UNION ALL
SELECT pg_catalog.set_config(s.name, '0', false)
  FROM pg_catalog.pg_settings AS s
 WHERE s.name IN ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout',
                  'idle_session_timeout')
"""


_URI = re.compile(r"postgres(?:ql)?://(?:[^@/]*@)?(?P<hosts>[^/?]*)(?:/(?P<path>[^?]*))?")


def is_misread(dsn: str, port: str) -> bool:
    """Tell whether libpq takes a piece of a URI's password for a host, a port or a database, and would show it."""
    found = _URI.match(dsn)
    return found is not None and (
        "@" in found["hosts"]
        or re.search("@[^/]*/", found["path"] or "") is not None
        or re.fullmatch("[0-9, ]*", port) is None
    )


def parse_dsn(dsn: str, option: str) -> dict[str, str]:
    """Return a connection string's settings. The error names ``option`` and never repeats the string."""
    try:
        settings = conninfo_to_dict(dsn)
    except psycopg.Error:
        settings = {}
    if not settings:
        # The parser's own message quotes pieces of the string, and a piece may be part of a password.
        raise caller_error(
            f"{option} is not a connection string",
            "Write key=value pairs with values quoted where they hold spaces, or postgresql://user@host:port/database.",
        ) from None
    if is_misread(dsn, str(settings.get("port", ""))):
        raise caller_error(
            f"{option} has an @, / or : where none belongs in a URI",
            "Percent-encode the special characters of user and password: write %40 for @, %2F for /, %3A for :.",
        )
    return {name: str(value) for name, value in settings.items()}


def describe(dsn: str, option: str = "--dsn") -> str:
    """Return the target of a connection string for a message: database, host and port, nothing else."""
    settings = parse_dsn(dsn, option)
    database = settings.get("dbname") or settings.get("service") or settings.get("user") or "default"
    host, port = settings.get("host") or settings.get("hostaddr"), settings.get("port")
    return f'database "{database}"' + (f" on {host}" if host else "") + (f" port {port}" if port else "")


def connect(dsn: str, option: str = "--dsn", *, autocommit: bool = True) -> Connection:
    """Open a connection. Raises ZodanError with the error of the server or of the connection to it."""
    settings = parse_dsn(dsn, option)
    settings.setdefault("connect_timeout", str(render.read_default("connect_timeout", int)))
    settings.setdefault("fallback_application_name", "zodan-sql")
    # In SQL_ASCII, texts would come as bytes.
    settings["client_encoding"] = "UTF8"
    try:
        connection = psycopg.connect(autocommit=autocommit, **settings)  # type: ignore[arg-type]
        # A server may log a statement when it begins or is bound. Only the client can switch this off in time.
        connection.execute(_set())
        if not autocommit:
            connection.commit()
        return connection
    except psycopg.Error as error:
        failed = from_database(error)
        failed.hint = failed.hint or "Check that the server is running, its address, the password and its pg_hba.conf."
        raise failed from None


@cache
def _set() -> sql.Composed:
    """Return a query that keeps statements out of a server's log and statistics, as far as the session may.

    It also ends the limits that somebody has set for the database or the role: they are for applications, and so is a
    default that transactions are read-only.
    """
    ended: dict[str, str] = render.read_default("unlogged", dict)
    settings = {
        "log_statement": "none",
        **ended,
        "log_parameter_max_length_on_error": "0",
        "default_transaction_read_only": "off",
        "pg_stat_statements.track_utility": "off",
    }
    rows = (sql.SQL("({}, {})").format(name, value) for name, value in settings.items())
    return sql.SQL(_SETTINGS).format(sql.SQL(", ").join(rows))


def read_rows(
    where: Where,
    query: LiteralString | sql.Composed,
    parameters: Mapping[str, object],
    kind: type[Row],
    on_message: OnMessage | None = None,
) -> list[Row]:
    """Return the rows of a query as ``kind``, a class with the columns as fields. Raises ZodanError."""
    opened = connect(where) if isinstance(where, str) else nullcontext(where)
    with opened as connection, connection.cursor(row_factory=class_row(kind)) as cursor:
        if on_message is not None:
            listen(connection, on_message)
        try:
            return cursor.execute(query, parameters).fetchall()
        except psycopg.Error as error:
            raise from_database(error) from None


def listen(connection: Connection, on_message: OnMessage) -> None:
    """Pass the messages of a server to ``on_message`` while statements run."""
    connection.add_notice_handler(lambda said: _hand_on(said, on_message))


def _hand_on(said: psycopg.errors.Diagnostic, on_message: OnMessage) -> None:
    try:
        severity = said.severity_nonlocalized or "NOTICE"
        # The server itself also sends DEBUG messages; only those of Zodan's RAISE count.
        if not severity.startswith("DEBUG") or said.source_function == "exec_stmt_raise":
            on_message(severity, said.message_primary or "", said.message_hint or "")
    except KeyboardInterrupt:
        # psycopg drops what is raised here. It comes again when the connection waits for the statement.
        again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
