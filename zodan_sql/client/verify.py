"""Compare the rows of a cluster's nodes: begin, take on step by step, and report. The state is between two steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from zodan_sql.client.connection import Connection, OnMessage, connect, listen, read_rows
from zodan_sql.client.install import borrowed
from zodan_sql.client.verify_file import VerifyFile
from zodan_sql.client.verify_file import VerifyResult as VerifyResult
from zodan_sql.errors import ZodanError, from_database

#: Seconds after which a transaction that has loaded Zodan is rolled back and another one goes on.
_LOAN_S = 20.0
#: Repairs that one transaction runs, and about how many letters of their statements.
_AT_ONCE = 100
_LETTERS_AT_ONCE = 16_000_000

Row = TypeVar("Row")

_BEGIN = """
SELECT b.p_state, b.p_dsns
  FROM zodan.begin_verify(%(dsn)s, %(tables)s::text[], %(nodes)s::text[], %(jobs)s::int, %(most)s::int,
       %(max_lag)s::interval) AS b
"""
_ADVANCE = "SELECT a.state, zodan.tell_verify(a.state) FROM zodan.advance_verify(%(state)s, %(dsns)s) AS a(state)"
_REPORT = """
SELECT r.table_name, r.row_key, r.result, r.compared, r.equal, r.different, r.undecided, r.seconds::float8 AS seconds,
       r.why, r.nodes
  FROM zodan.report_verify(%(state)s) AS r ORDER BY r.table_name, r.row_key NULLS FIRST
"""
_PRINTS = """
SELECT pg_catalog.jsonb_object_agg(t.item ->> 'name', zodan.print_compared(t.item)), NULL
  FROM pg_catalog.jsonb_array_elements(%(tables)s) AS t(item)
"""
_REPAIRS = "r.node, r.table_name, r.row_key, r.action, r.statement, r.outcome, r.place"
#: What is deleted or updated may have a unique value that what is inserted has.
_PLAN = f"""
SELECT {_REPAIRS} FROM zodan.plan_repairs(%(state)s, %(like)s, %(dsns)s) AS r
 ORDER BY r.node, pg_catalog.array_position(ARRAY['delete', 'update', 'insert'], r.action), r.place
"""
_APPLY = f"SELECT {_REPAIRS} FROM zodan.apply_repairs(%(state)s, %(repairs)s, %(dsns)s, %(is_last)s) AS r"
_AGAIN = "SELECT zodan.look_again(%(state)s, %(repairs)s), NULL"
_FRAME = """
SELECT zodan.open_repair(p_node => %(node)s, p_origins => %(origins)s::text[]),
       pg_catalog.concat_ws(E';\\n', zodan.repair_aside(), zodan.close_repair())
"""
_RECORDED = """
SELECT c.table_name, c.row_key, c.result, c.compared, c.equal, c.different, c.undecided, c.seconds::float8 AS seconds,
       c.why, c.nodes
  FROM zodan.compared AS c WHERE c.operation_id = %(number)s ORDER BY c.phase_name, c.table_name, c.number
"""
_CLOSE = "SELECT zodan.close_connections()"


@dataclass(frozen=True)
class Repair:
    """What makes a row of a node as another node has it; outcome is None before the statement has run."""

    node: str
    table_name: str
    row_key: dict[str, str]
    action: str
    statement: str | None
    outcome: str | None
    #: Finds the row in the comparison.
    place: int


@dataclass(frozen=True)
class Wish:
    """What to do about rows that are different: make them as ``like`` has them; ``apply`` does so, and looks again."""

    like: str
    apply: bool


@dataclass(frozen=True)
class Outcome:
    """What a comparison found, and the repairs if somebody wished for them."""

    results: list[VerifyResult]
    repairs: list[Repair]
    #: What the rows that were to be repaired are afterwards; None if no repair has run.
    again: list[VerifyResult] | None = None
    #: The statements that begin and end a session which repairs rows, by node.
    frames: dict[str, tuple[str, str]] = field(default_factory=dict)


def verify(
    dsn: str,
    arguments: Mapping[str, object],
    on_message: OnMessage,
    on_progress: Callable[[str], None],
    wish: Wish | None = None,
    file: VerifyFile | None = None,
) -> Outcome:
    """Compare rows, and return what zodan.verify returns. ``on_progress`` gets a line about every second.

    ``arguments`` has tables, nodes, jobs, most and max_lag, or None. If Zodan is not installed in the database, it is
    loaded in a transaction that is rolled back, and again after a while: no transaction stays open for long. ``file``
    has what earlier calls found, and gets what this one finds of each table. Raises ZodanError.
    """
    session = _Session(dsn, on_message)
    with session.opened():
        state, dsns = session.ask(_BEGIN, {"dsn": dsn, **arguments})
        if wish is not None and wish.like not in state["nodes"]:
            raise ZodanError(
                f'"{wish.like}" is not one of the nodes compared',
                sqlstate="ZD004",
                detail=f"They are {', '.join(state['nodes'])}.",
                hint="Name one of these with --like.",
            )
        if file is not None:
            state = _leave_out(session, state, file, whole=not arguments["tables"], again=wish is not None)
            on_message("NOTICE", file.describe(), "")
    state = _compare(session, state, dsns, on_progress, file)
    if file is not None:
        # Before rows are repaired: what was different is compared again from here on.
        file.finish()
        results = file.results()
    else:
        with session.opened():
            results = session.rows(_REPORT, {"state": Jsonb(state)}, VerifyResult)
    if wish is None:
        return Outcome(results, [])
    with session.opened():
        given: dict[str, object] = {"state": Jsonb(state), "like": wish.like, "dsns": Jsonb(dsns)}
        repairs = session.rows(_PLAN, given, Repair)
        names = sorted({repair.node for repair in repairs})
        frames = {}
        for name in names:
            frames[name] = session.ask(_FRAME, {"node": name, "origins": state["members"]})
    if not wish.apply:
        return Outcome(results, repairs, None, frames)
    applied = _apply(session, repairs, {"state": Jsonb(state), "dsns": Jsonb(dsns)}, on_progress)
    with session.opened():
        named = Jsonb([{"place": each.place, "statement": each.statement and "has run"} for each in applied])
        looked, _ = session.ask(_AGAIN, {"state": Jsonb(state), "repairs": named})
    state = _compare(session, looked, dsns, on_progress)
    with session.opened():
        return Outcome(results, applied, session.rows(_REPORT, {"state": Jsonb(state)}, VerifyResult), frames)


def _apply(
    session: _Session, repairs: list[Repair], given: dict[str, object], on_progress: Callable[[str], None]
) -> list[Repair]:
    """Run repairs, and return them with their outcome."""
    applied: list[Repair] = []
    for batch in _batches(repairs):
        with session.opened():
            named = Jsonb([asdict(repair) for repair in batch])
            applied += session.rows(_APPLY, given | {"repairs": named, "is_last": False}, Repair)
        on_progress(f"~ {len(applied)} of {len(repairs)} repairs done")
    # Rows that had to wait until others had given up a unique value.
    aside = [asdict(each) for each in applied if each.outcome is None]
    if not aside:
        return applied
    with session.opened():
        last = session.rows(_APPLY, given | {"repairs": Jsonb(aside), "is_last": True}, Repair)
    outcomes = {(each.node, each.place): each for each in last}
    return [outcomes.get((each.node, each.place), each) for each in applied]


def _batches(repairs: list[Repair]) -> Iterator[list[Repair]]:
    """Yield repairs, some at a time: one array of JSON holds no more than 256 MB."""
    batch: list[Repair] = []
    letters = 0
    for repair in repairs:
        size = len(repair.statement or "")
        if batch and (len(batch) == _AT_ONCE or letters + size > _LETTERS_AT_ONCE):
            yield batch
            batch, letters = [], 0
        batch.append(repair)
        letters += size
    if batch:
        yield batch


def _leave_out(
    session: _Session, state: dict[str, Any], file: VerifyFile, *, whole: bool, again: bool
) -> dict[str, Any]:
    """Return the state without the tables whose result is in the file."""
    prints, _ = session.ask(_PRINTS, {"tables": Jsonb(state["tables"])})
    file.begin(state["identities"], state["most"], prints, whole=whole, again=again)
    tables = [each for each in state["tables"] if each["name"] not in file.kept]
    # With kept, each step ends when a table is finished.
    return state | {"tables": tables, "total": len(tables), "finished": not tables, "kept": len(file.kept)}


def _keep(session: _Session, state: dict[str, Any], before: int, file: VerifyFile) -> None:
    """Write to the file what was found of the tables that are done since ``before`` were."""
    done = state["done"][before:]
    results: dict[str, list[VerifyResult]] = {each["name"]: [] for each in done}
    if done:
        found = [each for each in state["found"] if each["table"] in results]
        for row in session.rows(_REPORT, {"state": Jsonb(state | {"done": done, "found": found})}, VerifyResult):
            results[row.table_name].append(row)
        file.add(results)


def _compare(
    session: _Session,
    state: dict[str, Any],
    dsns: dict[str, Any],
    on_progress: Callable[[str], None],
    file: VerifyFile | None = None,
) -> dict[str, Any]:
    while not state.get("finished"):
        with session.opened():
            while not state.get("finished") and not session.is_due():
                before = len(state["done"])
                state, line = session.ask(_ADVANCE, {"state": Jsonb(state), "dsns": Jsonb(dsns)})
                if file is not None:
                    _keep(session, state, before, file)
                on_progress(line)
            session.execute(_CLOSE)
    return state


class _Session:
    """A session with Zodan: the database's own, or one that has it in a transaction that is rolled back."""

    def __init__(self, dsn: str, on_message: OnMessage) -> None:
        self._dsn = dsn
        self._on_message = on_message
        self._connection: Connection | None = None
        self._until: float | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open it; what a server raises comes as ZodanError."""
        with ExitStack() as stack:
            where = stack.enter_context(borrowed(self._dsn))
            self._connection = stack.enter_context(connect(where)) if isinstance(where, str) else where
            self._until = None if isinstance(where, str) else time.monotonic() + _LOAN_S
            listen(self._connection, self._on_message)
            try:
                yield
            except psycopg.Error as error:
                raise from_database(error) from None

    def is_due(self) -> bool:
        """Return whether its transaction has been open for long enough."""
        return self._until is not None and time.monotonic() > self._until

    def ask(self, query: LiteralString, parameters: Mapping[str, object]) -> tuple[Any, Any]:
        """Return the one row of a query with two columns."""
        assert self._connection is not None
        (row,) = self._connection.execute(query, parameters).fetchall()
        return row[0], row[1]

    def execute(self, query: LiteralString) -> None:
        """Run a query."""
        assert self._connection is not None
        self._connection.execute(query)

    def rows(self, query: LiteralString, parameters: dict[str, object], kind: type[Row]) -> list[Row]:
        """Return the rows of a query as ``kind``."""
        assert self._connection is not None
        return read_rows(self._connection, query, parameters, kind)


def recorded(dsn: str, number: int) -> list[VerifyResult]:
    """Return what an operation found when it compared rows; nothing if it did not. Raises ZodanError."""
    return read_rows(dsn, _RECORDED, {"number": number}, VerifyResult)
