"""clone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from zodan_sql.cli.calling import Call
from zodan_sql.cli.options import (
    Country,
    DryRun,
    EmptyPgdata,
    Info,
    Json,
    Location,
    MaxRate,
    NewNodeDsn,
    NewNodeName,
    OsUser,
    Pgdata,
    PrepareOnly,
    ProgressMode,
    RestoreCommand,
    Restored,
    ServerBin,
    Settings,
    SrcDsn,
    SrcNodeName,
    StartCommand,
    StopCommand,
    StripOtherNodes,
    TablespaceMapping,
    UndoClone,
    Verbose,
    Verify,
    join_arguments,
)
from zodan_sql.cli.physical import CopyOptions, Ending, make_node
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import reporting


def clone(
    src_node_name: SrcNodeName,
    src_dsn: SrcDsn,
    new_node_name: NewNodeName,
    new_node_dsn: NewNodeDsn,
    pgdata: Annotated[Path, Pgdata],
    pg_bin: ServerBin = None,
    restored: Restored = False,
    prepare_only: PrepareOnly = False,
    tablespace_mapping: TablespaceMapping = None,
    settings: Settings = None,
    restore_command: RestoreCommand = None,
    start_command: StartCommand = None,
    stop_command: StopCommand = None,
    os_user: OsUser = None,
    max_rate: MaxRate = None,
    strip_other_nodes: StripOtherNodes = False,
    empty_pgdata: EmptyPgdata = False,
    rollback: UndoClone = False,
    verify: Verify = False,
    new_node_location: Location = None,
    new_node_country: Country = None,
    new_node_info: Info = None,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Make a physical copy of a member, and have it join as a new node while everybody writes.

    Run it on the new node's machine, as the user that owns the servers or as root. Call it again after an interruption.
    """
    with reporting([src_dsn, new_node_dsn], "clone" if as_json else None, progress) as screen:
        arguments = join_arguments(
            src_node_name, src_dsn, new_node_name, new_node_dsn, new_node_location, new_node_country, new_node_info
        ) | {"copy": "present"}
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
        ending = Ending(
            Call(new_node_dsn, "add_node", new_node_name),
            arguments,
            {"verb": True, "verify": verify},
            {src_node_name: src_dsn, new_node_name: new_node_dsn},
            ["compare the rows of all nodes"] if verify else [],
        )
        make_node(screen, given, ending, src_node_name, max_rate, dry_run=dry_run, verbose=verbose)
