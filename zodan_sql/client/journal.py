"""The journal of a database: its operations, how far each came, and whether somebody is still working on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from zodan_sql.building import render
from zodan_sql.client.connection import Connection, connect, read_rows
from zodan_sql.errors import from_database

#: The state of an operation that the journal has as running, although nobody is working on it.
INTERRUPTED = "interrupted"

# While an operation is under way, members hold its lock. A database that is no member shows only the call.
_UNDER_WAY = r"""
EXISTS (SELECT FROM pg_catalog.pg_locks AS l
         WHERE l.locktype = 'advisory' AND l.granted
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                              WHERE d.datname = pg_catalog.current_database())
           AND l.classid::bigint << 32 | l.objid::bigint = %(lock_key)s)
OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
              AND a.state = 'active' AND a.query ~* '^\s*CALL\s+"?(spock|zodan)"?\.')
"""
_OPERATIONS = f"""
SELECT o.operation_id AS number, o.kind, o.node,
       CASE WHEN o.state = 'running' AND NOT ({_UNDER_WAY}) THEN '{INTERRUPTED}' ELSE o.state END AS state,
       pg_catalog.to_char(o.started_at, 'YYYY-MM-DD HH24:MI:SSTZH:TZM') AS started,
       extract(epoch FROM o.finished_at - o.started_at)::float8 AS took_s, o.error
  FROM zodan.operation AS o
 ORDER BY o.operation_id
"""
_STEPS = """
SELECT s.phase, s.phase_name, s.ordinal, s.kind, s.node, s.object_name, s.title, s.state,
       extract(epoch FROM s.finished_at - s.started_at)::float8 AS took_s, s.error, s.waiting_for
  FROM zodan.step AS s
 WHERE s.operation_id = %(number)s
 ORDER BY s.ordinal
"""
_UNITS = """
SELECT u.phase_name, u.number, u.title, u.state, u.lane, u.bytes, u.rows, u.attempts, nullif(u.error, '') AS error,
       u.started_at, u.finished_at
  FROM zodan.unit AS u
  LEFT JOIN zodan.step AS s ON s.operation_id = u.operation_id AND s.phase_name = u.phase_name AND s.units IS NOT NULL
 WHERE u.operation_id = %(number)s
 ORDER BY s.ordinal, u.number
"""
#: Arguments of a replacement that may change when it goes on.
_FREE = ("jobs", "max_rate", "max_lag", "soak", "quiet")
_CHANGE = """
SELECT zodan.check_jobs(a.jobs), zodan.check_limits(a.max_rate, a.max_lag), zodan.check_soak(a.soak, a.quiet),
       zodan.set_arguments(%(number)s, pg_catalog.to_jsonb(a)), zodan.set_lanes(%(number)s, a.jobs),
       zodan.set_limits(%(number)s, pg_catalog.jsonb_build_object('max_rate', a.max_rate, 'max_lag', a.max_lag))
  FROM (SELECT %(jobs)s::int AS jobs, %(max_rate)s::bigint AS max_rate, %(max_lag)s::interval AS max_lag,
               %(soak)s::interval AS soak, %(quiet)s::interval AS quiet) AS a
"""


@dataclass(frozen=True)
class Operation:
    """A row of zodan.operation."""

    number: int
    kind: str
    node: str
    #: As in the table, or INTERRUPTED.
    state: str
    started: str
    took_s: float | None
    error: str | None

    @property
    def has_ended(self) -> bool:
        """Whether it can neither go on nor be rolled back."""
        return self.state in ("done", "rolled back", "given up")


@dataclass(frozen=True)
class Step:
    """A row of zodan.step."""

    phase: int
    phase_name: str
    ordinal: int
    kind: str
    node: str
    object_name: str | None
    title: str
    state: str
    took_s: float | None
    error: str | None
    #: What holds the step up, as far as it is known.
    waiting_for: str | None = None


@dataclass(frozen=True)
class Unit:
    """A row of zodan.unit."""

    phase_name: str
    number: int
    title: str
    state: str
    #: The session, from 1; None if the unit waits for one.
    lane: int | None
    bytes: int
    rows: int | None
    attempts: int
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None


def operations(dsn: str) -> list[Operation]:
    """Return the operations of a database that has Zodan, oldest first. Raises ZodanError."""
    with connect(dsn) as connection:
        return read_operations(connection)


def read_operations(connection: Connection) -> list[Operation]:
    """Return the same as ``operations``, through an open connection."""
    with connection.cursor(row_factory=class_row(Operation)) as cursor:
        return cursor.execute(_OPERATIONS, {"lock_key": render.read_default("lock_key", int)}).fetchall()


def steps(dsn: str, number: int) -> list[Step]:
    """Return the steps of an operation in the order of its plan; none if the operation does not exist."""
    with connect(dsn) as connection, connection.cursor(row_factory=class_row(Step)) as cursor:
        return cursor.execute(_STEPS, {"number": number}).fetchall()


def units(dsn: str, number: int) -> list[Unit]:
    """Return what an operation copied, built and analyzed, in the order of its plan."""
    return read_rows(dsn, _UNITS, {"number": number}, Unit)


def change(dsn: str, number: int, arguments: Mapping[str, object]) -> None:
    """Give an operation that goes on other arguments, those that may change on the way. Raises ZodanError."""
    given = {name: arguments[name] for name in _FREE if arguments.get(name) is not None}
    with connect(dsn) as connection:
        try:
            connection.execute(_CHANGE, {**dict.fromkeys(_FREE), **given, "number": number})
        except psycopg.Error as error:
            raise from_database(error) from None


def find_newest(dsn: str, kinds: Collection[str], node: str) -> Operation | None:
    """Return the last operation of some kinds on a node, in any state; None if there is none, or no journal."""
    with connect(dsn) as connection:
        if connection.execute("SELECT pg_catalog.to_regclass('zodan.operation') IS NULL").fetchone() == (True,):
            return None
        found = [each for each in read_operations(connection) if each.kind in kinds and each.node == node]
    return found[-1] if found else None


def find_unfinished(dsn: str, kind: str, node: str) -> int | None:
    """Return the number of the newest operation of a kind on a node, None if it has ended."""
    with connect(dsn) as connection:
        row = connection.execute("SELECT zodan.find_interrupted(%s, %s)", [kind, node]).fetchone()
    return row[0] if row else None
