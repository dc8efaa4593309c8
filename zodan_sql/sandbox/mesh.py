"""Join servers into a full mesh, and wait for subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zodan_sql.sandbox.node import Node
from zodan_sql.sandbox.waiting import wait_until

#: Long enough for a loaded machine; a mesh of three takes about three seconds.
REPLICATING_BUDGET_S = 90.0


def subscription_name(provider: str, subscriber: str) -> str:
    """Return the name that Zodan expects for the subscription of ``subscriber`` to ``provider``."""
    return f"sub_{provider}_{subscriber}"


def form_mesh(nodes: Sequence[Node]) -> None:
    """Make every server a node, and subscribe each node to all others."""
    with ThreadPoolExecutor(max_workers=max(len(nodes), 1)) as pool:
        list(pool.map(create_node, nodes))
        list(pool.map(lambda node: _subscribe(node, nodes), nodes))
    wait_replicating(nodes, subscriptions=len(nodes) - 1)


def create_node(node: Node) -> None:
    """Make a server's database a node without any subscription."""
    node.execute(
        "SELECT spock.node_create(node_name := %(name)s, dsn := %(dsn)s)", {"name": node.name, "dsn": node.dsn()}
    )


def subscribe(subscriber: Node, provider: Node) -> None:
    """Subscribe one node to another, without a copy."""
    subscriber.execute(
        "SELECT spock.sub_create(subscription_name := %(name)s, provider_dsn := %(dsn)s,"
        " replication_sets := '{default,default_insert_only,ddl_sql}', forward_origins := '{}')",
        {"name": subscription_name(provider.name, subscriber.name), "dsn": provider.dsn()},
    )


def wait_replicating(
    nodes: Sequence[Node], subscriptions: int | None = None, budget_s: float = REPLICATING_BUDGET_S
) -> None:
    """Wait until every subscription of ``nodes`` replicates, and each node has ``subscriptions`` of them if given."""
    wait_until(lambda: _not_replicating(nodes, subscriptions), budget_s, "all subscriptions to replicate")


def subscription_states(node: Node) -> dict[str, str]:
    """Return the status of each of the node's subscriptions."""
    rows = node.execute(
        "SELECT subscription_name, status FROM spock.sub_show_status()"
        " WHERE EXISTS (SELECT FROM spock.local_node) ORDER BY 1"
    )
    return {str(name): str(status) for name, status in rows}


def _subscribe(node: Node, nodes: Sequence[Node]) -> None:
    for provider in nodes:
        if provider is not node:
            subscribe(node, provider)


def _not_replicating(nodes: Sequence[Node], subscriptions: int | None) -> str:
    problems = []
    for node in nodes:
        states = subscription_states(node)
        if subscriptions is not None and len(states) != subscriptions:
            problems.append(f"{node.name} has {len(states)} of {subscriptions} subscriptions")
        problems += [f"{name} is {status}" for name, status in states.items() if status != "replicating"]
    return ", ".join(problems)
