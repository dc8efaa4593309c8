"""verify."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zodan_sql.cli.documents import verify_entries
from zodan_sql.cli.options import Json, MemberDsn, ProgressMode, parse_span
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import EXIT_FOUND, Screen, reporting
from zodan_sql.client import verify as comparison
from zodan_sql.client.connection import parse_dsn
from zodan_sql.client.verify import VerifyResult

#: Exit code of a result that is neither equal nor different.
EXIT_UNDECIDED = 2

_STYLES = {"equal": "green", "different": "red", "undecided": "yellow"}
#: Width of the table, in characters, if stdout is no terminal.
_PLAIN_WIDTH = 160
#: Rows that the text shows of one table.
_SHOWN = 20
#: Seconds between two lines of progress if stderr is no terminal.
_REST_S = 10.0


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
            metavar="N",
            help="How many sessions read side by side on each node.",
            show_default="as many as the servers have processors, from 2 to 8",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "--most",
            min=1,
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
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Compare the rows of all nodes, while they are written to, and name each row that is proven different.

    Changes nothing, and needs nothing installed. Exits with 0 if all rows are equal, 1 if rows are different, and 2 if
    rows are undecided and none is different.
    """
    with reporting([dsn], "verify" if as_json else None) as screen:
        parse_dsn(dsn, "--dsn")
        named = [name.strip() for listed in nodes or [] for name in listed.split(",")]
        arguments = {
            "tables": tables or None,
            "nodes": named or None,
            "jobs": jobs,
            "most": most,
            "max_lag": None if max_lag is None else parse_span(max_lag, "--max-lag"),
        }
        shown = _Progress(screen, progress)
        try:
            results = comparison.verify(dsn, arguments, screen.message, shown.take)
        finally:
            shown.close()
        of_tables = [each for each in results if each.row_key is None]
        counts = {name: sum(each.result == name for each in of_tables) for name in _STYLES}
        if as_json:
            screen.fill({"tables": verify_entries(results), **counts})
        else:
            _print(screen, results)
            total = sum(each.compared or 0 for each in of_tables)
            screen.line(
                f"{len(of_tables)} tables, {total} rows: "
                + ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        if counts["different"]:
            raise typer.Exit(EXIT_FOUND)
        if counts["undecided"]:
            raise typer.Exit(EXIT_UNDECIDED)


class _Progress:
    """Shows how far it is, on stderr: a line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self, screen: Screen, mode: Mode) -> None:
        self._screen = screen
        self._mode = mode
        self._due = time.monotonic() + _REST_S
        console = Console(stderr=True, highlight=False, markup=False)
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
    console = Console(highlight=False, markup=False)
    console.print(table, width=console.width if console.is_terminal else _PLAIN_WIDTH)
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
