"""The demonstration: a node joins a cluster under writes, a comparison of every row follows, and the node leaves."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg

from zodan_sql.client import install, journal, operation, topology
from zodan_sql.sandbox import Cluster, Node, SandboxError, detect_engine, wait_until
from zodan_sql.showing import picture

MEMBERS = ("n1", "n2", "n3")
JOINING = "n4"
SOURCE = "n1"
WRITERS = ("n1", "n2")

ROWS_BEFORE = 20_000
#: Transactions that each writer must commit after the join, so that the direct streams carry something.
WRITES_AFTER = 200
LEVEL_BUDGET_S = 60.0
_WRITE_PAUSE_S = 0.002

#: Each table and its replication set: a table without a key can only replicate inserts.
TABLES = {"orders": "default", "events": "default_insert_only"}

_CREATE = """
CREATE TABLE public.orders (node text, number bigint, amount int NOT NULL, PRIMARY KEY (node, number));
CREATE TABLE public.events (node text, number bigint, happened timestamptz DEFAULT pg_catalog.clock_timestamp());
"""
_LOAD = (
    "INSERT INTO public.orders SELECT 'before', n, n FROM pg_catalog.generate_series(1, %(rows)s) AS n",
    "INSERT INTO public.events (node, number) SELECT 'before', n FROM pg_catalog.generate_series(1, %(rows)s) AS n",
)
_WRITE = (
    "INSERT INTO public.orders VALUES (%(node)s, %(number)s, 0)",
    "INSERT INTO public.events (node, number) VALUES (%(node)s, %(number)s)",
    "UPDATE public.orders SET amount = amount + 1 WHERE node = %(node)s AND number > %(number)s - 10",
    "DELETE FROM public.orders WHERE node = %(node)s AND number = %(number)s - 20",
)
_DIGEST = """
SELECT pg_catalog.count(*), pg_catalog.md5(pg_catalog.string_agg(t::text, E'\\n' ORDER BY t::text COLLATE "C"))
  FROM public.{} AS t
"""
_LEFTOVERS = """
SELECT 'node', node_name::text FROM spock.node WHERE node_name = %(node)s
UNION ALL SELECT 'subscription', sub_name::text FROM spock.subscription WHERE sub_name LIKE '%%\\_' || %(node)s || '%%'
UNION ALL SELECT 'slot', slot_name::text FROM pg_catalog.pg_replication_slots WHERE slot_name LIKE '%%\\_' || %(node)s
UNION ALL SELECT 'origin', roname FROM pg_catalog.pg_replication_origin WHERE roname LIKE '%%\\_' || %(node)s || '\\_%%'
"""


#: Takes a topology of the demonstration's cluster.
SeeTopology = Callable[[Sequence[topology.Stream]], None]


class Show(Protocol):
    """Where the demonstration prints."""

    def line(self, text: str = "", style: str | None = None) -> None:
        """Show a line."""

    def message(self, severity: str, text: str, hint: str = "") -> None:
        """Show a message of a server."""

    def working(self, text: str, read_plan: Callable[[], Sequence[journal.Step]]) -> AbstractContextManager[None]:
        """Show that work is under way, and its progress if it has a plan."""


@dataclass
class Writer(threading.Thread):
    """Writes to one node until ``stop``: inserts, updates, deletes, and rows of a table without a key."""

    node: Node
    written: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Write until ``stop``, or until a write fails."""
        with self.node.connect() as connection:
            while not self._stopped.wait(_WRITE_PAUSE_S):
                try:
                    with connection.transaction():
                        for statement in _WRITE:
                            connection.execute(statement, {"node": self.node.name, "number": self.written + 1})
                    self.written += 1
                except psycopg.Error as error:
                    self.failures.append(str(error))
                    return

    def stop(self) -> None:
        """Stop after the current transaction."""
        self._stopped.set()
        self.join()


def run(show: Show, pg_bin: Path | None = None, see: SeeTopology = lambda _: None) -> bool:
    """Run the demonstration in its own sandbox. Return whether all rows were equal and no leftovers remained.

    ``see`` gets each topology that the demonstration shows.
    """
    started = time.monotonic()
    engine = detect_engine(pg_bin)
    show.line(f"engine: {engine.description}")
    with tempfile.TemporaryDirectory(prefix="zodan-demo-", ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        base.chmod(0o755)
        with show.working("creating a cluster", list):
            cluster = Cluster.create(base / "cluster", MEMBERS, [JOINING], engine=engine)
        with cluster:
            show.line(f"cluster of {', '.join(MEMBERS)} is up, {JOINING} is empty ({time.monotonic() - started:.1f} s)")
            fine = _show(cluster, show, see)
    _verdict(show, fine, f"everything is correct, in {time.monotonic() - started:.0f} s", "something is WRONG")
    return fine


def _show(cluster: Cluster, show: Show, see: SeeTopology) -> bool:
    with show.working("loading rows", list):
        _prepare(cluster)
    show.line(f"{ROWS_BEFORE} rows in each of {' and '.join(TABLES)}; writers run on {' and '.join(WRITERS)}")
    fine = _show_join(cluster, show)
    _show_picture(cluster, show, see)
    fine &= _show_removal(cluster, show)
    _show_picture(cluster, show, see)
    return fine


def _prepare(cluster: Cluster) -> None:
    _create_tables(cluster.members)
    for statement in _LOAD:
        cluster[SOURCE].execute(statement, {"rows": ROWS_BEFORE})
    (installed,) = install.install([cluster[JOINING].dsn()])
    if installed.error is not None:
        raise installed.error


def _show_join(cluster: Cluster, show: Show) -> bool:
    joining, source = cluster[JOINING], cluster[SOURCE]
    arguments = {
        "src_node_name": SOURCE,
        "src_dsn": source.dsn(),
        "new_node_name": JOINING,
        "new_node_dsn": joining.dsn(),
        "verb": True,
    }
    show.line()
    with _writing(cluster) as writers:
        took = _call(joining, show, f"adding {JOINING}", "add_node", arguments)
        show.line(f"{JOINING} joined in {took:.1f} s, and the writers kept writing", style="bold")
        wanted = [(writer, writer.written + WRITES_AFTER) for writer in writers]
        with show.working("the writers continue", list):
            wait_until(
                lambda: ", ".join(w.node.name for w, goal in wanted if w.written < goal and not w.failures),
                LEVEL_BUDGET_S,
                "the writers to continue",
            )
    fine = _report_writers(writers, show)
    return _compare(cluster.nodes, show) and fine


def _show_removal(cluster: Cluster, show: Show) -> bool:
    joining = cluster[JOINING]
    arguments = {"target_node_name": JOINING, "target_node_dsn": joining.dsn(), "verbose_mode": True}
    took = _call(joining, show, f"removing {JOINING}", "remove_node", arguments)
    show.line(f"{JOINING} left in {took:.1f} s", style="bold")
    return _find_leftovers(cluster, show)


def _call(node: Node, show: Show, text: str, procedure: str, arguments: dict[str, object]) -> float:
    """Call a procedure on a node and return the seconds that it took."""

    def read_plan() -> Sequence[journal.Step]:
        number = journal.find_unfinished(node.dsn(), procedure, JOINING)
        return [] if number is None else journal.steps(node.dsn(), number)

    began = time.monotonic()
    with show.working(text, read_plan):
        operation.call(node.dsn(), procedure, arguments, show.message)
    return time.monotonic() - began


def _verdict(show: Show, fine: bool, good: str, bad: str) -> None:
    show.line(good if fine else bad, style="bold green" if fine else "bold red")


def _create_tables(members: Sequence[Node]) -> None:
    for node in members:
        with node.connect(autocommit=False) as connection:
            install.switch_off_ddl_replication(connection)
            connection.execute(_CREATE)
            for table, replication_set in TABLES.items():
                connection.execute("SELECT spock.repset_add_table(%s, %s::regclass)", [replication_set, table])


@contextmanager
def _writing(cluster: Cluster) -> Iterator[list[Writer]]:
    writers = [Writer(cluster[name]) for name in WRITERS]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def _report_writers(writers: Sequence[Writer], show: Show) -> bool:
    for writer in writers:
        said = f"writer on {writer.node.name}: {writer.written} transactions, {len(writer.failures)} failed"
        _verdict(show, not writer.failures, said, said)
        for failure in writer.failures:
            show.line(f"  {failure}")
    return not any(writer.failures for writer in writers)


def _compare(nodes: Sequence[Node], show: Show) -> bool:
    """Wait until the last changes have arrived everywhere, then compare every row on every node."""
    with show.working("comparing every row", list), suppress(SandboxError):
        wait_until(lambda: ", ".join(_differing(nodes)), LEVEL_BUDGET_S, "every node to have every row")
    differing = _differing(nodes)
    for table in TABLES:
        counts = f"rows of {table}: " + "  ".join(f"{node.name} {_digest(node, table)[0]}" for node in nodes)
        _verdict(show, table not in differing, f"{counts}  all equal", f"{counts}  DIFFERENT")
    return not differing


def _differing(nodes: Sequence[Node]) -> list[str]:
    return [table for table in TABLES if len({_digest(node, table) for node in nodes}) > 1]


def _digest(node: Node, table: str) -> tuple[object, ...]:
    return node.execute(_DIGEST.format(table))[0]


def _show_picture(cluster: Cluster, show: Show, see: SeeTopology) -> None:
    """Draw the topology. The call runs on the node that joins and leaves, which has Zodan, and asks the source."""
    streams = topology.streams(cluster[JOINING].dsn(), through=cluster[SOURCE].dsn())
    see(streams)
    show.line()
    for text in (*picture.matrix(streams), picture.summary(streams)):
        show.line(f"    {text}", style="cyan")
    show.line()


def _find_leftovers(cluster: Cluster, show: Show) -> bool:
    left = [
        f"{kind} {name} on {node.name}"
        for node in cluster.members
        for kind, name in node.execute(_LEFTOVERS, {"node": JOINING})
    ]
    _verdict(
        show, not left, f"no leftovers of {JOINING} on the other nodes", f"leftovers of {JOINING}: {', '.join(left)}"
    )
    return not left
