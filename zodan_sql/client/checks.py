"""Let a database check a cluster, and add what only this machine can find out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import psycopg

from zodan_sql.client.connection import Where, connect, read_rows
from zodan_sql.client.operation import read_function
from zodan_sql.errors import ZodanError
from zodan_sql.words import size

DISK_SPACE = "disk-space"
#: Free space that a copy needs, as a multiple of the source's size: for the rows, and for the WAL they cause.
_ROOM = 2

_SERVER = (
    "SELECT pg_catalog.current_setting('data_directory'),"
    " pg_catalog.floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint"
)
_RECORDED = """
SELECT c.key, c.name, c.scope, c.severity, c.passed, c.observed, c.required, c.hint, c.verdict
  FROM zodan.operation AS o
 CROSS JOIN LATERAL ROWS FROM (pg_catalog.jsonb_to_recordset(coalesce(o.checks, '[]')) AS (
       key text, name text, scope text, severity text, passed boolean, observed text, required text, hint text,
       verdict text)) WITH ORDINALITY AS c(key, name, scope, severity, passed, observed, required, hint, verdict, place)
 WHERE o.operation_id = %(number)s
 ORDER BY c.place
"""
_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"


@dataclass(frozen=True)
class CheckResult:
    """A row of zodan.checks. ``passed`` is None if the answer is unknown."""

    key: str
    name: str
    scope: str
    severity: str
    passed: bool | None
    observed: str
    required: str
    hint: str
    verdict: str


def examine(where: Where, arguments: Mapping[str, str]) -> list[CheckResult]:
    """Return the rows of zodan.checks, called with named ``arguments``. Raises ZodanError."""
    return read_function(where, "checks", arguments, CheckResult)


def recorded(dsn: str, number: int) -> list[CheckResult]:
    """Return the checks made before an operation began, with their results then; none if the journal has none."""
    return read_rows(dsn, _RECORDED, {"number": number}, CheckResult)


def with_disk_space(results: list[CheckResult], src_dsn: str, new_node_dsn: str) -> list[CheckResult]:
    """Return the results with the new node's free space, if its data directory is on this machine."""
    if not any(result.key == DISK_SPACE for result in results):
        return results
    try:
        free = _free_space(new_node_dsn)
        with connect(src_dsn) as connection:
            row = connection.execute(_SIZE).fetchone()
    except (ZodanError, psycopg.Error, OSError):
        return results
    if free is None or row is None:
        return results
    needed = int(row[0])
    severity = "fail" if free < needed else "warn" if free < _ROOM * needed else "info"
    observed = f"the source has {size(needed)}, this server has {size(free)} free"
    return [
        replace(result, severity=severity, passed=severity == "info", observed=observed, verdict=severity.upper())
        if result.key == DISK_SPACE
        else result
        for result in results
    ]


def _free_space(dsn: str) -> int | None:
    """Return the free bytes of a server's file system, or None if the server may run on another machine."""
    with connect(dsn) as connection:
        row = connection.execute(_SERVER).fetchone()
        address = connection.info.hostaddr
    if row is None or (address and not ip_address(address).is_loopback):
        return None
    folder, started = Path(row[0]), int(row[1])
    # A tunnel may lead to another machine. So the server's start must match the postmaster.pid on this machine.
    lines = (folder / "postmaster.pid").read_text().splitlines()
    if abs(int(lines[2]) - started) > 1:
        return None
    return shutil.disk_usage(folder).free
