"""verify."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from zodan_sql.cli import repairs
from zodan_sql.cli.documents import kept_entries, repair_entries, verify_entries
from zodan_sql.cli.options import MOST_JOBS, MOST_ROWS, Json, MemberDsn, ProgressMode, parse_span
from zodan_sql.cli.outlet import Outlet, table_outlet
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.resuming import resuming
from zodan_sql.cli.screen import EXIT_FOUND, Screen, reporting
from zodan_sql.client import verify as comparison
from zodan_sql.client.connection import parse_dsn
from zodan_sql.client.verify import Outcome, VerifyResult, Wish
from zodan_sql.errors import caller_error

#: Exit code of a result that is neither equal nor different.
EXIT_UNDECIDED = 2

_STYLES = {"equal": "green", "different": "red", "undecided": "yellow"}
#: Rows that the text shows of one table.
_SHOWN = 20
#: Seconds between two lines of progress if stderr is no terminal.
_REST_S = 10.0


class Repairing(StrEnum):
    """What --repair does."""

    PLAN = "plan"


def verify(
    dsn: MemberDsn,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME", help="A table to compare; repeat it. Without it, all are compared."),
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option("--nodes", metavar="NAMES", help="The nodes to compare, as n1,n2. Without it, all members."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=MOST_JOBS,
            metavar="N",
            help="How many sessions read side by side on each machine; nodes that share one are read in turn.",
            show_default="half as many as the servers have processors, from 1 to 4",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--most",
            min=1,
            max=MOST_ROWS,
            metavar="N",
            help="Compare a table no further after so many different or undecided rows.",
            show_default="1000",
        ),
    ] = None,
    max_lag: Annotated[
        str | None,
        typer.Option(
            "--max-lag",
            metavar="TIME",
            help="Pause while a peer lags further behind a node, such as 30s.",
            show_default="any lag",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="FILE",
            help="Write the result of each table to this file, and do not compare tables again whose result it has.",
        ),
    ] = None,
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age",
            metavar="TIME",
            help="With --resume: compare a table again whose result is older, such as 7d.",
            show_default="24h",
        ),
    ] = None,
    repair: Annotated[
        Repairing | None,
        typer.Option(
            "--repair", help="plan: write the statements that make the other nodes as the node of --like has the rows."
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="NODE", help="With --repair: the node that has the rows as they should be."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FOLDER", help="With --repair: write a file for each node there, instead of to stdout."
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="With --repair plan: also run these statements, and compare the rows again.")
    ] = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Compare the rows of all nodes, while they are written to, and name each row that is proven different.

    Changes nothing without --apply, and needs nothing installed. Exits with 0 if all rows are equal, 1 if rows are
    different, and 2 if rows are undecided and none is different; with --apply, as they are afterwards.
    """
    with reporting([dsn], "verify" if as_json else None) as screen:
        parse_dsn(dsn, "--dsn")
        wish = _wish(repair, like, output, apply)
        if output is not None:
            repairs.make_folder(output)
        named = [name.strip() for listed in nodes or [] for name in listed.split(",")]
        arguments = {
            "tables": tables or None,
            "nodes": named or None,
            "jobs": jobs,
            "most": most,
            "max_lag": None if max_lag is None else parse_span(max_lag, "--max-lag"),
        }
        # With statements on stdout, all else goes to stderr.
        if wish is not None and output is None and not wish.apply:
            screen.keep_stdout()
        with resuming(screen, resume, max_age) as file:
            shown = _Progress(screen, progress)
            try:
                outcome = comparison.verify(dsn, arguments, screen.message, shown.take, wish, file)
            finally:
                shown.close()
        results = outcome.results
        of_tables = _tables(results)
        counts = _count(of_tables)
        if as_json:
            screen.fill({"tables": verify_entries(results), **counts})
            screen.fill({"kept": kept_entries({} if file is None else file.kept)})
            screen.fill({"repairs": repair_entries(outcome.repairs)})
            screen.fill({"again": None if outcome.again is None else verify_entries(outcome.again)})
        else:
            _print(screen, results)
            _summarize(screen, of_tables)
        if wish is not None and not as_json:
            repairs.show(screen, outcome, wish, output)
        elif wish is not None and output is not None:
            repairs.write(screen, outcome, wish, output)
        if outcome.again is not None:
            if not as_json:
                screen.line("after the repair:")
                _print(screen, outcome.again)
            counts = _count([*_after(of_tables, outcome), *_tables(outcome.again)])
        if counts["different"]:
            raise typer.Exit(EXIT_FOUND)
        if counts["undecided"]:
            raise typer.Exit(EXIT_UNDECIDED)


def _wish(repair: Repairing | None, like: str | None, output: Path | None, apply: bool) -> Wish | None:
    """Return what to do about rows that are different, None for nothing."""
    given = [
        name
        for name, is_on in (("--like", like), ("--output", output), ("--apply", apply))
        if is_on not in (None, False)
    ]
    if repair is None:
        if given:
            raise caller_error(f"{given[0]} needs --repair plan", "Add --repair plan, or leave the option out.")
        return None
    if like is None:
        raise caller_error("--repair needs --like", "Name the node that has the rows as they should be.")
    return Wish(like, apply)


def _tables(results: list[VerifyResult]) -> list[VerifyResult]:
    return [each for each in results if each.row_key is None]


def _count(tables: list[VerifyResult]) -> dict[str, int]:
    return {name: sum(each.result == name for each in tables) for name in _STYLES}


def _after(tables: list[VerifyResult], outcome: Outcome) -> list[VerifyResult]:
    """Return the tables that are not equal after a repair, apart from the rows that were compared again.

    One is different only if a row of it that is different had no statement.
    """
    alone = {each.table_name for each in outcome.repairs if each.statement is None}
    left = [each for each in tables if each.table_name in alone or each.undecided or each.why is not None]
    return [
        replace(each, result="different" if each.table_name in alone else "undecided")
        for each in left
        if each.result != "equal"
    ]


def _summarize(screen: Screen, tables: list[VerifyResult]) -> None:
    total = sum(each.compared or 0 for each in tables)
    counts = ", ".join(f"{count} {name}" for name, count in _count(tables).items())
    screen.line(f"{len(tables)} tables, {total} rows: {counts}")


class _Progress:
    """Shows how far it is, on stderr: a line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, screen: Screen, mode: Mode) -> None:
        self._screen = screen
        self._mode = mode
        self._due = time.monotonic() + _REST_S
        console = Outlet(stderr=True)
        live = mode is Mode.AUTO and console.is_terminal
        self._status = console.status("comparing") if live else None
        if self._status is not None:
            self._status.start()

    def take(self, line: str) -> None:
        if self._status is not None:
            self._status.update(self._screen.redact(line.removeprefix("~ ")))
        elif self._mode is not Mode.NONE and time.monotonic() > self._due:
            self._due = time.monotonic() + _REST_S
            self._screen.warn(line)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()


def _print(screen: Screen, results: list[VerifyResult]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("table", overflow="fold")
    table.add_column("result")
    for title in ("compared", "equal", "different", "undecided", "seconds"):
        table.add_column(title, justify="right")
    table.add_column("why", overflow="fold")
    for each in results:
        if each.row_key is None:
            numbers = [str(number) for number in (each.compared, each.equal, each.different, each.undecided)]
            cells = (each.table_name, each.result, *numbers, f"{each.seconds or 0:.1f}", each.why or "")
            table.add_row(*map(screen.redact, cells), style=_STYLES[each.result])
    table_outlet(stderr=screen.stdout_is_kept).print(table)
    shown: dict[str, int] = {}
    for each in results:
        if each.row_key is None:
            continue
        shown[each.table_name] = shown.get(each.table_name, 0) + 1
        if shown[each.table_name] > _SHOWN:
            continue
        why = f" ({each.why})" if each.why else ""
        screen.line(f"{each.table_name} {_text(each.row_key)}: {each.result}{why}", style=_STYLES[each.result])
        for node, has in (each.nodes or {}).items():
            screen.line(f"    {node}  {_describe(has)}")
    for name, count in shown.items():
        if count > _SHOWN:
            screen.line(f"{name}: {count - _SHOWN} more rows; --json has them all")


def _describe(has: dict[str, object] | None) -> str:
    if has is None:
        return "missing"
    copies = f"{has['rows']} times " if has["rows"] is not None else ""
    came = f", committed {has['committed']}" if has["committed"] else ""
    return f"{copies}{_text(has['row'])}{came}, from {has['origin']}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
