"""The members of a cluster: what each is, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from zodan_sql.client.connection import connect, read_rows
from zodan_sql.client.install import borrowed
from zodan_sql.errors import from_database

_MEMBERS = """
SELECT f.key AS name, coalesce(m.p_dsns ->> f.key, '') AS dsn, f.value #>> '{extensions,spock}' AS spock,
       m.p_dsns ? f.key AS is_reached
  FROM zodan.find_members(%(dsn)s, 'zodan upgrade') AS m
 CROSS JOIN LATERAL pg_catalog.jsonb_each(m.p_facts) AS f(key, value)
 WHERE m.p_dsns ? f.key OR f.value ? 'error'
 ORDER BY f.key COLLATE "C"
"""
_DATABASE = """
SELECT pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
           extract(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.current_setting('port'), d.oid)
  FROM pg_catalog.pg_database AS d
 WHERE d.datname = pg_catalog.current_database()
"""
_HAS_NODES = "SELECT pg_catalog.to_regclass('spock.local_node') IS NOT NULL"
_NODE = "SELECT n.node_name::text FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id"
_SPOCK = "SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'spock'"


@dataclass(frozen=True)
class Member:
    """A member; the connection string is a secret, and empty if the member was not reached."""

    name: str
    dsn: str = field(repr=False)
    #: The version of Spock there, None if the member was not reached.
    spock: str | None
    is_reached: bool = True


@dataclass(frozen=True)
class Place:
    """What a connection string leads to."""

    #: Distinguishes the database from any other, however it is addressed.
    database: str
    #: The Spock node there, None if there is none.
    node: str | None


def find_members(dsn: str) -> dict[str, Member]:
    """Return the members of a cluster, found through one of them. Raises ZodanError."""
    with borrowed(dsn) as where:
        return {each.name: each for each in read_rows(where, _MEMBERS, {"dsn": dsn}, Member)}


def read_place(dsn: str) -> Place:
    """Return the database and the node that a connection string leads to. Raises ZodanError."""
    with connect(dsn) as connection:
        try:
            database, node = connection.execute(_DATABASE).fetchone(), None
            if connection.execute(_HAS_NODES).fetchone() == (True,):
                node = connection.execute(_NODE).fetchone()
        except psycopg.Error as error:
            raise from_database(error) from None
    return Place("" if database is None else str(database[0]), None if node is None else str(node[0]))


def read_spock(dsn: str) -> str | None:
    """Return the version of Spock in a database, None if it has none. Raises ZodanError."""
    with connect(dsn) as connection:
        try:
            row = connection.execute(_SPOCK).fetchone()
        except psycopg.Error as error:
            raise from_database(error) from None
    return None if row is None else str(row[0])
