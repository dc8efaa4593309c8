"""One copy of a filled cluster's n1 to a server made for it: by Zodan, which makes it a member, or by Spock alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from bench.filling import Data, assert_equal
from support.calls import call, exceptions, leftovers, load_zodan, remove_node
from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Node, SandboxError, os_user, wait_until

#: The server that everything is copied to.
NEW = "n3"
#: Where nobody says how many sessions are to copy.
DEFAULT_JOBS = 2
#: Nobody waits this long for a copy that has stopped.
_BUDGET_S = 7200.0
_SPOCK_SUBSCRIPTION = "sub_bare"
_PHASES = """
SELECT s.phase_name, extract(epoch FROM max(s.finished_at) - min(s.started_at))::float
  FROM zodan.step AS s WHERE s.operation_id = (SELECT max(operation_id) FROM zodan.operation WHERE kind = 'add_node')
 GROUP BY s.phase_name
"""


@dataclass(frozen=True)
class Copied:
    """How long the copy took, in how many sessions, and of a copy by Zodan each phase."""

    seconds: float
    jobs: int = 1
    phases: dict[str, float] = field(default_factory=dict)


#: What is done while the new server, the argument, is copied to.
Meanwhile = Callable[[Node], AbstractContextManager[Any]]


def _nothing(node: Node) -> AbstractContextManager[Any]:
    return nullcontext()


def by_zodan(
    cluster: Cluster,
    data: Data,
    port: int | None = None,
    jobs: int | None = None,
    meanwhile: Meanwhile = _nothing,
    copy: str = "rows",
) -> Copied:
    """Measure ``CALL spock.add_node`` as a whole; n1 is reached by ``port`` if that is given."""
    with new_server(cluster) as new:
        arguments = join_arguments(cluster["n1"], new, port, jobs) | {"copy": copy}
        with meanwhile(new):
            began = time.monotonic()
            call(new, "spock.add_node", **arguments)
            took = time.monotonic() - began
        phases = {str(name): float(seconds) for name, seconds in new.execute(_PHASES)}
        end_join(cluster, new, data)
        return Copied(took, arguments.get("jobs", DEFAULT_JOBS), phases)


def by_spock(cluster: Cluster, data: Data, port: int | None = None, meanwhile: Meanwhile = _nothing) -> Copied:
    """Measure a subscription of a server that is no node yet, until it replicates."""
    with new_server(cluster) as new:
        with meanwhile(new):
            took = bare_subscription(new, dsn_by(cluster["n1"], port))
        assert_equal([*cluster.members, new], data)
        drop_bare_subscription(new)
        return Copied(took)


def bare_subscription(subscriber: Node, provider_dsn: str) -> float:
    """Have Spock copy everything to a blank, and return how long it takes until that replicates."""
    began = time.monotonic()
    subscriber.execute("SELECT spock.node_create('bare', %(dsn)s)", {"dsn": subscriber.dsn()})
    subscriber.execute(
        f"SELECT spock.sub_create('{_SPOCK_SUBSCRIPTION}', %(dsn)s,"
        " synchronize_structure := true, synchronize_data := true)",
        {"dsn": provider_dsn},
    )
    with subscriber.connect() as connection:

        def status() -> str:
            query = f"SELECT status FROM spock.sub_show_status('{_SPOCK_SUBSCRIPTION}')"
            row = connection.execute(query.encode()).fetchone()
            return "" if row == ("replicating",) else str(row)

        try:
            wait_until(status, _BUDGET_S, "the subscription to replicate")
        except SandboxError as error:
            error.add_note(subscriber.log_tail())
            raise
    return time.monotonic() - began


def drop_bare_subscription(subscriber: Node) -> None:
    """Take the subscription and the node back."""
    subscriber.execute(f"SELECT spock.sub_drop('{_SPOCK_SUBSCRIPTION}')")
    subscriber.execute("SELECT spock.node_drop('bare')")


@contextmanager
def new_server(cluster: Cluster) -> Iterator[Node]:
    """Make the server and delete it afterwards. The members begin with nothing left to write."""
    for member in cluster.members:
        member.execute("CHECKPOINT")
    node = cluster.add_blank(NEW)
    try:
        yield node
    except BaseException as error:
        for server in cluster.nodes:
            error.add_note(f"the end of the log of {server.name}:\n{server.log_tail()}")
        raise
    node.stop("immediate")
    os_user.remove_folder(node.folder)
    cluster.blanks.remove(node)


def end_join(cluster: Cluster, new: Node, data: Data) -> None:
    """Compare everything with the node that has joined, and remove that."""
    cluster.blanks.remove(new)
    cluster.members.append(new)
    wait_level(cluster.members)
    assert_equal(cluster.members, data)
    assert not exceptions(cluster.members)
    remove_node(cluster, NEW)
    assert not leftovers(cluster.nodes, NEW)


def join_arguments(source: Node, new: Node, port: int | None, jobs: int | None) -> dict[str, Any]:
    """Load Zodan into the new server, and return what to pass to ``spock.add_node`` there."""
    load_zodan(new)
    arguments: dict[str, Any] = {
        "src_node_name": source.name,
        "src_dsn": dsn_by(source, port),
        "new_node_name": new.name,
        "new_node_dsn": new.dsn(),
    }
    if jobs is not None:
        arguments["jobs"] = jobs
    return arguments


def dsn_by(node: Node, port: int | None) -> str:
    """Return a node's connection string, with another port if one is given."""
    return node.dsn() if port is None else node.dsn().replace(f"port={node.port} ", f"port={port} ")
