"""What waiting steps have measured: tables and bytes of a copy, the lag of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import class_row

from zodan_sql.client.connection import Connection, connect, read_rows
from zodan_sql.errors import ZodanError
from zodan_sql.words import size, span

#: The stage of a copy that copies rows. The stage before it creates the tables, the stage after it the indexes.
DATA = "data"
#: The stage after them that gathers statistics.
STATISTICS = "statistics"
#: The stage of a comparison of rows, which is no copy.
VERIFY = "verify"
_STAGES = {"indexes": "building indexes and constraints", STATISTICS: "gathering statistics", VERIFY: "comparing rows"}
#: A rate covers the newest stretch of the first length. Over less than the second length, the rate is unknown.
_STRETCH = timedelta(seconds=10)
_SHORTEST = timedelta(seconds=1)

_SAMPLE = """
SELECT s.ordinal, s.taken_at,
       CASE WHEN s.taken_at >= t.started_at THEN extract(epoch FROM s.taken_at - t.started_at)::float8 END AS waited_s,
       m.stage, m.tables_done, m.tables_total, m.bytes_done, m.bytes_total, m."table", m.table_bytes, m.lag_bytes,
       m.paused, m.behind
  FROM zodan.sample AS s
  JOIN zodan.step AS t ON t.operation_id = s.operation_id AND t.ordinal = s.ordinal
 CROSS JOIN LATERAL pg_catalog.jsonb_to_record(s.measure) AS m(stage text, tables_done bigint, tables_total bigint,
       bytes_done bigint, bytes_total bigint, "table" text, table_bytes bigint, lag_bytes bigint, paused text,
       behind text)
"""
_ALL = f"{_SAMPLE} WHERE s.operation_id = %(number)s ORDER BY s.taken_at, s.ordinal"
# A resumed call would also find the samples of the call before it.
_NEWEST = f"""
SELECT DISTINCT ON (n.ordinal) n.*
  FROM ({_SAMPLE}
         WHERE s.operation_id = coalesce(%(number)s::bigint, zodan.find_interrupted(%(kind)s, %(node)s))
           AND t.state = 'running' AND s.taken_at >= %(since)s) AS n
 ORDER BY n.ordinal, n.taken_at DESC
"""


@dataclass(frozen=True)
class Sample:
    """A row of zodan.sample; a value is None if it does not apply or is unknown."""

    ordinal: int
    taken_at: datetime
    #: Seconds since the step began; None for a sample of an earlier try.
    waited_s: float | None
    stage: str | None = None
    tables_done: int | None = None
    tables_total: int | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    table: str | None = None
    table_bytes: int | None = None
    lag_bytes: int | None = None
    #: What a copy is paused for.
    paused: str | None = None
    #: Who waits on the source for a lock of the copy.
    behind: str | None = None

    @property
    def is_copy(self) -> bool:
        """Whether the sample is of a copy, and not of a stream or a comparison."""
        return self.stage not in (None, VERIFY)

    @property
    def is_stream(self) -> bool:
        """Whether the sample is of a stream."""
        return self.stage is None


def read(dsn: str, number: int) -> list[Sample]:
    """Return the samples of an operation, oldest first."""
    return read_rows(dsn, _ALL, {"number": number}, Sample)


class Watch:
    """Reads the newest samples of an operation under way, over its own connection; never raises.

    ``number`` names the operation. If it is None, the unfinished operation of this kind on this node is meant.
    """

    def __init__(self, dsn: str, number: int | None, kind: str, node: str) -> None:
        self._dsn = dsn
        self._named: dict[str, object] = {"number": number, "kind": kind, "node": node}
        self._connection: Connection | None = None

    def newest(self) -> list[Sample]:
        """Return the newest sample of each step that is waiting; none if the database does not answer."""
        try:
            if self._connection is None:
                self._connection = connect(self._dsn)
                (since,) = self._connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone() or (None,)
                self._named.setdefault("since", since)
            with self._connection.cursor(row_factory=class_row(Sample)) as cursor:
                return cursor.execute(_NEWEST, self._named).fetchall()
        except (psycopg.Error, ZodanError):
            self.close()
            return []

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def rate(trail: Sequence[Sample]) -> float | None:
    """Return the current rate of a copy in bytes a second from its samples, oldest first; None if unknown."""
    if not trail or trail[-1].stage != DATA or trail[-1].bytes_done is None:
        return None
    newest = trail[-1]
    before = [
        (newest.taken_at - sample.taken_at, sample.bytes_done)
        for sample in trail[:-1]
        if sample.stage == DATA and sample.bytes_done is not None
    ]
    stretches = [each for each in before if each[0] >= _SHORTEST]
    if not stretches:
        return None
    long_ago, bytes_then = next((each for each in reversed(stretches) if each[0] >= _STRETCH), stretches[0])
    return max(0.0, (trail[-1].bytes_done - bytes_then) / long_ago.total_seconds())


def seconds_left(sample: Sample, bytes_per_s: float | None) -> float | None:
    """Return how many seconds the remaining rows of a copy take at a rate; None if unknown."""
    if not bytes_per_s or sample.bytes_done is None or sample.bytes_total is None:
        return None
    # The copy may exceed the total: tables grow meanwhile, and pages are not as full as on the source.
    missing = sample.bytes_total - sample.bytes_done
    return missing / bytes_per_s if missing > 0 else None


def describe_tables(sample: Sample) -> str:
    """Return how many tables of a copy are done."""
    if sample.tables_total is None:
        return f"{_known(sample.tables_done)} tables of an unknown number"
    return f"{_known(sample.tables_done)} of {sample.tables_total} table{'' if sample.tables_total == 1 else 's'}"


def describe_bytes(sample: Sample, bytes_per_s: float | None) -> str:
    """Return the state of a copy: bytes, rate and time left, or a stage without these; and the current table."""
    if sample.stage == DATA:
        total = "an unknown total" if sample.bytes_total is None else f"about {size(sample.bytes_total)}"
        left = seconds_left(sample, bytes_per_s)
        facts = [
            f"{size(sample.bytes_done) or 'unknown'} of {total}",
            "rate unknown" if bytes_per_s is None else f"{size(bytes_per_s)}/s",
            "time left unknown" if left is None else f"about {span(max(1, round(left)))} left",
        ]
    else:
        facts = [_STAGES.get(sample.stage or "", sample.stage or "unknown")]
    return ", ".join(
        [
            *facts,
            *([f"now {sample.table}"] if sample.table else []),
            *([f"paused, waiting for {sample.paused}"] if sample.paused else []),
            *([sample.behind] if sample.behind else []),
        ]
    )


def describe(sample: Sample, bytes_per_s: float | None = None) -> str:
    """Return a sample in one line."""
    if not sample.is_stream:
        what = "copy" if sample.is_copy else "comparison"
        return f"{what}: {describe_tables(sample)}, {describe_bytes(sample, bytes_per_s)}"
    return f"{size(sample.lag_bytes) or 'an unknown amount'} behind"


def _known(count: int | None) -> str:
    return "unknown" if count is None else str(count)
