"""A replacement of one node by another: called in a thread, watched, and checked."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from support.calls import exceptions, leftovers, load_zodan
from support.crash import HeldCall, wait_unlocked
from support.tables import TABLES, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 120.0


def arguments(old: Node, new: Node, **options: Any) -> dict[str, Any]:
    """Return the arguments of a replacement."""
    return {
        "old_node_name": old.name,
        "old_node_dsn": old.dsn(),
        "new_node_name": new.name,
        "new_node_dsn": new.dsn(),
        **options,
    }


def kill_before(phase: str, new: Node, given: dict[str, Any], nodes: Sequence[Node]) -> None:
    """Have a replacement die before the last step of a phase."""
    names = ", ".join(f"{name} => %({name})s" for name in given)
    (ordinal,) = new.execute(
        f"SELECT max(ordinal) FROM zodan.plan_replace_node({names}) WHERE phase_name = %(phase)s",
        {**given, "phase": phase},
    )[0]
    HeldCall(new, f"before {ordinal}", "zodan.replace_node", given).kill()
    wait_unlocked(nodes)


class Replacement:
    """A CALL of zodan.replace_node on the new node, in a thread."""

    def __init__(self, old: Node, new: Node, **options: Any) -> None:
        """Begin it."""
        load_zodan(new)
        self._new = new
        self.error: psycopg.Error | None = None
        self.notices: list[str] = []
        self._connection = new.connect()
        self._connection.add_notice_handler(lambda said: self.notices.append(str(said.message_primary)))
        self.pid = self._connection.info.backend_pid
        given = arguments(old, new, **options)
        names = ", ".join(f"{name} => %({name})s" for name in given)
        self._thread = threading.Thread(
            target=self._run, args=(f"CALL zodan.replace_node({names})", given), daemon=True
        )
        self._thread.start()

    def _run(self, statement: str, given: dict[str, Any]) -> None:
        try:
            self._connection.execute(statement.encode(), given)
        except psycopg.Error as error:
            self.error = error

    def wait_for(self, phase: str) -> None:
        """Wait until a step of a phase is under way."""

        def missing() -> str:
            assert self._thread.is_alive(), f"the call ended before phase {phase}: {self.error}"
            found = self._new.execute(
                "SELECT 1 FROM zodan.step WHERE phase_name = %(phase)s AND state = 'running'", {"phase": phase}
            )
            return "" if found else f"no step of {phase} runs"

        wait_until(missing, _BUDGET_S, f"phase {phase}")

    def finish(self) -> None:
        """Wait for its end."""
        self._thread.join(_BUDGET_S)
        assert not self._thread.is_alive(), "the call hangs"
        self._connection.close()


def note_replaced(cluster: Cluster, old: Node, new: Node) -> None:
    """Note that a node has taken the place of another."""
    cluster.members.remove(old)
    if new in cluster.blanks:
        cluster.blanks.remove(new)
    cluster.members.append(new)


def check_replaced(cluster: Cluster, *old: Node) -> None:
    """Check that members have equal rows, that nothing is left of the old nodes, and that nothing was discarded."""
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    for node in old:
        assert leftovers([*cluster.members, *(each for each in old if each.is_running())], node.name) == []
    assert exceptions(cluster.members) == []
