"""An operation with everything that the journal has about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from zodan_sql.client import checks, journal, samples, verify
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.connection import describe, read_rows
from zodan_sql.client.journal import Unit
from zodan_sql.client.operation import PlannedStep
from zodan_sql.client.samples import Sample
from zodan_sql.client.verify import VerifyResult
from zodan_sql.errors import caller_error

_OPERATION = """
SELECT o.operation_id AS number, o.kind, o.node, o.state, o.arguments, o.members, nullif(o.error, '') AS error,
       o.called_by, o.started_at, o.finished_at
  FROM zodan.operation AS o
 WHERE o.operation_id = %(number)s
"""
_STEPS = """
SELECT s.phase, s.phase_name, s.ordinal, s.kind, s.group_name, s.group_tries, s.policy, s.node, s.object_name, s.title,
       s.do_sql, s.done_sql, s.undo_sql, s.until_sql, s.budget, s.state,
       s.attempts, nullif(s.error, '') AS error, s.started_at, s.finished_at, s.result
  FROM zodan.step AS s
 WHERE s.operation_id = %(number)s
 ORDER BY s.ordinal
"""
_SURROUNDINGS = """
SELECT pg_catalog.current_database()::text AS database,
       pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1) AS postgresql,
       coalesce((SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'spock'), '') AS spock,
       zodan.version() AS zodan, pg_catalog.now() AS read_at
"""


@dataclass(frozen=True)
class RecordedStep(PlannedStep):
    """A row of zodan.step."""

    state: str
    attempts: int
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None
    #: What the step returned; for a step that waits, what it found at the end.
    result: dict[str, Any] | None = None


@dataclass(frozen=True)
class Surroundings:
    """Where and when the journal was read."""

    database: str
    postgresql: str
    spock: str
    zodan: str
    read_at: datetime


@dataclass(frozen=True)
class _Row:
    number: int
    kind: str
    node: str
    state: str
    arguments: dict[str, Any]
    members: dict[str, str]
    error: str | None
    called_by: str
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class Record(_Row):
    """A row of zodan.operation with its steps; state as in journal.Operation."""

    steps: list[RecordedStep]
    surroundings: Surroundings
    #: The checks made before the operation began, with their results then.
    checks: list[CheckResult] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    #: What a comparison of rows found: tables, and rows that are not equal.
    compared: list[VerifyResult] = field(default_factory=list)


def read(dsn: str, number: int) -> Record:
    """Return an operation of a database that has Zodan. Raises ZodanError (ZD001) if it does not exist."""
    found = read_rows(dsn, _OPERATION, {"number": number}, _Row)
    if not found:
        raise caller_error(
            f"there is no operation {number} in {describe(dsn)}", "Run zodan-sql operations to list them."
        )
    steps = read_rows(dsn, _STEPS, {"number": number}, RecordedStep)
    (surroundings,) = read_rows(dsn, _SURROUNDINGS, {}, Surroundings)
    # This query also sees whether the caller is still at work.
    (state,) = (each.state for each in journal.operations(dsn) if each.number == number)
    return Record(
        **{**vars(found[0]), "state": state},
        steps=steps,
        surroundings=surroundings,
        checks=checks.recorded(dsn, number),
        samples=samples.read(dsn, number),
        units=journal.units(dsn, number),
        compared=verify.recorded(dsn, number),
    )
