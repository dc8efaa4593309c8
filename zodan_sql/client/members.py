"""The members of a cluster: what each is, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg

from zodan_sql.client.connection import connect, read_rows
from zodan_sql.client.install import borrowed
from zodan_sql.errors import from_database

_MEMBERS = """
SELECT d.key AS name, d.value AS dsn, m.p_facts #>> ARRAY[d.key, 'extensions', 'spock'] AS spock
  FROM zodan.find_members(%(dsn)s, 'zodan upgrade') AS m
 CROSS JOIN LATERAL pg_catalog.jsonb_each_text(m.p_dsns) AS d(key, value)
 ORDER BY d.key COLLATE "C"
"""
_SPOCK = "SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'spock'"


@dataclass(frozen=True)
class Member:
    """A member that was reached; the connection string is a secret."""

    name: str
    dsn: str = field(repr=False)
    #: The version of Spock there.
    spock: str


def find_members(dsn: str) -> dict[str, Member]:
    """Return the members of a cluster that can be reached, found through one of them. Raises ZodanError."""
    with borrowed(dsn) as where:
        return {each.name: each for each in read_rows(where, _MEMBERS, {"dsn": dsn}, Member)}


def read_spock(dsn: str) -> str | None:
    """Return the version of Spock in a database, None if it has none. Raises ZodanError."""
    with connect(dsn) as connection:
        try:
            row = connection.execute(_SPOCK).fetchone()
        except psycopg.Error as error:
            raise from_database(error) from None
    return None if row is None else str(row[0])
