"""health-check."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from zodan_sql.cli.documents import check_entries
from zodan_sql.cli.options import Json
from zodan_sql.cli.outlet import table_outlet
from zodan_sql.cli.screen import Screen, reporting
from zodan_sql.client import checks
from zodan_sql.client import install as installer
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.connection import parse_dsn
from zodan_sql.errors import EXIT_CODES, caller_error

_STYLES = {"FAIL": "red", "WARN": "yellow", "INFO": "cyan", "PASS": "green"}


def health_check(
    src_node_name: Annotated[str, typer.Option("--src-node-name", help="A member of the cluster.")],
    src_dsn: Annotated[str, typer.Option("--src-dsn", metavar="DSN", help="The member's connection string.")],
    new_node_name: Annotated[
        str | None, typer.Option("--new-node-name", help="The node that will join or has joined.", show_default=False)
    ] = None,
    new_node_dsn: Annotated[
        str | None,
        typer.Option("--new-node-dsn", metavar="DSN", help="That node's connection string.", show_default=False),
    ] = None,
    check_type: Annotated[
        str, typer.Option("--check-type", metavar="pre|post", help="Check before a node joins, or afterwards.")
    ] = "pre",
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also print the checks that passed.")] = False,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn", metavar="DSN", help="The database to call in; by default the new node's, or else the member's."
        ),
    ] = None,
) -> None:
    """Check a cluster, and a node that will join it or has joined it.

    Changes nothing. Exits with 3 if a check of severity fail does not pass.
    """
    with reporting([src_dsn, new_node_dsn, dsn], "health-check" if as_json else None) as screen:
        if (new_node_name is None) != (new_node_dsn is None):
            raise caller_error("only one of --new-node-name and --new-node-dsn is given", "Give both, or neither.")
        parse_dsn(src_dsn, "--src-dsn")
        arguments = {"check_type": check_type, "src_node_name": src_node_name, "src_dsn": src_dsn}
        if new_node_name is not None and new_node_dsn is not None:
            parse_dsn(new_node_dsn, "--new-node-dsn")
            arguments |= {"new_node_name": new_node_name, "new_node_dsn": new_node_dsn}
        where = dsn or new_node_dsn or src_dsn
        with installer.borrowed(where) as lent:
            results = checks.examine(lent, arguments)
        if new_node_dsn is not None:
            results = checks.with_disk_space(results, src_dsn, new_node_dsn)
        failed, warned = (sum(result.verdict == mark for result in results) for mark in ("FAIL", "WARN"))
        if as_json:
            rows = check_entries(results)
            screen.fill({"check_type": check_type, "checks": rows, "failed": failed, "warned": warned})
        else:
            _print_table(screen, results, verbose)
            screen.line(f"{len(results)} checks: {failed} failed, {warned} warned")
        if failed:
            raise typer.Exit(EXIT_CODES["ZD1"])


def _print_table(screen: Screen, results: list[CheckResult], verbose: bool) -> None:
    shown = [result for result in results if verbose or result.verdict != "PASS"]
    if not shown:
        return
    table = Table(box=None, pad_edge=False)
    for title, ratio in (("", None), ("check", None), ("on", None), ("observed", 1), ("hint", 1)):
        table.add_column(title, ratio=ratio, overflow="fold")
    for result in shown:
        hint = "" if result.verdict == "PASS" else result.hint
        cells = (result.verdict, result.name, result.scope, result.observed, hint)
        table.add_row(*map(screen.redact, cells), style=_STYLES[result.verdict])
    table_outlet().print(table)
