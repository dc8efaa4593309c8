"""A join of a third node to two: planned, held at a step, refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from support.calls import call, load_zodan, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.crash import HeldCall
from support.tables import KEYED, TABLES, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Node


def make_filled(make: MakeCluster, rows: int) -> Cluster:
    """Make two members with so many rows, level, and a blank that has Zodan."""
    cluster = make(members=2, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], rows)
    wait_level(cluster.members)
    load_zodan(cluster["n3"])
    return cluster


@dataclass(frozen=True)
class Plan:
    """Ordinal, phase, node and object of each step of a join, in order."""

    steps: list[tuple[Any, ...]]

    def at(self, phase: str, node: str, object_name: str | None = None) -> int:
        """Return the ordinal of the first step of a phase on a node, about an object where one is named."""
        return next(
            ordinal
            for ordinal, *place, concerned in self.steps
            if place == [phase, node] and object_name in (None, concerned)
        )


def planned(source: Node, new: Node) -> tuple[dict[str, str], Plan]:
    """Return the arguments of a join, and its plan."""
    arguments = {
        "src_node_name": source.name,
        "src_dsn": source.dsn(),
        "new_node_name": new.name,
        "new_node_dsn": new.dsn(),
    }
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    steps = f"SELECT ordinal, phase_name, node, object_name FROM zodan.plan_add_node({names}) ORDER BY 1"
    return arguments, Plan(new.execute(steps, arguments))


def join(cluster: Cluster) -> list[str]:
    """Have n3 join through n1, and return what was said."""
    n1, n3 = cluster["n1"], cluster["n3"]
    return call(n3, "spock.add_node", src_node_name="n1", src_dsn=n1.dsn(), new_node_name="n3", new_node_dsn=n3.dsn())


def refused(cluster: Cluster, check: str, words: str) -> None:
    """Check that a join is refused by the check with this key, with these words, and that nothing was changed."""
    before: Any = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as error:
        join(cluster)
    assert error.value.sqlstate == "ZD100"
    lines = (error.value.diag.message_detail or "").splitlines()
    assert [line for line in lines if line.startswith(name_of(check)) and words in line], lines
    assert state(cluster.nodes) == before


def log_exception(node: Node, origin: str, operation: str, table: str | None = None) -> None:
    """Write what Spock logs of a change that it could not carry out."""
    node.execute(
        "INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,"
        " remote_xid, table_schema, table_name, operation, error_message) SELECT node_id, now(), 1, clock_timestamp(),"
        " 1, CASE WHEN %(table)s::text IS NOT NULL THEN 'public' END, %(table)s, %(operation)s, 'it failed'"
        " FROM spock.node WHERE node_name = %(origin)s",
        {"origin": origin, "operation": operation, "table": table},
    )


class Join:
    """A join of n3 to n1 and n2 that can be held at a step."""

    def __init__(self, make_cluster: MakeCluster) -> None:
        self.cluster = make_filled(make_cluster, 2000)
        self.n1, self.n2, self.n3 = self.cluster.nodes
        self.arguments, self.plan = planned(self.n1, self.n3)

    def held(self, phase: str, node: str, object_name: str | None = None) -> HeldCall:
        """Call it, and have it stop before the first step of a phase on a node, about an object where one is named."""
        return HeldCall(self.n3, f"before {self.plan.at(phase, node, object_name)}", "spock.add_node", self.arguments)

    def attempts(self, phase: str, node: str) -> int:
        """Return how often the last operation began the first step of a phase on a node."""
        rows = self.n3.execute(
            "SELECT attempts FROM zodan.step WHERE phase_name = %(phase)s AND node = %(node)s"
            " ORDER BY operation_id DESC, ordinal LIMIT 1",
            {"phase": phase, "node": node},
        )
        return int(rows[0][0])

    def discard(self) -> None:
        """Have n3 set a change aside, as Spock does when it cannot apply one."""
        log_exception(self.n3, "n1", "INSERT", KEYED)

    def check(self) -> None:
        """Check that n3 is a member like any other, and that every row is equal everywhere."""
        if self.n3 in self.cluster.blanks:
            self.cluster.blanks.remove(self.n3)
            self.cluster.members.append(self.n3)
        self.cluster.wait_replicating()
        wait_level(self.cluster.members)
        assert_rows_equal(self.cluster.members, TABLES)
        assert self.n3.execute("SELECT state FROM zodan.operation ORDER BY operation_id DESC LIMIT 1") == [("done",)]
