"""Load: background threads that write on some nodes, each in its own range of keys."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from support.tables import CHAIN, KEYED, KEYLESS
from zodan_sql.sandbox import Node, wait_until

_RANGE = 10_000_000
#: Nodes that one series of writers may have.
_NODES = 10
#: How long after its insert on one node a row of the chain is updated on the other.
_CHAIN_DELAY_S = 1.0
_PAUSE_S = 0.03
#: Rests of writers that write much: no transaction is to slip between two steps unseen.
OFTEN_S = 0.01
#: Rests of writers in a row of cases: enough writes for every race, few enough rows to compare them after every case.
RARELY_S = 0.04
#: How long a writer may take to write again on a node that came back.
_SETTLE_BUDGET_S = 30.0


class Writers:
    """Writes on ``nodes`` between start() and stop(); retries nothing and counts what failed.

    A connection that broke is made anew by the next write.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        chain: tuple[Node, Node] | None = None,
        series: int = 0,
        pause_s: float = _PAUSE_S,
        may_hand_over: Callable[[int], bool] | None = None,
    ) -> None:
        """``series`` keeps the keys of one set of writers apart from those of another on the same tables.

        Each thread rests ``pause_s`` between two writes. A row of the chain is handed over to the second node when it
        has come there, and when ``may_hand_over`` says so too.
        """
        self._series = series
        self._pause_s = pause_s
        self._may_hand_over = may_hand_over or (lambda key: True)
        self.nodes = list(nodes)
        #: Rows are inserted on the first and updated on the second.
        self.chain = chain or ((nodes[-1], nodes[0]) if len(nodes) > 1 else None)
        self.failures: list[str] = []
        self.writes = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sessions: list[_Session] = []
        self._rounds: list[int] = []
        self._excused: set[str] = set()

    def __enter__(self) -> Writers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def failed(self) -> int:
        """How many writes failed."""
        return len(self.failures)

    def start(self) -> None:
        """Start writing, and return when every thread has written once."""
        started = []
        for number, node in enumerate(self.nodes):
            for kind in (self._keyed, self._keyless):
                started.append(self._run(kind(node, number)))
        if self.chain is not None:
            started.append(self._run(self._chain(*self.chain)))
        for event in started:
            assert event.wait(30), f"a writer did not start: {self.failures[:3]}"

    def stop(self) -> None:
        """Stop writing; every write that began is finished."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a writer hangs: some node blocks writes"
        for session in self._sessions:
            session.close()

    @contextmanager
    def excused(self, node: Node) -> Iterator[None]:
        """For the time that ``node`` is down: writes that fail on it do not count, and are not made up for."""
        self._excused.add(node.name)
        yield
        for session in self._sessions:
            session.is_stale = session.is_stale or session.node == node.name
        before = list(self._rounds)
        # A write that met the broken connection has ended when its thread has begun another and ended that.
        wait_until(
            lambda: "".join("." for was, now in zip(before, self._rounds, strict=True) if now < was + 2),
            _SETTLE_BUDGET_S,
            "every writer to write again",
        )
        self._excused.remove(node.name)

    def _run(self, write: Callable[[], None]) -> threading.Event:
        started = threading.Event()
        number = len(self._rounds)
        self._rounds.append(0)

        def loop() -> None:
            while not self._stop.is_set():
                try:
                    write()
                except _WriteFailedError as error:
                    if error.node not in self._excused:
                        with self._lock:
                            self.failures.append(str(error))
                else:
                    with self._lock:
                        self.writes += 1
                self._rounds[number] += 1
                started.set()
                self._stop.wait(self._pause_s)

        thread = threading.Thread(target=loop, daemon=True)
        self._threads.append(thread)
        thread.start()
        return started

    def _keyed(self, node: Node, number: int) -> Callable[[], None]:
        connection = self._session(node)
        chance = random.Random(number)
        alive: list[int] = []
        state = {"next": (self._series * _NODES + number + 1) * _RANGE}

        def write() -> None:
            action = chance.random()
            if action < 0.5 or len(alive) < 10:
                key = state["next"]
                state["next"] += 1
                connection.execute(f"INSERT INTO {KEYED} VALUES (%s, %s, 0, repeat('y', 50))", [key, node.name])
                alive.append(key)
            elif action < 0.85:
                connection.execute(f"UPDATE {KEYED} SET value = value + 1 WHERE id = %s", [chance.choice(alive)])
            else:
                key = alive.pop(chance.randrange(len(alive)))
                connection.execute(f"DELETE FROM {KEYED} WHERE id = %s", [key])

        return write

    def _keyless(self, node: Node, number: int) -> Callable[[], None]:
        connection = self._session(node)
        state = {"next": self._series * _RANGE}

        def write() -> None:
            state["next"] += 1
            connection.execute(f"INSERT INTO {KEYLESS} VALUES (%s, %s, 'z')", [node.name, state["next"]])

        return write

    def _chain(self, inserter: Node, updater: Node) -> Callable[[], None]:
        first, second = self._session(inserter), self._session(updater)
        waiting: deque[tuple[float, int]] = deque()
        state = {"next": self._series * _RANGE + 1}

        def write() -> None:
            due, key = time.monotonic() + _CHAIN_DELAY_S, state["next"]
            state["next"] += 1
            first.execute(f"INSERT INTO {CHAIN} VALUES (%s, %s)", [key, inserter.name])
            waiting.append((due, key))
            while waiting and waiting[0][0] <= time.monotonic():
                key = waiting[0][1]
                if not (self._may_hand_over(key) and _hand_over(second, key, updater.name)):
                    break
                waiting.popleft()

        return write

    def _session(self, node: Node) -> _Session:
        session = _Session(node)
        self._sessions.append(session)
        return session


class _WriteFailedError(Exception):
    def __init__(self, node: str, error: psycopg.Error) -> None:
        super().__init__(f"{type(error).__name__} on {node}: {error}")
        self.node = node


class _Session:
    """A connection to a node, made anew by the next statement when it broke."""

    def __init__(self, node: Node) -> None:
        self.node = node.name
        self.is_stale = False
        self._connect = node.connect
        self._connection = node.connect()

    def execute(self, query: str, parameters: list[Any]) -> psycopg.Cursor[Any]:
        try:
            if self._connection.closed or self.is_stale:
                self.is_stale = False
                self._connection = self._connect()
            return self._connection.execute(query, parameters)  # type: ignore[arg-type, unused-ignore]
        except psycopg.Error as error:
            raise _WriteFailedError(self.node, error) from error

    def close(self) -> None:
        self._connection.close()


def _hand_over(session: _Session, key: int, name: str) -> bool:
    """Update a row that came from elsewhere; it may not have come yet, as any application would see."""
    return session.execute(f"UPDATE {CHAIN} SET updated_by = %s WHERE id = %s", [name, key]).rowcount == 1
