"""add-node, remove-node and plan; resume and rollback; operations and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, begin, bring_by_client, need, read_journal, refuse_member, run
from zodan_sql.cli.documents import operation_entry, plan_entries
from zodan_sql.cli.options import (
    AcceptDivergence,
    Copy,
    Country,
    DryRun,
    Force,
    Info,
    Jobs,
    JournalDsn,
    Json,
    Level,
    Location,
    MaxLag,
    MaxRate,
    NewNodeDsn,
    NewNodeName,
    NodeDsns,
    NoInstall,
    Number,
    ProgressMode,
    Roles,
    Rows,
    SrcDsn,
    SrcNodeName,
    Structure,
    SurvivorDsn,
    Verbose,
    Verify,
    Way,
    check_client,
    copy_arguments,
    dsn_option,
    join_arguments,
    parse_node_dsns,
)
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import Screen, reporting
from zodan_sql.client import journal, operation
from zodan_sql.client.connection import describe, parse_dsn
from zodan_sql.client.install import borrowed
from zodan_sql.client.operation import PlannedStep
from zodan_sql.errors import caller_error

TargetNodeName = Annotated[str, typer.Option("--target-node-name", help="The node to remove.")]
TargetDsn = Annotated[str, dsn_option("--target-dsn", "That node's connection string.")]
DiscardWrites = Annotated[
    bool, typer.Option("--discard-writes", help="Roll back even if this deletes rows that users wrote on the new node.")
]


def add_node(
    src_node_name: SrcNodeName,
    src_dsn: SrcDsn,
    new_node_name: NewNodeName,
    new_node_dsn: NewNodeDsn,
    new_node_location: Location = None,
    new_node_country: Country = None,
    new_node_info: Info = None,
    roles: Roles = False,
    jobs: Jobs = None,
    max_rate: MaxRate = None,
    max_lag: MaxLag = None,
    copy: Copy = Rows.ROWS,
    structure: Structure = Way.SPOCK,
    verify: Verify = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    dsn: Annotated[str | None, dsn_option("--dsn", "The database to call in; by default the new node's.")] = None,
    no_install: NoInstall = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Add a node to a running cluster."""
    with reporting([src_dsn, new_node_dsn, dsn], "add-node" if as_json else None, progress) as screen:
        arguments = join_arguments(
            src_node_name, src_dsn, new_node_name, new_node_dsn, new_node_location, new_node_country, new_node_info
        )
        arguments |= copy_arguments(structure, copy=copy, jobs=jobs, max_rate=max_rate, max_lag=max_lag)
        called = Call(dsn or new_node_dsn, "add_node", new_node_name)
        if not dry_run and ((dsn is None and not no_install) or structure is Way.CLIENT):
            refuse_member(new_node_dsn, new_node_name)
        if structure is Way.CLIENT:
            bring_by_client(screen, called, src_dsn, new_node_dsn, dry_run=dry_run, roles=roles, no_install=no_install)
        begin(screen, called, arguments, {"roles": roles, "verify": verify}, "verb", verbose, dry_run, no_install)


def remove_node(
    target_node_name: TargetNodeName,
    target_dsn: TargetDsn,
    verbose: Verbose = False,
    force: Force = False,
    accept_divergence: AcceptDivergence = False,
    level: Level = False,
    survivor_dsn: SurvivorDsn = None,
    dry_run: DryRun = False,
    dsn: Annotated[
        str | None,
        dsn_option("--dsn", "The database to call in; by default the target's, with --force the survivor's."),
    ] = None,
    no_install: NoInstall = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Remove a node from a running cluster."""
    with reporting([target_dsn, survivor_dsn, dsn], "remove-node" if as_json else None, progress) as screen:
        where = _remove_where(dsn, target_dsn, survivor_dsn, force)
        arguments = _remove_arguments(target_node_name, target_dsn, survivor_dsn)
        ways = {"force": force, "accept_divergence": accept_divergence, "level": level}
        called = Call(where, "remove_node", target_node_name)
        begin(screen, called, arguments, ways, "verbose_mode", verbose, dry_run, no_install)


def plan(
    src_node_name: Annotated[str | None, typer.Option(help="To add: the member to copy from.")] = None,
    src_dsn: Annotated[str | None, dsn_option("--src-dsn", "To add: the member's connection string.")] = None,
    new_node_name: Annotated[str | None, typer.Option(help="To add: the new node.")] = None,
    new_node_dsn: Annotated[
        str | None, dsn_option("--new-node-dsn", "To add: the new node's connection string.")
    ] = None,
    new_node_location: Location = None,
    new_node_country: Country = None,
    new_node_info: Info = None,
    roles: Roles = False,
    jobs: Jobs = None,
    max_rate: MaxRate = None,
    max_lag: MaxLag = None,
    copy: Copy = Rows.ROWS,
    structure: Structure = Way.SPOCK,
    verify: Verify = False,
    target_node_name: Annotated[str | None, typer.Option(help="To remove: the node.")] = None,
    target_dsn: Annotated[str | None, dsn_option("--target-dsn", "To remove: the node's connection string.")] = None,
    force: Force = False,
    accept_divergence: AcceptDivergence = False,
    level: Level = False,
    survivor_dsn: SurvivorDsn = None,
    verbose: Verbose = False,
    dsn: Annotated[
        str | None,
        dsn_option("--dsn", "The database to call in; by default the same as for add-node or remove-node."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the steps of add-node or remove-node.

    Takes the options of either, and changes nothing.
    """
    given = [src_dsn, new_node_dsn, target_dsn, survivor_dsn, dsn]
    with reporting(given, "plan" if as_json else None) as screen:
        adds = (src_node_name, src_dsn, new_node_name, new_node_dsn)
        removes = (target_node_name, target_dsn)
        if all(adds) and not any(removes):
            arguments = join_arguments(*adds, new_node_location, new_node_country, new_node_info)  # type: ignore[arg-type]
            where, function = dsn or str(new_node_dsn), "plan_add_node"
            arguments |= copy_arguments(structure, copy=copy, jobs=jobs, max_rate=max_rate, max_lag=max_lag)
            if structure is Way.CLIENT:
                check_client(dry_run=True, roles=roles)
            switches = {"roles": roles, "verify": verify}
        elif all(removes) and not any(adds):
            where, function = _remove_where(dsn, str(target_dsn), survivor_dsn, force), "plan_remove_node"
            arguments = _remove_arguments(str(target_node_name), str(target_dsn), survivor_dsn)
            switches = {"force": force, "accept_divergence": accept_divergence, "level": level}
        else:
            raise caller_error(
                "the options are neither those of add-node nor those of remove-node",
                "Give --src-node-name, --src-dsn, --new-node-name and --new-node-dsn, "
                "or --target-node-name and --target-dsn.",
            )
        arguments |= {name: True for name, on in switches.items() if on}
        with borrowed(where) as lent:
            found = operation.plan(lent, function, arguments)
        if as_json:
            screen.fill({"plan": plan_entries(found)})
        else:
            _show(screen, found, verbose)


def resume(
    number: Number,
    dsn: JournalDsn,
    node_dsn: NodeDsns = None,
    verbose: Verbose = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Finish an interrupted operation. The state of the cluster decides what is left to do."""
    _take_up("resume", number, dsn, node_dsn or [], verbose, progress, as_json)


def rollback(
    number: Number,
    dsn: JournalDsn,
    node_dsn: NodeDsns = None,
    discard_writes: DiscardWrites = False,
    verbose: Verbose = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Undo an interrupted operation, as if you had never called it."""
    ways = {"p_discard_writes": discard_writes}
    _take_up("rollback", number, dsn, node_dsn or [], verbose, progress, as_json, ways)


def operations(dsn: JournalDsn, as_json: Json = False) -> None:
    """List the operations called in a database, and how each ended."""
    with reporting([dsn], "operations" if as_json else None) as screen:
        need(dsn)
        found = journal.operations(dsn)
        if as_json:
            screen.fill({"operations": [operation_entry(each) for each in found]})
            return
        if not found:
            screen.line("no operation was called here")
            return
        screen.table(
            ("number", "kind", "node", "state", "started", "took", "error"),
            [(str(o.number), o.kind, o.node, o.state, o.started, _seconds(o.took_s), o.error or "") for o in found],
        )


def steps(number: Number, dsn: JournalDsn, as_json: Json = False) -> None:
    """List the steps of an operation, and how each ended."""
    with reporting([dsn], "steps" if as_json else None) as screen:
        need(dsn)
        found = journal.steps(dsn, number)
        if not found:
            raise caller_error(
                f"there is no operation {number} in {describe(dsn)}", "Run zodan-sql operations to list them."
            )
        if as_json:
            (whole,) = (each for each in journal.operations(dsn) if each.number == number)
            screen.fill(read_journal(dsn, whole))
            return
        screen.table(
            ("phase", "step", "node", "state", "took", "title", "error or what it waits for"),
            [
                (
                    str(s.phase),
                    str(s.ordinal),
                    s.node,
                    s.state,
                    _seconds(s.took_s),
                    s.title,
                    s.error or s.waiting_for or "",
                )
                for s in found
            ],
        )


def _remove_arguments(name: str, target_dsn: str, survivor_dsn: str | None) -> dict[str, object]:
    parse_dsn(target_dsn, "--target-dsn")
    arguments: dict[str, object] = {"target_node_name": name, "target_node_dsn": target_dsn}
    if survivor_dsn is not None:
        parse_dsn(survivor_dsn, "--survivor-dsn")
        arguments["survivor_dsn"] = survivor_dsn
    return arguments


def _remove_where(dsn: str | None, target_dsn: str, survivor_dsn: str | None, force: bool) -> str:
    """Return the connection string of the database to call in; with force, not the target's, which may be dead."""
    where = dsn or (survivor_dsn if force else target_dsn)
    if where is None:
        raise caller_error(
            "--force removes a node that cannot be reached, so the call must run in another database",
            "Give --survivor-dsn, the connection string of a member that stays, or --dsn.",
        )
    return where


def _take_up(
    procedure: str,
    number: int,
    dsn: str,
    node_dsns: Sequence[str],
    verbose: bool,
    progress: Mode,
    as_json: bool,
    ways: Mapping[str, bool] = MappingProxyType({}),
) -> None:
    """Call zodan.resume or zodan.rollback."""
    hidden = (given.partition("=")[2] for given in node_dsns)
    with reporting([dsn, *hidden], procedure if as_json else None, progress) as screen:
        arguments: dict[str, object] = {"p_operation": number}
        if node_dsns:
            arguments["p_dsns"] = parse_node_dsns(node_dsns)
        need(dsn)
        called = Call(dsn, procedure, number=number, schema="zodan")
        run(screen, called, arguments, {"p_verbose": True, **ways}, verbose)


def _show(screen: Screen, steps: list[PlannedStep], verbose: bool) -> None:
    width = max((len(step.node) for step in steps), default=0)
    for phase, members in groupby(steps, key=lambda step: step.phase):
        screen.line(f"phase {phase}")
        for step in members:
            screen.line(f"  {step.ordinal:>3}  {step.node:<{width}}  {step.title}")
            if verbose:
                _show_statements(screen, step)


def _show_statements(screen: Screen, step: PlannedStep) -> None:
    for label, statement in (
        ("do", step.do_sql),
        ("done when", step.done_sql),
        ("until", step.until_sql and f"{step.until_sql}" + (f"  within {step.budget}" if step.budget else "")),
        ("undo", step.undo_sql),
    ):
        if statement:
            screen.line(f"       {label}: {statement}", style="dim")


def _seconds(took_s: float | None) -> str:
    return "" if took_s is None else f"{took_s:.1f} s"
