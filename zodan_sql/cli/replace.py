"""replace-node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, begin, bring_by_client, refuse_member
from zodan_sql.cli.options import (
    AcceptDivergence,
    Copy,
    Country,
    DryRun,
    EmptyPgdata,
    Info,
    Jobs,
    Json,
    Location,
    MaxLag,
    MaxRate,
    NewNodeDsn,
    NewNodeName,
    NoInstall,
    OldNodeDsn,
    OldNodeName,
    OsUser,
    Pgdata,
    PrepareOnly,
    ProgressMode,
    Quiet,
    RestoreCommand,
    Restored,
    Roles,
    Rows,
    ServerBin,
    Settings,
    Soak,
    StartCommand,
    StopCommand,
    StripOtherNodes,
    Structure,
    TablespaceMapping,
    UndoClone,
    Verbose,
    Way,
    beside_arguments,
    copy_arguments,
    dsn_option,
    join_arguments,
    parse_duration,
    parse_span,
)
from zodan_sql.cli.physical import CopyOptions, Ending, make_node
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import reporting
from zodan_sql.client.connection import parse_dsn
from zodan_sql.errors import caller_error


def replace_node(
    old_node_name: OldNodeName,
    old_node_dsn: OldNodeDsn,
    new_node_name: NewNodeName,
    new_node_dsn: NewNodeDsn,
    src_node_name: Annotated[
        str | None, typer.Option("--src-node-name", help="The member to copy from.", show_default="the old node")
    ] = None,
    src_dsn: Annotated[str | None, dsn_option("--src-dsn", "That member's connection string.")] = None,
    new_node_location: Location = None,
    new_node_country: Country = None,
    new_node_info: Info = None,
    roles: Roles = False,
    jobs: Jobs = None,
    max_rate: MaxRate = None,
    max_lag: MaxLag = None,
    copy: Copy = Rows.ROWS,
    structure: Structure = Way.SPOCK,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the rows of all nodes before the old one goes.")
    ] = True,
    soak: Soak = None,
    quiet: Quiet = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Once the new node has joined: go on although the old one cannot be reached."),
    ] = False,
    accept_divergence: AcceptDivergence = False,
    clone: Annotated[
        bool,
        typer.Option("--clone", help="Make the new node from a physical copy, on this machine; give --pgdata too."),
    ] = False,
    pgdata: Annotated[Path | None, Pgdata] = None,
    pg_bin: ServerBin = None,
    restored: Restored = False,
    prepare_only: PrepareOnly = False,
    tablespace_mapping: TablespaceMapping = None,
    settings: Settings = None,
    restore_command: RestoreCommand = None,
    start_command: StartCommand = None,
    stop_command: StopCommand = None,
    os_user: OsUser = None,
    strip_other_nodes: StripOtherNodes = False,
    empty_pgdata: EmptyPgdata = False,
    rollback: UndoClone = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    dsn: Annotated[str | None, dsn_option("--dsn", "The database to call in; by default the new node's.")] = None,
    no_install: NoInstall = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Replace a member of a running cluster by another server: add the new node, then remove the old one.

    With --clone, run it on the new node's machine, as the user that owns the servers or as root.
    """
    dsns = [old_node_dsn, new_node_dsn, src_dsn, dsn]
    with reporting(dsns, "replace-node" if as_json else None, progress) as screen:
        if (src_node_name is None) != (src_dsn is None):
            raise caller_error("only one of --src-node-name and --src-dsn is given", "Give both, or neither.")
        parse_dsn(old_node_dsn, "--old-node-dsn")
        source, source_dsn = src_node_name or old_node_name, src_dsn or old_node_dsn
        arguments = join_arguments(
            source,
            source_dsn,
            new_node_name,
            new_node_dsn,
            new_node_location,
            new_node_country,
            new_node_info,
        )
        arguments |= {"old_node_name": old_node_name, "old_node_dsn": old_node_dsn}
        arguments |= beside_arguments(soak, quiet) | ({} if verify else {"verify": False})
        called = Call(dsn or new_node_dsn, "replace_node", new_node_name, schema="zodan")
        late = {"force": force, "accept_divergence": accept_divergence}
        given = CopyOptions(
            pgdata,
            pg_bin,
            restored,
            prepare_only,
            tablespace_mapping,
            settings,
            restore_command,
            start_command,
            stop_command,
            os_user,
            strip_other_nodes,
            empty_pgdata,
            rollback,
        )
        if clone:
            of_rows = {"--jobs": jobs, "--max-lag": max_lag, "--with-roles": roles, "--dsn": dsn}
            of_rows |= {
                "--structure": structure is not Way.SPOCK,
                "--copy": copy is not Rows.ROWS,
                "--no-install": no_install,
            }
            _refuse(of_rows)
            ending = Ending(
                called,
                arguments | {"copy": "present"},
                {"verb": True, **late},
                {source: source_dsn, old_node_name: old_node_dsn, new_node_name: new_node_dsn},
                _list_rest(old_node_name, verify, soak, quiet),
                old_node_name,
            )
            make_node(screen, given, ending, source, max_rate, dry_run=dry_run, verbose=verbose)
            return
        if options := given.named():
            raise caller_error(f"{', '.join(options)}: for a physical copy only", "Give --clone too, or leave it out.")
        arguments |= copy_arguments(structure, copy=copy, jobs=jobs, max_rate=max_rate, max_lag=max_lag)
        if not dry_run and ((dsn is None and not no_install) or structure is Way.CLIENT):
            refuse_member(new_node_dsn, new_node_name)
        if structure is Way.CLIENT:
            bring_by_client(
                screen, called, source_dsn, new_node_dsn, dry_run=dry_run, roles=roles, no_install=no_install
            )
        ways = {"roles": roles} | ({} if dry_run else late)
        begin(screen, called, arguments, ways, "verb", verbose, dry_run, no_install)


def _refuse(options: Mapping[str, object]) -> None:
    """Raise ZodanError (ZD001) if an option is given that does not go with a physical copy."""
    if given := [name for name, value in options.items() if value]:
        raise caller_error(
            f"{', '.join(given)}: not with --clone",
            "Leave it out. A physical copy has the source's structure, rows and roles; Zodan runs in the new node.",
        )


def _list_rest(old: str, verify: bool, soak: str | None, quiet: str | None) -> list[str]:
    """Return what follows the join, a line each."""
    lines = ["compare the rows of all nodes"] if verify else []
    if soak is not None:
        lines.append(f"watch the streams of the new node for {parse_span(soak, '--soak')}")
    if quiet is None or parse_duration(quiet, "--quiet"):
        lines.append(f"wait until users no longer write on {old}")
    return [*lines, f"remove {old}"]
