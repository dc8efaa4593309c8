"""The units of an operation: what was copied, built and analyzed, and in which session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from zodan_sql.client.connection import read_rows

_UNITS = """
SELECT u.phase_name, u.number, u.title, u.state, u.lane, u.bytes, u.rows, u.attempts, nullif(u.error, '') AS error,
       u.started_at, u.finished_at
  FROM zodan.unit AS u
  LEFT JOIN zodan.step AS s ON s.operation_id = u.operation_id AND s.phase_name = u.phase_name AND s.units IS NOT NULL
 WHERE u.operation_id = %(number)s
 ORDER BY s.ordinal, u.number
"""


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


def read(dsn: str, number: int) -> list[Unit]:
    """Return the units of an operation in the order of its plan."""
    return read_rows(dsn, _UNITS, {"number": number}, Unit)
