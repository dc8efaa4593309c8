"""Breaking an operation at a step of its plan, and bringing it to an end afterwards."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from support.calls import call, exceptions, leftovers, load_zodan, state
from support.clusters import MakeCluster
from support.tables import CHAIN, KEYLESS, TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import RARELY_S, Writers
from zodan_sql.building.render import read_default
from zodan_sql.sandbox import Node, detect_engine, wait_until

#: The lock that the executor's test hook waits for.
HOOK_KEY = read_default("test_hook_key", int)
_BUDGET_S = 60.0
#: What replicates on a node, and since when.
_WORKERS = (
    "SELECT backend_start, pid, backend_type, application_name, state, wait_event FROM pg_stat_activity"
    " WHERE backend_type ~ 'pglogical|spock|walsender' ORDER BY backend_start"
)

Operation = Literal["add_node", "remove_node"]
#: What breaks. "own node" is the one that joins or leaves, and the caller is connected to it.
Fault = Literal["caller before", "caller after", "own node", "source", "peer", "connection"]
FAULTS: tuple[Fault, ...] = ("caller before", "caller after", "own node", "source", "peer", "connection")
RESTARTS: tuple[Fault, ...] = ("own node", "source", "peer")
Ending = Literal["resume", "rollback"]
ENDINGS: tuple[Ending, ...] = ("resume", "rollback")

_ROWS = 1000
#: Longer than a pause may be left over without being noticed: nothing gets level within the budget while it lasts.
_PAUSE_TIMEOUT_S = 2 * _BUDGET_S


class HeldCall:
    """A CALL in a thread that stops at a point of its plan, '<before or after> <ordinal>', until it is let go."""

    def __init__(
        self, node: Node, point: str, procedure: str, arguments: dict[str, Any], start: threading.Barrier | None = None
    ) -> None:
        """Call it, at once or when the others at ``start`` do; wait until it stops, with ``start`` not."""
        self._start = start
        self._node = node
        self._lock = node.connect()
        self._lock.execute("SELECT pg_advisory_lock(%s)", [HOOK_KEY])
        self._connection = node.connect()
        self.pid = self._connection.info.backend_pid
        self._connection.execute("SELECT set_config('zodan.test_hook', %s, false)", [point])
        self.error: psycopg.Error | None = None
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        self._thread = threading.Thread(target=self._run, args=(f"CALL {procedure}({names})", arguments), daemon=True)
        self._thread.start()
        if start is None:
            wait_until(self._not_held, _BUDGET_S, f"the call to stop {point}")

    def _run(self, statement: str, arguments: dict[str, Any]) -> None:
        try:
            if self._start is not None:
                self._start.wait(_BUDGET_S)
            self._connection.execute(statement.encode(), arguments)
        except psycopg.Error as error:
            self.error = error

    def is_over(self) -> bool:
        """Wait until it stops at its point or ends; tell whether it has ended."""

        def undecided() -> str:
            return self._not_held() if self._thread.is_alive() else ""

        wait_until(undecided, _BUDGET_S, "the call to stop or to end")
        return not self._thread.is_alive()

    def _not_held(self) -> str:
        if self._start is None and not self._thread.is_alive():
            raise AssertionError(f"the call ended before it came to its point: {self.error}")
        held = self._lock.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid = %s", [self.pid]
        ).fetchone()
        return "" if held is not None and held[0] else "it runs"

    def kill(self) -> None:
        """Kill the caller's session."""
        self._node.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": self.pid})
        self._thread.join(_BUDGET_S)
        self.finish()

    def let_go_on(self) -> None:
        """Let the call go on, without waiting for its end."""
        self._lock.close()

    def let_go(self) -> None:
        """Let the call go on, and wait for its end."""
        self.let_go_on()
        self.finish()

    def finish(self) -> None:
        """Wait for the end of the call and close everything."""
        self._thread.join(_BUDGET_S)
        assert not self._thread.is_alive(), "the call hangs"
        self._lock.close()
        self._connection.close()


@dataclass(frozen=True)
class Step:
    """A step of a plan."""

    ordinal: int
    phase_name: str
    node: str
    title: str


@dataclass(frozen=True)
class Case:
    """One cell of the crash matrix."""

    step: Step
    fault: Fault
    ending: Ending

    def __str__(self) -> str:
        return f"step {self.step.ordinal} ({self.step.node}: {self.step.title}), {self.fault}, {self.ending}"


def wait_unlocked(nodes: Sequence[Node]) -> None:
    """Wait until the sessions of a dead caller are gone from all nodes, except for one that keeps its snapshot."""

    def held() -> str:
        return ", ".join(
            node.name
            for node in nodes
            if node.is_running()
            and node.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name ~ '^zodan[ _](?!snapshot )'"
                " AND backend_type = 'client backend'"
            )
        )

    wait_until(held, _BUDGET_S, "the dead caller's sessions to end")


def keepers(node: Node) -> list[str]:
    """Return the sessions that keep a snapshot on a node."""
    return [
        str(name)
        for (name,) in node.execute(
            "SELECT application_name FROM pg_stat_activity WHERE application_name ~ '^zodan snapshot '"
        )
    ]


class Stage:
    """A cluster on which one operation after another is broken and brought to its end.

    Its members n1 (the source) and up, and one node more that joins and leaves. Between two cases that node is either
    a member or as blank as in the beginning, which is looked at every time.
    """

    def __init__(
        self,
        make_cluster: MakeCluster,
        members: int = 2,
        pause_timeout_s: float = _PAUSE_TIMEOUT_S,
        more_tables: str = "",
    ) -> None:
        """Make it, with ``more_tables``, statements that make tables on each member, and rows on none."""
        self.size = members
        # The stand-in shows its pause; and it waits half this time for workers that are starting.
        settings = {"spock.pause_timeout": f"{pause_timeout_s:.0f}"} if detect_engine().is_real else {}
        self.cluster = make_cluster(members=members, blanks=1, extra_conf=settings)
        self.source, self.peer = self.cluster.members[:2]
        (self.own,) = self.cluster.blanks
        create_tables(self.cluster)
        for node in self.cluster.members if more_tables else []:
            node.execute(more_tables)
        self.more = re.findall(r"CREATE TABLE (\w+)", more_tables)
        fill(self.source, _ROWS)
        load_zodan(self.own)
        wait_level(self.cluster.members)
        self.arguments: dict[Operation, dict[str, Any]] = {
            "add_node": {
                "src_node_name": self.source.name,
                "src_dsn": self.source.dsn(),
                "new_node_name": self.own.name,
                "new_node_dsn": self.own.dsn(),
            },
            "remove_node": {"target_node_name": self.own.name, "target_node_dsn": self.own.dsn()},
        }
        self.dsns = Jsonb({self.source.name: self.source.dsn(), self.own.name: self.own.dsn()})
        self._blank_state = state(self.cluster.nodes)
        self._series = 0

    @property
    def joined(self) -> bool:
        """Whether the node is a member."""
        return self.own in self.cluster.members

    def steps(self, operation: Operation) -> list[Step]:
        """Return the plan of an operation on the cluster as it is made ready for it."""
        self.make_ready(operation)
        arguments = self.arguments[operation]
        names = ", ".join(f"{name} => %({name})s" for name in arguments)
        return [
            Step(int(row[0]), *map(str, row[1:]))
            for row in self.own.execute(
                f"SELECT ordinal, phase_name, node, title FROM zodan.plan_{operation}({names}) ORDER BY ordinal",
                arguments,
            )
        ]

    def make_ready(self, operation: Operation) -> None:
        """See that the node is a member if it is to leave, and blank if it is to join."""
        if self.joined == (operation == "add_node"):
            other: Operation = "remove_node" if self.joined else "add_node"
            call(self.own, f"spock.{other}", **self.arguments[other])
            self.note_end(other)

    def note_end(self, operation: Operation) -> None:
        """Note that an operation has succeeded; after a removal, empty the node's database and look for residue."""
        if operation == "add_node":
            self.cluster.blanks.remove(self.own)
            self.cluster.members.append(self.own)
            return
        self.cluster.members.remove(self.own)
        self.cluster.blanks.append(self.own)
        assert leftovers(self.cluster.members, self.own.name) == []
        self.own.execute(f"DROP TABLE {', '.join([*TABLES, *self.more])}")
        assert state(self.cluster.nodes) == self._blank_state

    def writers(self) -> Writers:
        """Return writers on two members, with keys that no others had."""
        self._series += 1
        nodes = [self.source, self.peer]
        watch = ChainWatch([*self.cluster.nodes], inserter=self.peer)
        return Writers(nodes, series=self._series, pause_s=RARELY_S, may_hand_over=watch.has_come)

    def run(self, operation: Operation, case: Case) -> str:
        """Break an operation as a case says, end it, check everything, and return the case's letter.

        R resumed, B rolled back, F the rollback of a removal refused and the removal finished, D the call did not
        mind the fault and was done.
        """
        self.make_ready(operation)
        if operation == "remove_node":
            self.own.execute(
                f"INSERT INTO {KEYLESS} SELECT %(name)s, %(series)s * 1000 + i, 'last' FROM generate_series(1, 300) i",
                {"name": self.own.name, "series": self._series},
            )
        with self.writers() as writers:
            done = self.interrupt(operation, case, writers)
            letter = "D" if done else self._end(operation, case)
        assert not writers.failures, writers.failures
        if letter == "B":
            assert state(self.cluster.nodes) == self._blank_state
        else:
            self.note_end(operation)
        wait_level(self.cluster.members)
        if case.fault in RESTARTS and self.cluster.engine.is_real:
            self._drop_doubles()
        self.check_level()
        return letter

    def interrupt(self, operation: Operation, case: Case, writers: Writers) -> bool:
        """Call an operation and break it; tell whether it was done in spite of that."""
        point = f"{'after' if case.fault == 'caller after' else 'before'} {case.step.ordinal}"
        held = HeldCall(self.own, point, f"spock.{operation}", self.arguments[operation])
        if case.fault in ("caller before", "caller after"):
            held.kill()
        elif case.fault == "connection":
            self.cluster[case.step.node].execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'zodan %'"
            )
            held.let_go()
        else:
            node = {"own node": self.own, "source": self.source, "peer": self.peer}[case.fault]
            with writers.excused(node):
                node.restart("immediate")
                self._wake_stand_in()
            held.let_go()
        wait_unlocked(self.cluster.nodes)
        return held.error is None

    def _wake_stand_in(self) -> None:
        """Let a subscriber that its provider does not know yet come back at once, as Spock does by itself."""
        for node in [] if self.cluster.engine.is_real else self.cluster.nodes:
            node.execute("SELECT spock._wake_manager()")

    def _drop_doubles(self) -> None:
        """Take out what Spock 5.0.11 and 6.0.0 deliver twice to a subscriber that was killed, in a steady mesh as well.

        It is the last transaction applied before, and shows where nothing has a key. No delete there replicates.
        """
        for node in self.cluster.members:
            node.execute(
                f"DELETE FROM {KEYLESS} AS a USING {KEYLESS} AS b"
                " WHERE a.ctid > b.ctid AND (a.node, a.number) = (b.node, b.number)"
            )

    def operation_id(self) -> int:
        """Return the number of the last operation."""
        return int(self.own.execute("SELECT max(operation_id) FROM zodan.operation")[0][0])

    def resume(self, operation: Operation, call_again: bool) -> None:
        """Finish the last operation, by the same call or by zodan.resume."""
        if call_again:
            call(self.own, f"spock.{operation}", **self.arguments[operation])
        else:
            call(self.own, "zodan.resume", p_operation=self.operation_id(), p_dsns=self.dsns)

    def rollback(self) -> None:
        """Take the last operation back."""
        call(self.own, "zodan.rollback", p_operation=self.operation_id(), p_dsns=self.dsns)

    def _end(self, operation: Operation, case: Case) -> str:
        call_again = case.step.ordinal % 2 == 0
        if case.ending == "resume":
            self.resume(operation, call_again)
            return "R"
        if operation == "add_node":
            self.rollback()
            return "B"
        before = state(self.cluster.nodes)
        try:
            self.rollback()
        except psycopg.Error as error:
            assert error.sqlstate == "ZD007", error
        else:
            raise AssertionError("a removal that had begun was rolled back")
        assert state(self.cluster.nodes) == before
        self.resume(operation, call_again)
        return "F"

    def check_level(self) -> None:
        """Check that nothing is paused and every stream moves, that all rows are equal and nothing was set aside."""
        members = self.cluster.members
        if not detect_engine().is_real:
            assert [n.name for n in members if n.execute("SELECT 1 FROM spock._pause")] == [], "apply is still paused"
        wait_level(members)
        self.cluster.wait_replicating()
        assert_rows_equal(members, [*TABLES, *self.more])
        assert exceptions(self.cluster.nodes) == []
        for node in members:
            (counts,) = node.execute(
                "SELECT (SELECT count(*) FROM spock.node), (SELECT count(*) FROM spock.subscription),"
                " (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_replication_origin)"
            )
            assert counts == (len(members), *[len(members) - 1] * 3), f"{node.name}: {counts}"

    def describe(self) -> str:
        """Describe where things stand, for the message of a failed case."""
        lines = []
        with suppress(psycopg.Error):
            lines += [
                f"operation {row}"
                for row in self.own.execute(
                    "SELECT kind, state, error FROM zodan.operation ORDER BY operation_id DESC LIMIT 1"
                )
            ]
        for node in self.cluster.nodes:
            with suppress(psycopg.Error):
                rows = node.execute("SELECT subscription_name, status FROM spock.sub_show_status()")
                lines.append(f"{node.name}: {[' '.join(row) for row in rows]}")
                lines += [f"  {' '.join(map(str, row))}" for row in node.execute(_WORKERS)]
        return "\n".join(lines)


class ChainWatch:
    """Tells when a row has come to every node that takes it straight from where it was inserted.

    What is handed over sooner breaks a steady mesh too, whenever a stream is held up by more than the handing over
    takes: a restart does that.
    """

    def __init__(self, nodes: Sequence[Node], inserter: Node) -> None:
        self._nodes = [node for node in nodes if node is not inserter]
        self._inserter = inserter.name
        self._seen = 0

    def has_come(self, key: int) -> bool:
        """Tell whether the row of the chain with this key, and all before it, are there."""
        if key > self._seen:
            with suppress(psycopg.Error):
                self._seen = int(min(self._newest(node) for node in self._nodes))
        return key <= self._seen

    def _newest(self, node: Node) -> float:
        with node.connect() as connection:
            subscribed = connection.execute(
                "SELECT FROM spock.subscription JOIN spock.node ON node_id = sub_origin"
                " WHERE node_name = %s AND sub_enabled",
                [self._inserter],
            ).fetchone()
            if subscribed is None:
                # What it takes from others has come to those before.
                return math.inf
            row = connection.execute(f"SELECT coalesce(max(id), 0) FROM {CHAIN}").fetchone()
        assert row is not None
        return float(row[0])
