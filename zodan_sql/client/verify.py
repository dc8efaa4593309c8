"""Compare the rows of a cluster's nodes: begin, take on step by step, and report. The state is between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.types.json import Jsonb

from zodan_sql.client.connection import Connection, OnMessage, connect, listen, read_rows
from zodan_sql.client.install import borrowed
from zodan_sql.errors import from_database

#: Seconds after which a transaction that has loaded Zodan is rolled back and another one goes on.
_LOAN_S = 20.0

_BEGIN = """
SELECT b.p_state, b.p_dsns
  FROM zodan.begin_verify(%(dsn)s, %(tables)s::text[], %(nodes)s::text[], %(jobs)s::int, %(most)s::int,
       %(max_lag)s::interval) AS b
"""
_ADVANCE = "SELECT a.state, zodan.tell_verify(a.state) FROM zodan.advance_verify(%(state)s, %(dsns)s) AS a(state)"
_REPORT = """
SELECT r.table_name, r.row_key, r.result, r.compared, r.equal, r.different, r.undecided, r.seconds::float8 AS seconds,
       r.why, r.nodes
  FROM zodan.report_verify(%(state)s) AS r ORDER BY r.table_name, r.row_key NULLS FIRST
"""
_CLOSE = "SELECT zodan.close_connections()"


@dataclass(frozen=True)
class VerifyResult:
    """A row of zodan.verify: about a table, or about a row if it has a key."""

    table_name: str
    row_key: dict[str, str] | None
    result: str
    compared: int | None
    equal: int | None
    different: int | None
    undecided: int | None
    seconds: float | None
    why: str | None
    nodes: dict[str, Any] | None


def verify(
    dsn: str,
    arguments: Mapping[str, object],
    on_message: OnMessage,
    on_progress: Callable[[str], None],
) -> list[VerifyResult]:
    """Compare rows, and return what zodan.verify returns. ``on_progress`` gets a line about every second.

    ``arguments`` has tables, nodes, jobs, most and max_lag, or None. If Zodan is not installed in the database, it is
    loaded in a transaction that is rolled back, and again after a while: no transaction stays open for long. Raises
    ZodanError.
    """
    state: dict[str, Any] | None = None
    dsns: dict[str, Any] = {}
    while True:
        with ExitStack() as stack:
            where = stack.enter_context(borrowed(dsn))
            connection = stack.enter_context(connect(where)) if isinstance(where, str) else where
            until = None if isinstance(where, str) else time.monotonic() + _LOAN_S
            try:
                if state is None:
                    listen(connection, on_message)
                    state, dsns = _ask(connection, _BEGIN, {"dsn": dsn, **arguments})
                while not state.get("finished") and (until is None or time.monotonic() < until):
                    state, line = _ask(connection, _ADVANCE, {"state": Jsonb(state), "dsns": Jsonb(dsns)})
                    on_progress(line)
                connection.execute(_CLOSE)
                if state.get("finished"):
                    return read_rows(connection, _REPORT, {"state": Jsonb(state)}, VerifyResult)
            except psycopg.Error as error:
                raise from_database(error) from None


def _ask(connection: Connection, query: LiteralString, parameters: Mapping[str, object]) -> tuple[Any, Any]:
    (row,) = connection.execute(query, parameters).fetchall()
    return row[0], row[1]
