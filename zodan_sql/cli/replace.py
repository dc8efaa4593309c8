"""replace-node."""

from __future__ import annotations

from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, begin, bring_by_client
from zodan_sql.cli.options import (
    AcceptDivergence,
    Country,
    DryRun,
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
    ProgressMode,
    Quiet,
    Roles,
    Soak,
    Structure,
    Verbose,
    Way,
    beside_arguments,
    copy_arguments,
    dsn_option,
    join_arguments,
)
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
    verbose: Verbose = False,
    dry_run: DryRun = False,
    dsn: Annotated[str | None, dsn_option("--dsn", "The database to call in; by default the new node's.")] = None,
    no_install: NoInstall = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Replace a member of a running cluster by another server: add the new node, then remove the old one."""
    given = [old_node_dsn, new_node_dsn, src_dsn, dsn]
    with reporting(given, "replace-node" if as_json else None, progress) as screen:
        if (src_node_name is None) != (src_dsn is None):
            raise caller_error("only one of --src-node-name and --src-dsn is given", "Give both, or neither.")
        parse_dsn(old_node_dsn, "--old-node-dsn")
        arguments = join_arguments(
            src_node_name or old_node_name,
            src_dsn or old_node_dsn,
            new_node_name,
            new_node_dsn,
            new_node_location,
            new_node_country,
            new_node_info,
        )
        arguments |= {"old_node_name": old_node_name, "old_node_dsn": old_node_dsn}
        arguments |= copy_arguments(structure, jobs=jobs, max_rate=max_rate, max_lag=max_lag)
        arguments |= beside_arguments(soak, quiet) | ({} if verify else {"verify": False})
        called = Call(dsn or new_node_dsn, "replace_node", new_node_name, schema="zodan")
        if structure is Way.CLIENT:
            source = src_dsn or old_node_dsn
            bring_by_client(screen, called, source, new_node_dsn, dry_run=dry_run, roles=roles, no_install=no_install)
        ways = {"roles": roles} | ({} if dry_run else {"force": force, "accept_divergence": accept_divergence})
        begin(screen, called, arguments, ways, "verb", verbose, dry_run, no_install)
