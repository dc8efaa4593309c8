"""clone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, provide, run
from zodan_sql.cli.options import (
    Country,
    DryRun,
    Info,
    Json,
    Location,
    MaxRate,
    NewNodeDsn,
    NewNodeName,
    ProgressMode,
    SrcDsn,
    SrcNodeName,
    Verbose,
    Verify,
    join_arguments,
    parse_size,
)
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import Screen, reporting
from zodan_sql.client import journal
from zodan_sql.cloning.clone import Clone, Request
from zodan_sql.errors import ZodanError, caller_error

_HOOK = "ZODAN_CLONE_HOOK"


def clone(
    src_node_name: SrcNodeName,
    src_dsn: SrcDsn,
    new_node_name: NewNodeName,
    new_node_dsn: NewNodeDsn,
    pgdata: Annotated[
        Path, typer.Option("--pgdata", metavar="DIRECTORY", help="The new server's data directory, on this machine.")
    ],
    pg_bin: Annotated[
        Path | None,
        typer.Option("--pg-bin", metavar="DIRECTORY", help="Where the server's programs are.", show_default=False),
    ] = None,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="The copy is in the data directory already, and was never started."),
    ] = False,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Make the slot, say what a copy has to reach, and stop there.")
    ] = False,
    tablespace_mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--tablespace-mapping",
            metavar="OLD=NEW",
            help="Where a tablespace's directory is to be here; repeat the option.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the new server; repeat it.", show_default=False),
    ] = None,
    restore_command: Annotated[
        str | None,
        typer.Option(
            "--restore-command",
            help="With --restored: what fetches WAL from the archive, as PostgreSQL's setting of this name.",
            show_default="what postgresql.auto.conf has",
        ),
    ] = None,
    start_command: Annotated[
        str | None,
        typer.Option("--start-command", help="What starts the new server.", show_default="pg_ctl start"),
    ] = None,
    stop_command: Annotated[
        str | None, typer.Option("--stop-command", help="What stops it in a rollback.", show_default="pg_ctl stop")
    ] = None,
    os_user: Annotated[
        str | None,
        typer.Option(
            "--os-user", help="As root: who owns the server.", show_default="the data directory's owner, or postgres"
        ),
    ] = None,
    max_rate: MaxRate = None,
    strip_other_nodes: Annotated[
        bool,
        typer.Option(
            "--strip-other-nodes", help="Other databases of the server may be nodes; they are none in the copy."
        ),
    ] = False,
    empty_pgdata: Annotated[
        bool,
        typer.Option(
            "--empty-pgdata", help="Delete what an unfinished clone has copied, to copy again or to roll back."
        ),
    ] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Undo an unfinished clone.")] = False,
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
        request = Request(
            source=src_node_name,
            src_dsn=src_dsn,
            new=new_node_name,
            new_dsn=new_node_dsn,
            pgdata=pgdata.absolute(),
            pg_bin=pg_bin,
            os_user=os_user,
            restored=restored,
            empties=empty_pgdata,
            strips_others=strip_other_nodes,
            mapping=_pairs(tablespace_mapping, "--tablespace-mapping"),
            settings=_pairs(settings, "--set"),
            restore_command=restore_command,
            start_command=start_command,
            stop_command=stop_command,
            max_rate=None if max_rate is None else parse_size(max_rate, "--max-rate"),
        )
        cloned = Clone(request, screen.line, _hold)
        if dry_run:
            steps = cloned.check()
            screen.fill({"clone_steps": steps})
            for text in steps:
                screen.line(text)
            return
        with cloned.locked():
            if rollback:
                _roll_back(
                    screen, cloned, {src_node_name: src_dsn, new_node_name: new_node_dsn}, new_node_name, verbose
                )
            elif prepare_only:
                record = cloned.prepare()
                screen.fill({"slot": record.slot, "slot_lsn": record.slot_lsn})
                screen.line(
                    f"make a copy of {record.source} from now on, or restore one to {record.slot_lsn} or later;"
                )
                screen.line("do not start it, and call again with --restored")
            else:
                record = cloned.run()
                screen.fill({"slot": record.slot, "slot_lsn": record.slot_lsn, "copy_lsn": record.lsn})
                screen.fill({"took_s": record.took})
                provide(screen, new_node_dsn, change=True)
                called = Call(new_node_dsn, "add_node", new_node_name)
                found = called.find_newest()
                if found is None or found.state != "done":
                    run(screen, called, arguments, {"verb": True, "verify": verify}, verbose)
                _hold("join")
                cloned.finish()


def _roll_back(screen: Screen, cloned: Clone, dsns: dict[str, str], new: str, verbose: bool) -> None:
    """Undo the join, if it began, then the clone. Raises ZodanError (ZD007) if the join is done."""
    found = cloned.find_join(lambda: journal.find_newest(dsns[new], "add_node", new))
    if found is not None and found.state == "done":
        raise ZodanError(
            f"{new} has joined",
            sqlstate="ZD007",
            hint="Call again without --rollback to end the clone; then remove the node: zodan-sql remove-node.",
        )
    if found is not None and not found.has_ended:
        called = Call(dsns[new], "rollback", new, found.number, "zodan")
        run(screen, called, {"p_operation": found.number, "p_dsns": dsns}, {}, verbose)
    cloned.roll_back(had_joined=found is not None)


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for each in given or []:
        name, between, value = each.partition("=")
        if not name or not between:
            raise caller_error(f'{option} is "{each}"', "Write it as NAME=VALUE.")
        found[name] = value
    return found


def _hold(step: str) -> None:
    """End here if a test asks for that, as if the process had been killed."""
    if os.environ.get(_HOOK) == step:
        os._exit(9)
