"""Call Zodan in a database, and pass on its messages as they arrive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import psycopg
from psycopg import sql

from zodan_sql.client.connection import OnMessage, Row, Where, connect, listen, read_rows
from zodan_sql.errors import from_database


@dataclass(frozen=True)
class PlannedStep:
    """A row of a plan: docs/explanation/protocol.md explains its columns."""

    phase: int
    phase_name: str
    ordinal: int
    kind: str
    group_name: str | None
    group_tries: int | None
    policy: str | None
    node: str
    object_name: str | None
    title: str
    do_sql: str | None
    done_sql: str | None
    undo_sql: str | None
    until_sql: str | None
    budget: Any


def call(
    dsn: str,
    procedure: str,
    arguments: Mapping[str, object],
    on_message: OnMessage,
    *,
    schema: str = "spock",
    statements: bool = False,
) -> None:
    """CALL a procedure with named arguments. They are bound, and never printed.

    ``on_message`` gets the messages while the procedure runs, those of severity DEBUG only with ``statements``. A
    KeyboardInterrupt cancels the statement on the server and waits for its end. Raises ZodanError with the server's
    SQLSTATE.
    """
    statement = sql.SQL("CALL {}({})").format(sql.Identifier(schema, procedure), _named(arguments))
    with connect(dsn) as connection:
        listen(connection, on_message)
        try:
            # If this process is killed while the call waits, the call ends too, and another can go on.
            connection.execute("SET client_connection_check_interval = '1s'")
            if statements:
                connection.execute("SET client_min_messages = debug1")
            connection.execute(statement, _values(arguments))
        except psycopg.Error as error:
            raise from_database(error) from None


def plan(where: Where, function: str, arguments: Mapping[str, object]) -> list[PlannedStep]:
    """Return the rows of a plan function of schema zodan, in order. Raises ZodanError."""
    return sorted(read_function(where, function, arguments, PlannedStep), key=lambda step: step.ordinal)


def read_function(where: Where, function: str, arguments: Mapping[str, object], kind: type[Row]) -> list[Row]:
    """Return the rows of a function of schema zodan as ``kind``, a dataclass, in their order. Raises ZodanError."""
    statement = sql.SQL("SELECT {} FROM zodan.{}({})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in fields(cast(Any, kind))),
        sql.Identifier(function),
        _named(arguments),
    )
    return read_rows(where, statement, _values(arguments), kind)


def _named(arguments: Mapping[str, object]) -> sql.Composed:
    return sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
    )


def _values(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in arguments.items()}
