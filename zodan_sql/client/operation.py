"""Call Zodan in a database and hand its messages on as they arrive (design, section 1)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, LiteralString, TypeVar, cast

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from zodan_sql.client.redaction import parse_dsn
from zodan_sql.errors import from_database

#: Seconds to wait for a server that does not answer, unless the connection string says otherwise.
CONNECT_TIMEOUT = 10

#: Takes a message's severity (NOTICE, WARNING, ...), its text, and its hint.
OnMessage = Callable[[str, str, str], None]

_HIDE = """
SELECT pg_catalog.set_config(s.name, s.value, false)
  FROM (VALUES ('log_statement', 'none'), ('log_min_duration_statement', '-1'), ('log_min_duration_sample', '-1'),
               ('log_transaction_sample_rate', '0'), ('auto_explain.log_min_duration', '-1'),
               ('log_parameter_max_length_on_error', '0'),
               ('pg_stat_statements.track_utility', 'off')) AS s(name, value)
 WHERE pg_catalog.has_parameter_privilege(s.name, 'SET')
"""

Row = TypeVar("Row")

#: A connection string, or a connection in whose transaction Zodan is for a while.
Where = str | psycopg.Connection[Any]


@dataclass(frozen=True)
class PlannedStep:
    """A row of a plan (design, section 3)."""

    phase: int
    ordinal: int
    section: str | None
    node: str
    title: str
    do_sql: str | None
    done_sql: str | None
    undo_sql: str | None
    until_sql: str | None
    budget: Any


def connect(dsn: str, option: str = "--dsn", *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Open a connection. Raises ZodanError with what the server, or the way to it, said."""
    settings = parse_dsn(dsn, option)
    settings.setdefault("connect_timeout", str(CONNECT_TIMEOUT))
    settings.setdefault("fallback_application_name", "zodan-sql")
    try:
        connection = psycopg.connect(autocommit=autocommit, **settings)  # type: ignore[arg-type]
        # What a server notes when a statement begins, or is bound, is there before Zodan can hide it.
        connection.execute(_HIDE)
        if not autocommit:
            connection.commit()
        return connection
    except psycopg.Error as error:
        failed = from_database(error)
        failed.hint = failed.hint or "Check that the server runs, its address, the password and its pg_hba.conf."
        raise failed from None


def call(
    dsn: str,
    procedure: str,
    arguments: Mapping[str, object],
    on_message: OnMessage,
    *,
    schema: str = "spock",
    statements: bool = False,
) -> None:
    """CALL a procedure of a schema by name with the arguments given, which are bound, never printed.

    Messages go to ``on_message`` while it runs, those of severity DEBUG only for ``statements``. Interrupting
    (KeyboardInterrupt) cancels the statement on the server and waits for its end. Raises ZodanError with the
    server's SQLSTATE.
    """
    statement = sql.SQL("CALL {}({})").format(sql.Identifier(schema, procedure), _named(arguments))
    with connect(dsn) as connection:
        connection.add_notice_handler(lambda said: _hand_on(said, on_message))
        try:
            if statements:
                connection.execute("SET client_min_messages = debug1")
            connection.execute(statement, _values(arguments))
        except psycopg.Error as error:
            raise from_database(error) from None


def plan(where: Where, function: str, arguments: Mapping[str, object]) -> list[PlannedStep]:
    """Return the rows of a plan function of schema zodan, in order."""
    return sorted(read_function(where, function, arguments, PlannedStep), key=lambda step: step.ordinal)


def read_function(where: Where, function: str, arguments: Mapping[str, object], kind: type[Row]) -> list[Row]:
    """Return the rows of a function of schema zodan, in its order, as ``kind``, a dataclass. Raises ZodanError."""
    statement = sql.SQL("SELECT {} FROM zodan.{}({})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in fields(cast(Any, kind))),
        sql.Identifier(function),
        _named(arguments),
    )
    return read_rows(where, statement, _values(arguments), kind)


def read_rows(
    where: Where,
    query: LiteralString | sql.Composed,
    parameters: Mapping[str, object],
    kind: type[Row],
    on_message: OnMessage | None = None,
) -> list[Row]:
    """Return the rows of a query as ``kind``, whose fields its columns are. Raises ZodanError."""
    opened = connect(where) if isinstance(where, str) else nullcontext(where)
    with opened as connection, connection.cursor(row_factory=class_row(kind)) as cursor:
        if on_message is not None:
            connection.add_notice_handler(lambda said: _hand_on(said, on_message))
        try:
            return cursor.execute(query, parameters).fetchall()
        except psycopg.Error as error:
            raise from_database(error) from None


def _hand_on(said: psycopg.errors.Diagnostic, on_message: OnMessage) -> None:
    severity = said.severity_nonlocalized or "NOTICE"
    # The server itself has things to say to whoever listens for DEBUG.
    if severity.startswith("DEBUG") and said.source_function != "exec_stmt_raise":
        return
    on_message(severity, said.message_primary or "", said.message_hint or "")


def _named(arguments: Mapping[str, object]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )


def _values(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in arguments.items()}
