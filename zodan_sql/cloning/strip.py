"""Take from a copy what makes it its source: Spock's and Zodan's catalogs, origins, slots, subscriptions."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from zodan_sql.cloning.quarantine import Server
from zodan_sql.errors import ZodanError

# The stand-in for Spock is made of another extension, as whatever else Spock may come to require.
_EXTENSIONS = """
WITH RECURSIVE needed AS (
    SELECT e.oid, e.extname FROM pg_catalog.pg_extension AS e WHERE e.extname = 'spock'
    UNION
    SELECT e.oid, e.extname FROM needed AS n
      JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_extension'::regclass AND d.objid = n.oid
       AND d.refclassid = 'pg_catalog.pg_extension'::regclass
      JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid)
SELECT n.extname FROM needed AS n
"""
_DATABASES = "SELECT d.datname FROM pg_catalog.pg_database AS d WHERE d.datallowconn ORDER BY d.oid"
_SUBSCRIPTIONS = """
SELECT s.subname FROM pg_catalog.pg_subscription AS s JOIN pg_catalog.pg_database AS d ON d.oid = s.subdbid
 WHERE d.datname = pg_catalog.current_database()
"""
_PREPARED = "SELECT p.gid FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = pg_catalog.current_database()"
_HISTORY = """
SELECT pg_catalog.pg_read_file('pg_wal/' || pg_catalog.upper(pg_catalog.lpad(pg_catalog.to_hex(k.timeline_id), 8, '0'))
           || '.history')
  FROM pg_catalog.pg_control_checkpoint() AS k
"""
_LEFT = """
SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_origin)
     + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots)
     + (SELECT pg_catalog.count(*) FROM pg_catalog.pg_subscription)
"""
#: An address that nobody answers at: a subscription may not reach its publisher when it is dropped here.
_NOWHERE = "host=/nonexistent dbname=none"


def read_end(server: Server, timeline: int) -> str:
    """Return the position at which the copy left the source's timeline.

    Raises ZodanError (ZD205) if it never was on it.
    """
    with server.connect() as connection:
        # The history is written when the timeline begins; pg_control follows with the next checkpoint.
        connection.execute("CHECKPOINT")
        history = str(_one(connection, _HISTORY))
    for line in history.splitlines():
        words = line.split()
        if words and words[0] == str(timeline):
            return words[1]
    raise ZodanError(
        "the copy did not end on the source's timeline",
        sqlstate="ZD205",
        detail=f"The source is on timeline {timeline}; the copy's history: {'; '.join(history.splitlines())}",
        hint="Copy the source as it is now.",
    )


def strip(server: Server) -> None:
    """Take away all that belongs to the source's place in a cluster, in every database. Harmless if done before."""
    with server.connect() as connection:
        databases = [str(row[0]) for row in connection.execute(_DATABASES.encode()).fetchall()]
    for dbname in databases:
        with server.connect(dbname) as connection:
            _strip_database(connection)
    with server.connect() as connection:
        connection.execute("SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots")
        connection.execute(
            "SELECT pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o"
        )
        if left := _one(connection, _LEFT):
            raise ZodanError(f"{left} things of the source are left in the copy", sqlstate="ZD200")


def mark(server: Server, name: str, lsn: str) -> None:
    """Write into the copy how far it goes, as the position of an origin of this name."""
    with server.connect() as connection, connection.transaction():
        # A mark of an earlier attempt has the same position.
        connection.execute(
            "SELECT pg_catalog.pg_replication_origin_create(n.name) FROM (VALUES (%(name)s)) AS n(name)"
            " WHERE pg_catalog.pg_replication_origin_oid(n.name) IS NULL",
            {"name": name},
        )
        connection.execute(
            "SELECT pg_catalog.pg_replication_origin_advance(%(name)s, %(lsn)s::pg_lsn)", {"name": name, "lsn": lsn}
        )


def _strip_database(connection: psycopg.Connection[Any]) -> None:
    for (gid,) in connection.execute(_PREPARED.encode()).fetchall():
        # The source will say how it ended, and sends all of it if it was committed.
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))
    for (name,) in connection.execute(_SUBSCRIPTIONS.encode()).fetchall():
        for statement in ("DISABLE", "SET (slot_name = NONE)", f"CONNECTION '{_NOWHERE}'"):
            _alter(connection, "ALTER SUBSCRIPTION {} " + statement, name)
        _alter(connection, "DROP SUBSCRIPTION {}", name)
    with connection.transaction():
        for (name,) in connection.execute(_EXTENSIONS.encode()).fetchall():
            _alter(connection, "DROP EXTENSION IF EXISTS {} CASCADE", name)
        connection.execute("DROP EXTENSION IF EXISTS zodan CASCADE")
        connection.execute("DROP SCHEMA IF EXISTS zodan, spock CASCADE")


def _alter(connection: psycopg.Connection[Any], statement: LiteralString, name: str) -> None:
    connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def _one(connection: psycopg.Connection[Any], query: LiteralString) -> object:
    row = connection.execute(query).fetchone()
    return row[0] if row else None
