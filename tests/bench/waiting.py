"""How long TRUNCATE and ALTER TABLE wait on the source, during a copy, for tables that are not just being copied."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from bench.copies import by_spock, by_zodan
from bench.copying import LIMITED
from bench.filling import Data, fill_beside
from bench.proxy import Proxy
from bench.report import Report
from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Node

State = Literal["not begun", "under way", "copied"]
_KIND = "what waits on the source during a copy at 10 MB/s a connection, in seconds"
_REST_S = 0.05
_BUDGET_S = 60.0
#: Each takes the lock that no reader may have, and leaves every column as it is.
_STATEMENTS = {"TRUNCATE": "TRUNCATE {}", "ALTER TABLE": "ALTER TABLE {} ALTER note SET STORAGE EXTENDED"}
_STATES: tuple[State, ...] = ("not begun", "copied")
_BY_ZODAN = """
SELECT t.item ->> 'name', CASE WHEN bool_and(u.state = 'done') THEN 'copied'
           WHEN bool_and(u.state = 'pending') THEN 'not begun' ELSE 'under way' END
  FROM zodan.unit AS u CROSS JOIN LATERAL jsonb_array_elements(u.what) AS t(item)
 WHERE u.phase_name = 'copied' GROUP BY 1
"""
# The file of a table grows before anybody else sees the rows.
_BY_SPOCK = """
SELECT c.relname, CASE WHEN p.bytes_processed > 0 THEN 'under way' WHEN pg_relation_size(c.oid) > 0 THEN 'copied'
           ELSE 'not begun' END
  FROM pg_class AS c LEFT JOIN pg_stat_progress_copy AS p ON p.relid = c.oid
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""


def measure(cluster: Cluster, data: Data, report: Report) -> None:
    """Send the statements during a copy of both kinds, over a slow line, so that there is time for them."""
    source = cluster["n1"]
    watched: dict[str, _Statements] = {}

    def sending(who: str, new: Node, query: str) -> _Statements:
        return watched.setdefault(who, _Statements(source, data, lambda: _states(new, query)))

    with Proxy(source.port, LIMITED) as proxy:
        _refill(cluster, data)
        spock = by_spock(cluster, data, proxy.port, lambda new: sending("Spock", new, _BY_SPOCK))
        _refill(cluster, data)
        zodan = by_zodan(cluster, data, proxy.port, 4, lambda new: sending("Zodan", new, _BY_ZODAN))
        _refill(cluster, data)
    for statement in _STATEMENTS:
        for state in _STATES:
            values = {who: statements.waited.get((statement, state)) for who, statements in watched.items()}
            report.add(_KIND, f"{statement} of a table {_said(state)}", values)
    report.add(_KIND, "the whole copy", {"Spock": spock.seconds, "Zodan": zodan.seconds})


class _Statements:
    """Sends each statement once for each state, as soon as some table is in it while a large one is being copied."""

    def __init__(self, source: Node, data: Data, states: Callable[[], dict[str, State]]) -> None:
        self._source = source
        self._data = data
        self._states = states
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1 + len(_STATEMENTS) * len(_STATES))
        self._runs: list[Future[None]] = []
        #: Seconds, by statement and state.
        self.waited: dict[tuple[str, State], float] = {}

    def __enter__(self) -> _Statements:
        self._runs.append(self._pool.submit(self._watch))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for run in self._runs:
            run.result(_BUDGET_S)
        self._pool.shutdown()

    def _watch(self) -> None:
        open_cases = [(statement, state) for statement in _STATEMENTS for state in _STATES]
        taken: set[str] = set()
        while open_cases and not self._over.wait(_REST_S):
            states = self._states()
            if not any(states.get(table) == "under way" for table in self._data.large):
                continue
            for statement, state in list(open_cases):
                # No large table is emptied: what comes afterwards copies it, too.
                tables = self._data.beside if statement == "TRUNCATE" else self._data.tables
                found = [table for table in tables if states.get(table) == state and table not in taken]
                if found:
                    taken.add(found[0])
                    open_cases.remove((statement, state))
                    self._runs.append(self._pool.submit(self._send, statement, state, found[0]))

    def _send(self, statement: str, state: State, table: str) -> None:
        with self._source.connect() as connection:
            began = time.monotonic()
            connection.execute(_STATEMENTS[statement].format(table).encode())
            self.waited[statement, state] = time.monotonic() - began


def _states(node: Node, query: str) -> dict[str, State]:
    return {str(table): state for table, state in node.execute(query)}


def _said(state: State) -> str:
    return "that has been copied" if state == "copied" else "that is still to come"


def _refill(cluster: Cluster, data: Data) -> None:
    """Bring back what was truncated."""
    source = cluster["n1"]
    source.execute(f"TRUNCATE {', '.join(data.beside)}")
    fill_beside(source, data.beside)
    wait_level(cluster.members)
