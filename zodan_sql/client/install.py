"""Install Zodan in databases, and uninstall it: each database in its own transaction.

The scripts do the work themselves, so that psql has the same effect: they switch off DDL replication and reserve the
schema if Spock can do that. This module does what a script cannot: check first, verify afterwards, and report.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from zodan_sql.building import render
from zodan_sql.building.routines import IN_SPOCK, ONE_OF_EACH_SCRIPT
from zodan_sql.building.script import without_meta, without_transaction
from zodan_sql.client.connection import Connection, Where, connect, describe
from zodan_sql.client.journal import INTERRUPTED, Operation, read_operations
from zodan_sql.client.redaction import Redactor
from zodan_sql.errors import ZodanError, from_database, precondition_error

SCRIPTS = ("zodan.sql", "zodremove.sql")

_DDL_REPLICATION = ["spock.enable_ddl_replication", "spock.include_ddl_repset"]


@dataclass(frozen=True)
class InstallResult:
    """The outcome in one database."""

    database: str
    #: "installed", "already there", "removed", "not there", or "failed".
    outcome: str
    version: str = ""
    error: ZodanError | None = None
    note: str = ""


def install(dsns: Iterable[str], *, create_dblink: bool = True, option: str = "--dsn") -> list[InstallResult]:
    """Install Zodan in every database, or upgrade it to this version; loading it again does no harm.

    Returns one result for each database. A failure is in its result and does not stop the other databases.
    """
    return _in_each(dsns, option, lambda connection: _install(connection, create_dblink))


def uninstall(dsns: Iterable[str], *, force: bool = False, option: str = "--dsn") -> list[InstallResult]:
    """Uninstall Zodan from every database. dblink stays, because others may use it.

    Refuses while an operation is under way, unless ``force``. The note names unfinished operations, because
    their journal is gone.
    """
    return _in_each(dsns, option, lambda connection: _uninstall(connection, force))


def installed_version(dsn: str, option: str = "--dsn") -> str | None:
    """Return the version of Zodan in a database, None if Zodan is missing or incomplete."""
    with connect(dsn, option) as connection:
        return _version(connection) if _is_complete(connection) else None


@contextmanager
def borrowed(dsn: str) -> Iterator[Where]:
    """Yield where to query Zodan: the connection string if Zodan is installed there, otherwise a connection.

    The connection has loaded Zodan in a transaction, which is rolled back at the end. Raises ZodanError.
    """
    if installed_version(dsn) is not None:
        yield dsn
        return
    with connect(dsn, autocommit=False) as connection:
        try:
            try:
                _check_primary(connection)
                _load(connection, create_dblink=True)
            except psycopg.Error as error:
                raise from_database(error) from None
            yield connection
        finally:
            if not connection.closed:
                connection.rollback()


def own_version() -> str:
    """Return the version of the scripts of this package."""
    return render.read_version(render.find_templates())


def read_script(name: str) -> str:
    """Return a rendered script without what only psql understands, so that it can run inside a transaction."""
    return without_transaction(without_meta((render.find_build() / name).read_text(encoding="utf-8")))


def _in_each(dsns: Iterable[str], option: str, work: Callable[[Connection], InstallResult]) -> list[InstallResult]:
    results = []
    for dsn in dsns:
        redact = Redactor([dsn])
        try:
            database = describe(dsn, option)
        except ZodanError as error:
            results.append(InstallResult("(unreadable connection string)", "failed", error=error))
            continue
        try:
            with connect(dsn, option, autocommit=False) as connection, connection.transaction():
                result = work(connection)
        except psycopg.Error as error:
            result = InstallResult(database, "failed", error=_redacted(from_database(error), redact))
        except ZodanError as error:
            result = InstallResult(database, "failed", error=_redacted(error, redact))
        results.append(InstallResult(database, result.outcome, result.version, result.error, result.note))
    return results


def _redacted(error: ZodanError, redact: Redactor) -> ZodanError:
    return ZodanError(
        redact(error.message), sqlstate=error.sqlstate, detail=redact(error.detail), hint=redact(error.hint)
    )


def _load(connection: Connection, create_dblink: bool) -> None:
    switch_off_ddl_replication(connection)
    _check_spock(connection)
    _check_no_extension(connection)
    _check_dblink(connection, create_dblink)
    for name in SCRIPTS:
        connection.execute(read_script(name))


def _install(connection: Connection, create_dblink: bool) -> InstallResult:
    _check_primary(connection)
    before = _version(connection) if _is_complete(connection) else None
    _load(connection, create_dblink)
    _verify(connection)
    version = _version(connection)
    return InstallResult("", "already there" if before == version else "installed", version or "")


def _uninstall(connection: Connection, force: bool) -> InstallResult:
    switch_off_ddl_replication(connection)
    _check_no_extension(connection)
    version = _version(connection)
    unfinished = _unfinished(connection, force) if _exists(connection, "zodan.operation") else []
    procedures = connection.execute(
        """
        SELECT p.oid::pg_catalog.regprocedure::text
          FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = pg_catalog.to_regnamespace('spock') AND p.proname = ANY (%s)
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                              AND d.deptype = 'e')
        """,
        [list(IN_SPOCK)],
    ).fetchall()
    for (signature,) in procedures:
        connection.execute(sql.SQL("DROP ROUTINE {}").format(sql.SQL(signature)))
    schema = _one(connection, "SELECT pg_catalog.to_regnamespace('zodan') IS NOT NULL")
    connection.execute("DROP SCHEMA IF EXISTS zodan CASCADE")
    if _exists(connection, "spock.reserved_object"):
        connection.execute("SELECT spock.reserved_object_remove('zodan', 'schema')")
    if not procedures and not schema:
        return InstallResult("", "not there")
    notes = ["dblink stays", *(f"{one.kind} of {one.node} was unfinished" for one in unfinished)]
    return InstallResult("", "removed", version or "", note=", ".join(notes))


def switch_off_ddl_replication(connection: Connection) -> None:
    """Keep the transaction's DDL away from other nodes, and new tables out of the replication sets."""
    connection.execute(
        "SELECT pg_catalog.set_config(name, 'off', true) FROM pg_catalog.pg_settings WHERE name = ANY (%s)",
        [_DDL_REPLICATION],
    )


def _check_primary(connection: Connection) -> None:
    if _one(connection, "SELECT pg_catalog.pg_is_in_recovery()"):
        raise precondition_error(
            "the connection string leads to a standby, where nothing can be loaded",
            "Give the connection string of the primary.",
        )


def _check_spock(connection: Connection) -> None:
    version = _one(connection, "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'spock'")
    if version is None:
        raise precondition_error("Spock is not installed in this database", "CREATE EXTENSION spock")
    oldest = render.read_default("spock_minimum", str)
    if _numbers(str(version)) < _numbers(oldest):
        raise precondition_error(
            f"Spock is {version}, must be {oldest} or later", f"Upgrade Spock to {oldest} or later."
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _check_no_extension(connection: Connection) -> None:
    if _one(connection, "SELECT true FROM pg_catalog.pg_extension WHERE extname = 'zodan'"):
        raise precondition_error(
            "Zodan is in this database as an extension",
            "Use ALTER EXTENSION zodan UPDATE or DROP EXTENSION zodan instead.",
        )


def _check_dblink(connection: Connection, create: bool) -> None:
    if _one(connection, "SELECT true FROM pg_catalog.pg_extension WHERE extname = 'dblink'"):
        return
    if not create:
        raise precondition_error("dblink is not installed in this database", "CREATE EXTENSION dblink")
    if not _one(connection, "SELECT true FROM pg_catalog.pg_available_extensions WHERE name = 'dblink'"):
        raise precondition_error(
            "dblink is not available on this server", "Install PostgreSQL's contrib modules on the server."
        )
    connection.execute("CREATE EXTENSION dblink SCHEMA public")


def _unfinished(connection: Connection, force: bool) -> list[Operation]:
    """Return the unfinished operations. Raises ZodanError if one is under way, unless ``force``."""
    found = [one for one in read_operations(connection) if one.state in ("running", "failed", INTERRUPTED)]
    for one in found:
        if one.state == "running" and not force:
            raise precondition_error(
                f'{one.kind} of node "{one.node}" is under way',
                "Wait until it is done, or uninstall with --force, which deletes its journal.",
                detail=f"It is operation {one.number}, started {one.started}.",
            )
    return found


def _verify(connection: Connection) -> None:
    if not _is_complete(connection):
        raise ZodanError(
            "the scripts ran, but some routines or tables are missing", sqlstate="ZD900", hint="Report this as a bug."
        )
    if _exists(connection, "spock.reserved_object"):
        reserved = "SELECT true FROM spock.reserved_object WHERE name = 'zodan' AND kind = 'schema'"
        if not _one(connection, reserved):
            raise ZodanError("schema zodan is not reserved", sqlstate="ZD900", hint="Report this as a bug.")
    in_sets = "SELECT pg_catalog.string_agg(set_name || '.' || relname, ', ') FROM spock.tables WHERE nspname = 'zodan'"
    if replicated := _one(connection, in_sets + " AND set_name IS NOT NULL"):
        raise precondition_error(
            "tables of schema zodan are in a replication set",
            "Remove them with spock.repset_remove_table(...) and install again.",
            detail=f"The tables are {replicated}.",
        )


def _is_complete(connection: Connection) -> bool:
    found = connection.execute(
        """
        SELECT pg_catalog.count(DISTINCT p.proname)
          FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = pg_catalog.to_regnamespace('spock') AND p.proname = ANY (%s)
           AND pg_catalog.to_regprocedure('zodan.version()') IS NOT NULL
           AND pg_catalog.to_regclass('zodan.sample') IS NOT NULL
        """,
        [list(ONE_OF_EACH_SCRIPT)],
    ).fetchone()
    return found is not None and found[0] == len(ONE_OF_EACH_SCRIPT)


def _version(connection: Connection) -> str | None:
    if not _one(connection, "SELECT pg_catalog.to_regprocedure('zodan.version()') IS NOT NULL"):
        return None
    return str(_one(connection, "SELECT zodan.version()"))


def _exists(connection: Connection, relation: str) -> bool:
    found = connection.execute("SELECT pg_catalog.to_regclass(%s) IS NOT NULL", [relation]).fetchone()
    return bool(found and found[0])


def _one(connection: Connection, query: LiteralString) -> object:
    row = connection.execute(query).fetchone()
    return row[0] if row else None
