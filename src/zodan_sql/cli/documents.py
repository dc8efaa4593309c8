"""The JSON documents of --json, one type a command; docs/json.md describes them for people.

Keys are added, never renamed or taken away. Times are ISO 8601 with their zone, durations seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

from zodan_sql import inspection, journal, operation

if TYPE_CHECKING:
    from zodan_sql.install import InstallResult
    from zodan_sql.sandbox import SandboxStatus


class ErrorEntry(TypedDict):
    """What went wrong, as on stderr."""

    sqlstate: str
    message: str
    detail: str
    hint: str


class WarningEntry(TypedDict):
    """What a server warned of."""

    message: str
    hint: str


class Envelope(TypedDict):
    """What every document has; error is null when the command did what it was asked."""

    command: str
    error: ErrorEntry | None
    warnings: list[WarningEntry]


class OperationEntry(TypedDict):
    """A row of zodan.operation; state is running, failed, interrupted, done or rolled back."""

    number: int
    kind: str
    node: str
    state: str
    started: str
    took_s: float | None
    error: str | None


class StepEntry(TypedDict):
    """A row of zodan.step; state is pending, running, done, failed or undone."""

    phase: int
    ordinal: int
    node: str
    title: str
    state: str
    took_s: float | None
    error: str | None


class PlannedStepEntry(TypedDict):
    """A row of a plan. Statements name connection strings and results by placeholder."""

    phase: int
    ordinal: int
    section: str | None
    node: str
    title: str
    do_sql: str | None
    done_sql: str | None
    undo_sql: str | None
    until_sql: str | None
    budget_s: float | None


class DatabaseEntry(TypedDict):
    """What became of a database: installed, already there, removed, not there or failed."""

    database: str
    outcome: str
    version: str
    note: str
    error: ErrorEntry | None


class ServerEntry(TypedDict):
    """A server of the sandbox; role is member or blank, dsn has no password."""

    name: str
    role: str
    running: bool
    port: int
    dsn: str
    psql: str
    subscriptions: dict[str, str]


class StreamEntry(TypedDict):
    """A row of zodan.topology; a node alone or unreachable has no subscriber."""

    provider: str
    subscriber: str | None
    subscription: str | None
    status: str | None
    active: bool | None
    lag_bytes: int | None
    health: str


class LeftoverEntry(TypedDict):
    """A row of zodan.rescan; the statement is for that node. Not certain: somebody outside the cluster may use it."""

    node: str
    kind: str
    name: str
    reason: str
    statement: str
    certain: bool


class CallDocument(Envelope, total=False):
    """add-node, remove-node, resume, rollback and rescan --fix; absent where it failed before it had begun."""

    operation: OperationEntry
    steps: list[StepEntry]


class PlanDocument(Envelope, total=False):
    """plan, and add-node and remove-node with --dry-run."""

    plan: list[PlannedStepEntry]


class OperationsDocument(Envelope, total=False):
    """operations."""

    operations: list[OperationEntry]


class StepsDocument(Envelope, total=False):
    """steps."""

    operation: OperationEntry
    steps: list[StepEntry]


class InstallDocument(Envelope, total=False):
    """install and uninstall."""

    databases: list[DatabaseEntry]


class SandboxDocument(Envelope, total=False):
    """sandbox status; engine is empty and servers are none where there is no sandbox."""

    base: str
    engine: str
    running: bool
    servers: list[ServerEntry]


class TopologyDocument(Envelope, total=False):
    """topology."""

    nodes: list[str]
    streams: list[StreamEntry]


class RescanDocument(CallDocument, total=False):
    """rescan; leftovers are those that were found, before --fix mended them."""

    leftovers: list[LeftoverEntry]


def operation_entry(found: journal.Operation) -> OperationEntry:
    """Return an operation as it is in a document."""
    return {
        "number": found.number,
        "kind": found.kind,
        "node": found.node,
        "state": found.state,
        "started": found.started.replace(" ", "T", 1),
        "took_s": found.took_s,
        "error": found.error or None,
    }


def step_entries(steps: Iterable[journal.Step]) -> list[StepEntry]:
    """Return steps of a journal as they are in a document."""
    return [
        {
            "phase": step.phase,
            "ordinal": step.ordinal,
            "node": step.node,
            "title": step.title,
            "state": step.state,
            "took_s": step.took_s,
            "error": step.error,
        }
        for step in steps
    ]


def plan_entries(steps: Iterable[operation.PlannedStep]) -> list[PlannedStepEntry]:
    """Return a plan as it is in a document."""
    return [
        {
            "phase": step.phase,
            "ordinal": step.ordinal,
            "section": step.section,
            "node": step.node,
            "title": step.title,
            "do_sql": step.do_sql,
            "done_sql": step.done_sql,
            "undo_sql": step.undo_sql,
            "until_sql": step.until_sql,
            "budget_s": step.budget.total_seconds() if isinstance(step.budget, timedelta) else None,
        }
        for step in steps
    ]


def database_entries(results: Iterable[InstallResult]) -> list[DatabaseEntry]:
    """Return what became of databases as it is in a document."""
    return [
        {
            "database": result.database,
            "outcome": result.outcome,
            "version": result.version,
            "note": result.note,
            "error": None
            if result.error is None
            else {
                "sqlstate": result.error.sqlstate,
                "message": result.error.message,
                "detail": result.error.detail,
                "hint": result.error.hint,
            },
        }
        for result in results
    ]


def server_entries(status: SandboxStatus) -> list[ServerEntry]:
    """Return the servers of a sandbox as they are in a document."""
    return [
        {
            "name": node.name,
            "role": node.role,
            "running": node.running,
            "port": node.port,
            "dsn": node.dsn,
            "psql": node.psql,
            "subscriptions": node.subscriptions,
        }
        for node in status.nodes
    ]


def stream_entries(streams: Iterable[inspection.Stream]) -> list[StreamEntry]:
    """Return a topology as it is in a document."""
    return [
        {
            "provider": stream.provider,
            "subscriber": stream.subscriber,
            "subscription": stream.subscription,
            "status": stream.status,
            "active": stream.active,
            "lag_bytes": stream.lag_bytes,
            "health": stream.health,
        }
        for stream in streams
    ]


def leftover_entries(leftovers: Iterable[inspection.Leftover]) -> list[LeftoverEntry]:
    """Return what was left behind as it is in a document."""
    return [
        {
            "node": leftover.node,
            "kind": leftover.kind,
            "name": leftover.name,
            "reason": leftover.reason,
            "statement": leftover.statement,
            "certain": leftover.certain,
        }
        for leftover in leftovers
    ]
