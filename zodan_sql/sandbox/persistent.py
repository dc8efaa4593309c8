"""A sandbox that outlives the process that created it: up, status, down."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zodan_sql.sandbox.cluster import Cluster
from zodan_sql.sandbox.engine import detect_engine
from zodan_sql.sandbox.errors import SandboxError
from zodan_sql.sandbox.mesh import subscription_states
from zodan_sql.sandbox.node import Node
from zodan_sql.sandbox.settings import USER

DEFAULT_NODES = 3
MOST_NODES = 8

Role = Literal["member", "blank"]


@dataclass(frozen=True)
class NodeStatus:
    """One server of the sandbox."""

    name: str
    role: Role
    running: bool
    port: int
    #: Connection string without the password.
    dsn: str
    #: A command that opens psql there, through the socket that needs no password.
    psql: str
    #: Status of each subscription; empty if there are none or the server is down.
    subscriptions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SandboxStatus:
    """The sandbox in a folder. ``nodes`` is empty if there is no sandbox."""

    base: Path
    engine: str
    nodes: list[NodeStatus]

    @property
    def exists(self) -> bool:
        """Whether there is a sandbox."""
        return bool(self.nodes)

    @property
    def running(self) -> bool:
        """Whether every server is running."""
        return self.exists and all(node.running for node in self.nodes)


@dataclass(frozen=True)
class UpResult:
    """The result of ``up``."""

    status: SandboxStatus
    #: The sandbox existed: ``up`` created nothing, and started servers that were down.
    was_there: bool


@dataclass(frozen=True)
class DownResult:
    """The result of ``down``: the names of the deleted servers, none if there was no sandbox."""

    base: Path
    engine: str
    removed: list[str]


def default_base() -> Path:
    """Return the default folder: in the user's state folder; for root, one that the servers can enter."""
    if os.geteuid() == 0:
        return Path("/var/tmp/zodan-sandbox")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "zodan-sandbox"


def up(
    base: Path | None = None,
    nodes: int = DEFAULT_NODES,
    blanks: int = 1,
    pg_bin: Path | None = None,
    dbname: str = "app",
) -> UpResult:
    """Create a mesh of ``nodes`` members, named n1 and so on, and ``blanks`` more servers that belong to no cluster.

    If there is a sandbox already, only start its servers that are down. Raises SandboxError.
    """
    base = base or default_base()
    if (base / "state.json").exists():
        cluster = Cluster.load(base)
        cluster.start()
        cluster.wait_replicating()
        return UpResult(status=_status(cluster), was_there=True)
    if nodes < 0 or blanks < 0 or not 1 <= nodes + blanks <= MOST_NODES:
        raise SandboxError(f"a sandbox has 1 to {MOST_NODES} servers, not {nodes + blanks}")
    names = [f"n{number}" for number in range(1, nodes + blanks + 1)]
    cluster = Cluster.create(base, names[:nodes], names[nodes:], detect_engine(pg_bin), dbname)
    return UpResult(status=_status(cluster), was_there=False)


def status(base: Path | None = None) -> SandboxStatus:
    """Return the state of the sandbox and its servers."""
    base = base or default_base()
    if not (base / "state.json").exists():
        return SandboxStatus(base=base, engine="", nodes=[])
    return _status(Cluster.load(base))


def down(base: Path | None = None) -> DownResult:
    """Stop every server and delete everything."""
    base = base or default_base()
    if not (base / "state.json").exists():
        return DownResult(base=base, engine="", removed=[])
    cluster = Cluster.load(base)
    result = DownResult(base=base, engine=cluster.engine.description, removed=[node.name for node in cluster.nodes])
    cluster.destroy()
    return result


def _status(cluster: Cluster) -> SandboxStatus:
    roles: list[tuple[list[Node], Role]] = [(cluster.members, "member"), (cluster.blanks, "blank")]
    return SandboxStatus(
        base=cluster.base,
        engine=cluster.engine.description,
        nodes=[_node_status(node, role) for nodes, role in roles for node in nodes],
    )


def _node_status(node: Node, role: Role) -> NodeStatus:
    running = node.is_running()
    return NodeStatus(
        name=node.name,
        role=role,
        running=running,
        port=node.port,
        dsn=node.dsn(password=False),
        psql=shlex.join(
            [
                str(node.engine.pg_bin / "psql"),
                "-h",
                str(node.socket_dir),
                "-p",
                str(node.port),
                "-U",
                USER,
                node.dbname,
            ]
        ),
        subscriptions=subscription_states(node) if running else {},
    )
