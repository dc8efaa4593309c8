"""The JSON documents of --json, one type for each command; docs/reference/json.md describes them for people.

New versions may add keys, and never rename or remove one. Times are ISO 8601 with their zone, durations seconds, sizes
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, cast

from zodan_sql.client import journal, operation, topology
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.samples import Sample
from zodan_sql.client.verify import Repair, VerifyResult
from zodan_sql.errors import ZodanError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from zodan_sql.client.install import InstallResult
    from zodan_sql.sandbox import SandboxStatus


class ErrorEntry(TypedDict):
    """An error, as on stderr."""

    sqlstate: str
    message: str
    detail: str
    hint: str


class WarningEntry(TypedDict):
    """A warning of a server."""

    message: str
    hint: str


class Envelope(TypedDict):
    """The keys of every document; error is null if the command did what you asked."""

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
    phase_name: str
    ordinal: int
    kind: str
    node: str
    object_name: str | None
    title: str
    state: str
    took_s: float | None
    error: str | None
    waiting_for: str | None


class CheckEntry(TypedDict):
    """A row of zodan.checks; severity is fail, warn or info, passed is null where something cannot be known.

    ``verdict`` is FAIL, WARN, INFO or PASS. ``key`` stays the same when ``name`` is worded otherwise.
    """

    key: str
    name: str
    scope: str
    severity: str
    passed: bool | None
    observed: str
    required: str
    hint: str
    verdict: str


class SampleEntry(TypedDict):
    """A row of zodan.sample, of a copy or a comparison (with a stage), or of a stream; an unknown value is null."""

    ordinal: int
    taken: str
    waited_s: float | None
    stage: str | None
    tables_done: int | None
    tables_total: int | None
    bytes_done: int | None
    bytes_total: int | None
    table: str | None
    table_bytes: int | None
    lag_bytes: int | None
    paused: str | None
    behind: str | None


class PlannedStepEntry(TypedDict):
    """A row of a plan. Statements name connection strings and results by placeholder."""

    phase: int
    phase_name: str
    ordinal: int
    kind: str
    group_name: str | None
    group_tries: int | None
    policy: str | None
    node: str
    object_name: str | None
    title: str
    do_sql: str | None
    done_sql: str | None
    undo_sql: str | None
    until_sql: str | None
    budget_s: float | None


class DatabaseEntry(TypedDict):
    """The outcome in a database: installed, already there, removed, not there or failed."""

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
    """A row of zodan.topology; a node that is alone or unreachable has no subscriber."""

    provider: str
    subscriber: str | None
    subscription: str | None
    status: str | None
    active: bool | None
    lag_bytes: int | None
    health: str


class LeftoverEntry(TypedDict):
    """A row of zodan.rescan; the statement runs on that node. If certain is false, somebody else may need it."""

    node: str
    kind: str
    name: str
    reason: str
    statement: str
    certain: bool


class VerifyVersionEntry(TypedDict):
    """A row as a node has it: the columns that differ, and of a table without a key how many such rows there are."""

    row: dict[str, str | None]
    committed: str | None
    origin: str
    rows: int | None


class VerifyRowEntry(TypedDict):
    """A row that is different or undecided; nodes has what each node has of it, null where the row is missing."""

    key: dict[str, str]
    result: str
    why: str | None
    nodes: dict[str, VerifyVersionEntry | None]


class VerifyTableEntry(TypedDict):
    """A table of zodan.verify; result is equal, different or undecided."""

    table: str
    result: str
    compared: int
    equal: int
    different: int
    undecided: int
    took_s: float
    why: str | None
    rows: list[VerifyRowEntry]


class KeptEntry(TypedDict):
    """A table that was not compared, because the file of --resume has its result, and when it was compared."""

    table: str
    compared_at: str


class RepairEntry(TypedDict):
    """What makes a row of a node as another node has it; outcome is null before its statement has run.

    --output has the statements: masked, they would write other values.
    """

    node: str
    table: str
    key: dict[str, str]
    action: str
    outcome: str | None


class CallDocument(Envelope, total=False):
    """add-node, remove-node, replace-node, resume, rollback, rescan --fix.

    No keys if the call failed before an operation began.
    """

    operation: OperationEntry
    steps: list[StepEntry]
    checks: list[CheckEntry]
    samples: list[SampleEntry]
    compared: list[VerifyTableEntry]


class HealthDocument(Envelope, total=False):
    """health-check; no keys if the command failed before the checks."""

    check_type: str
    checks: list[CheckEntry]
    failed: int
    warned: int


class PlanDocument(Envelope, total=False):
    """plan, and add-node, remove-node and replace-node with --dry-run."""

    plan: list[PlannedStepEntry]


class OperationsDocument(Envelope, total=False):
    """operations."""

    operations: list[OperationEntry]


class StepsDocument(CallDocument, total=False):
    """steps."""


class InstallDocument(Envelope, total=False):
    """install and uninstall."""

    databases: list[DatabaseEntry]


class SandboxDocument(Envelope, total=False):
    """sandbox status; without a sandbox, engine and servers are empty."""

    base: str
    engine: str
    running: bool
    servers: list[ServerEntry]


class TopologyDocument(Envelope, total=False):
    """topology."""

    nodes: list[str]
    streams: list[StreamEntry]


class VerifyDocument(Envelope, total=False):
    """verify; no keys if the command failed before the end."""

    tables: list[VerifyTableEntry]
    equal: int
    different: int
    undecided: int
    #: Those of the tables whose result is from the file of --resume.
    kept: list[KeptEntry]
    repairs: list[RepairEntry]
    #: The rows that were to be repaired, as they are afterwards; null if no repair has run.
    again: list[VerifyTableEntry] | None


class CloneDocument(CallDocument, total=False):
    """clone, and replace-node with --clone; the keys of a call once the join has begun."""

    #: The steps that are to do; only with --dry-run.
    clone_steps: list[str]
    slot: str
    slot_lsn: str
    copy_lsn: str
    #: Seconds of each step on this machine.
    took_s: dict[str, float]


class PairEntry(TypedDict, total=False):
    """A node and the one that takes its place.

    state is pending, replaced, replaced before, failed, or planned with --dry-run.
    """

    old: str
    new: str
    state: str
    #: Who brings the structure: spock, client or present; null if nothing was done.
    structure: str | None
    operation: OperationEntry
    #: Only with --dry-run; null if the plan cannot be made before the client has brought the structure.
    plan: list[PlannedStepEntry] | None


class UpgradeDocument(Envelope, total=False):
    """upgrade; no keys if the command failed before it read the cluster."""

    pairs: list[PairEntry]


class RescanDocument(CallDocument, total=False):
    """rescan; leftovers lists what was found, before --fix removed it."""

    leftovers: list[LeftoverEntry]


def operation_entry(found: journal.Operation) -> OperationEntry:
    """Return an operation in the form of a document."""
    return cast(OperationEntry, _entry(found, started=("started", _iso), error=("error", lambda text: text or None)))


def _iso(started: str) -> str:
    return started.replace(" ", "T", 1)


def step_entries(steps: Iterable[journal.Step]) -> list[StepEntry]:
    """Return the steps of a journal in the form of a document."""
    return cast(list[StepEntry], [asdict(step) for step in steps])


def check_entries(results: Iterable[CheckResult]) -> list[CheckEntry]:
    """Return checks in the form of a document."""
    return cast(list[CheckEntry], [asdict(result) for result in results])


def sample_entries(samples: Iterable[Sample]) -> list[SampleEntry]:
    """Return samples in the form of a document."""
    return cast(list[SampleEntry], [_entry(sample, taken_at=("taken", datetime.isoformat)) for sample in samples])


def plan_entries(steps: Iterable[operation.PlannedStep]) -> list[PlannedStepEntry]:
    """Return a plan in the form of a document."""
    return cast(list[PlannedStepEntry], [_entry(step, budget=("budget_s", timedelta.total_seconds)) for step in steps])


def _entry(row: DataclassInstance, **changed: tuple[str, Callable[[Any], object]]) -> dict[str, object]:
    """Return a row as an object. ``changed`` maps a field to its new name and the conversion of its value."""
    entry = {}
    for name, value in asdict(row).items():
        new, turn = changed.get(name, (name, lambda same: same))
        entry[new] = None if value is None else turn(value)
    return entry


def error_entry(error: ZodanError) -> ErrorEntry:
    """Return an error in the form of a document."""
    return {"sqlstate": error.sqlstate, "message": error.message, "detail": error.detail, "hint": error.hint}


def database_entries(results: Iterable[InstallResult]) -> list[DatabaseEntry]:
    """Return the outcomes in databases in the form of a document."""
    return [
        {
            "database": result.database,
            "outcome": result.outcome,
            "version": result.version,
            "note": result.note,
            "error": None if result.error is None else error_entry(result.error),
        }
        for result in results
    ]


def server_entries(status: SandboxStatus) -> list[ServerEntry]:
    """Return the servers of a sandbox in the form of a document."""
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


def stream_entries(streams: Iterable[topology.Stream]) -> list[StreamEntry]:
    """Return a topology in the form of a document."""
    return cast(list[StreamEntry], [asdict(stream) | {"health": stream.health} for stream in streams])


def leftover_entries(leftovers: Iterable[topology.Leftover]) -> list[LeftoverEntry]:
    """Return leftovers in the form of a document."""
    return cast(list[LeftoverEntry], [asdict(leftover) for leftover in leftovers])


def verify_entries(results: Iterable[VerifyResult]) -> list[VerifyTableEntry]:
    """Return the tables of a comparison, each with its rows, in the form of a document."""
    tables: dict[str, dict[str, Any]] = {}
    for each in results:
        if each.row_key is None:
            tables[each.table_name] = {
                "table": each.table_name,
                "result": each.result,
                "compared": each.compared,
                "equal": each.equal,
                "different": each.different,
                "undecided": each.undecided,
                "took_s": each.seconds,
                "why": each.why,
                "rows": [],
            }
        else:
            row = {"key": each.row_key, "result": each.result, "why": each.why, "nodes": each.nodes}
            tables[each.table_name]["rows"].append(row)
    return cast(list[VerifyTableEntry], list(tables.values()))


def kept_entries(kept: Mapping[str, datetime]) -> list[KeptEntry]:
    """Return when tables were compared whose result is from a file, in the form of a document."""
    return [{"table": name, "compared_at": kept[name].isoformat()} for name in sorted(kept)]


def repair_entries(repairs: Iterable[Repair]) -> list[RepairEntry]:
    """Return repairs in the form of a document."""
    return [
        {
            "node": each.node,
            "table": each.table_name,
            "key": each.row_key,
            "action": each.action,
            "outcome": each.outcome,
        }
        for each in repairs
    ]
