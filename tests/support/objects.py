"""Objects of a database: made on one node without the others hearing of it, and listed, all of them."""

from __future__ import annotations

from typing import Any

import psycopg

from zodan_sql.sandbox import Cluster, Node


def at(node: Node, *statements: str) -> None:
    """Run statements on a node, out of sight of DDL replication."""
    with node.connect() as connection:
        for name in ("enable_ddl_replication", "include_ddl_repset"):
            connection.execute("SELECT set_config(%(name)s, 'off', false)", {"name": f"spock.{name}"})
        for statement in statements:
            connection.execute(statement.encode())


def everywhere(cluster: Cluster, *statements: str) -> None:
    """Run statements on each member."""
    for node in cluster.members:
        at(node, *statements)


def everything(node: Node) -> set[tuple[Any, ...]]:
    """Return every object of a database that PostgreSQL did not come with, from every catalog there is."""
    with node.connect() as connection:
        return everything_in(connection)


def everything_in(connection: psycopg.Connection[Any]) -> set[tuple[Any, ...]]:
    """Return the same of the database of a connection."""
    catalogs = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attname = 'oid'"
        " AND c.relkind = 'r' AND c.relnamespace = 'pg_catalog'::regnamespace AND NOT c.relisshared"
    )
    found = {
        (name, *row)
        for (name,) in catalogs
        for row in connection.execute(
            f"SELECT oid FROM pg_catalog.{name} AS o WHERE oid >= 16384"
            # PostgreSQL makes them for sessions, and keeps them.
            " AND coalesce(to_jsonb(o) ->> 'nspname', '') !~ '^pg_(toast_)?temp_'".encode()
        )
    }
    return found | {("pg_subscription", *row) for row in connection.execute("SELECT oid FROM pg_subscription")}
