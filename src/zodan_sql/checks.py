"""Ask a database to examine a cluster, and add what only this machine may know (design, sections 1 and 4)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from zodan_sql.errors import ZodanError, from_database
from zodan_sql.operation import connect

DISK_SPACE = "disk space"
#: Free space that a copy should find, as a multiple of the source's size: the rows, and the WAL they are written with.
_ROOM = 2

_SERVER = (
    "SELECT pg_catalog.current_setting('data_directory'),"
    " pg_catalog.floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint"
)
_SIZE = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())"


@dataclass(frozen=True)
class CheckResult:
    """A row of zodan.checks. ``passed`` is None where something cannot be known."""

    name: str
    scope: str
    severity: str
    passed: bool | None
    observed: str
    required: str
    hint: str

    @property
    def mark(self) -> str:
        """Return PASS, FAIL, WARN or INFO."""
        if self.severity == "info" or self.passed is None:
            return "INFO"
        if self.passed:
            return "PASS"
        return "FAIL" if self.severity == "fail" else "WARN"


def examine(dsn: str, arguments: Mapping[str, str]) -> list[CheckResult]:
    """Return the rows of zodan.checks, called by name in a database that has Zodan. Raises ZodanError."""
    statement = sql.SQL("SELECT {} FROM zodan.checks({})").format(
        sql.SQL(", ").join(sql.Identifier(column.name) for column in fields(CheckResult)),
        sql.SQL(", ").join(
            sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in arguments
        ),
    )
    with connect(dsn) as connection, connection.cursor(row_factory=class_row(CheckResult)) as cursor:
        try:
            return cursor.execute(statement, arguments).fetchall()
        except psycopg.Error as error:
            raise from_database(error) from None


def with_disk_space(results: list[CheckResult], src_dsn: str, new_node_dsn: str) -> list[CheckResult]:
    """Return the results with the new node's free space in them, where its data directory is on this machine."""
    if not any(result.name == DISK_SPACE for result in results):
        return results
    try:
        free = _free_space(new_node_dsn)
        with connect(src_dsn) as connection:
            row = connection.execute(_SIZE).fetchone()
    except (ZodanError, psycopg.Error, OSError):
        return results
    if free is None or row is None:
        return results
    size = int(row[0])
    severity = "fail" if free < size else "warn" if free < _ROOM * size else "info"
    observed = f"the source has {_megabytes(size)}, free on this server are {_megabytes(free)}"
    return [
        replace(result, severity=severity, passed=severity == "info", observed=observed)
        if result.name == DISK_SPACE
        else result
        for result in results
    ]


def _free_space(dsn: str) -> int | None:
    """Return the free bytes of a server's file system, None unless it is proved to be a server of this machine."""
    with connect(dsn) as connection:
        row = connection.execute(_SERVER).fetchone()
        address = connection.info.hostaddr
    if row is None or (address and not ip_address(address).is_loopback):
        return None
    folder, started = Path(row[0]), int(row[1])
    # A tunnel leads from this machine to another one: there, a server that began in the same second is not here.
    lines = (folder / "postmaster.pid").read_text().splitlines()
    if abs(int(lines[2]) - started) > 1:
        return None
    return shutil.disk_usage(folder).free


def _megabytes(size: int) -> str:
    return f"{size / 1024**2:,.0f} MB"
