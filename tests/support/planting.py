"""Rows written on one node alone, as a lost or a wrongly applied change would leave them."""

from __future__ import annotations

from zodan_sql.sandbox import Node

_ORIGIN = "planted"


def plant(node: Node, *statements: str) -> None:
    """Run statements on a node, as changes of an origin that no stream sends on."""
    with node.connect() as connection:
        connection.execute(
            "SELECT pg_replication_origin_create(%(name)s)"
            " WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = %(name)s)",
            {"name": _ORIGIN},
        )
        connection.execute("SET session_replication_role = replica")
        connection.execute("SELECT pg_replication_origin_session_setup(%s)", [_ORIGIN])
        for statement in statements:
            connection.execute(statement.encode())
