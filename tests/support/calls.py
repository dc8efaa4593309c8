"""The calls that cluster tests make, and what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zodan_sql.client.install import install
from zodan_sql.sandbox import Cluster, Node


def load_zodan(node: Node) -> None:
    """Load Zodan into a node's database, unless it is there."""
    if node.execute("SELECT to_regprocedure('zodan.version()') IS NOT NULL")[0][0]:
        return
    (result,) = install([node.dsn()])
    assert result.error is None, result.error


def call(node: Node, procedure: str, **arguments: Any) -> list[str]:
    """Call a procedure with arguments by name and return its NOTICEs and WARNINGs; errors pass through."""
    notices: list[str] = []
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    with node.connect() as connection:
        connection.add_notice_handler(lambda diagnostic: notices.append(str(diagnostic.message_primary)))
        connection.execute(f"CALL {procedure}({names})", arguments)
    return notices


def add_node(cluster: Cluster, source: str, new: str, at: str | None = None, **options: Any) -> list[str]:
    """Join a blank through a member, called on the new node unless ``at`` names another; it becomes a member."""
    node = cluster[new]
    caller = cluster[at or new]
    load_zodan(caller)
    notices = call(
        caller,
        "spock.add_node",
        src_node_name=source,
        src_dsn=cluster[source].dsn(),
        new_node_name=new,
        new_node_dsn=node.dsn(),
        **options,
    )
    if not options.get("dry_run"):
        cluster.blanks.remove(node)
        cluster.members.append(node)
    return notices


def remove_node(cluster: Cluster, target: str, at: str | None = None, **options: Any) -> list[str]:
    """Remove a member, called on itself unless ``at`` names another; it becomes a blank."""
    node = cluster[target]
    caller = cluster[at or target]
    load_zodan(caller)
    notices = call(caller, "spock.remove_node", target_node_name=target, target_node_dsn=node.dsn(), **options)
    if not options.get("dry_run"):
        cluster.members.remove(node)
        cluster.blanks.append(node)
    return notices


def leftovers(nodes: Sequence[Node], name: str) -> list[str]:
    """List everything on ``nodes`` that names the node ``name``: rows, subscriptions, slots, origins."""
    found = []
    for node in nodes:
        rows = node.execute(
            "SELECT 'node ' || node_name FROM spock.node WHERE node_name = %(name)s"
            " UNION ALL SELECT 'subscription ' || sub_name FROM spock.subscription WHERE sub_name LIKE %(part)s"
            " UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name LIKE %(part)s"
            " UNION ALL SELECT 'origin ' || roname FROM pg_replication_origin WHERE roname LIKE %(part)s",
            {"name": name, "part": f"%{name}%"},
        )
        found += [f"{row[0]} on {node.name}" for row in rows]
    return found


def exceptions(nodes: Sequence[Node]) -> list[str]:
    """List what Spock's apply workers recorded as exceptions: each is a change that was not applied."""
    return [
        f"{node.name}: {row[0]}"
        for node in nodes
        for row in node.execute("SELECT concat_ws(' ', operation, table_name, error_message) FROM spock.exception_log")
    ]


def state(nodes: Sequence[Node]) -> dict[str, list[tuple[Any, ...]]]:
    """Everything of replication and every user relation on ``nodes``, to compare before and after."""
    return {
        node.name: node.execute(
            "SELECT 'node', node_name::text, '' FROM spock.node"
            " UNION ALL SELECT 'subscription', sub_name::text, sub_enabled::text FROM spock.subscription"
            " UNION ALL SELECT 'slot', slot_name::text, '' FROM pg_replication_slots WHERE NOT temporary"
            " UNION ALL SELECT 'origin', roname, '' FROM pg_replication_origin"
            " UNION ALL SELECT 'set', set_name::text, '' FROM spock.replication_set"
            " UNION ALL SELECT 'relation', c.oid::regclass::text, '' FROM pg_class c"
            " WHERE c.relnamespace::regnamespace::text !~ '^(pg_|information_schema|spock$|pglogical$|zodan$)'"
            " ORDER BY 1, 2, 3"
        )
        for node in nodes
    }
