"""A local cluster of Spock nodes, to try things out and for tests. It needs testgres."""

from zodan_sql.sandbox.cluster import Cluster
from zodan_sql.sandbox.engine import Engine, detect_engine
from zodan_sql.sandbox.errors import SandboxError
from zodan_sql.sandbox.mesh import form_mesh, subscription_name, subscription_states, wait_replicating
from zodan_sql.sandbox.node import Node
from zodan_sql.sandbox.persistent import (
    DownResult,
    NodeStatus,
    SandboxStatus,
    UpResult,
    default_base,
    down,
    status,
    up,
)
from zodan_sql.sandbox.waiting import wait_until

__all__ = [
    "Cluster",
    "DownResult",
    "Engine",
    "Node",
    "NodeStatus",
    "SandboxError",
    "SandboxStatus",
    "UpResult",
    "default_base",
    "detect_engine",
    "down",
    "form_mesh",
    "status",
    "subscription_name",
    "subscription_states",
    "up",
    "wait_replicating",
    "wait_until",
]
