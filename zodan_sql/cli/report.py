"""report: a page for the change ticket about an operation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zodan_sql.cli import outlet
from zodan_sql.cli.calling import need
from zodan_sql.cli.options import JournalDsn, Number
from zodan_sql.cli.screen import reporting
from zodan_sql.client import topology
from zodan_sql.client.redaction import Redactor
from zodan_sql.errors import ZodanError, caller_error
from zodan_sql.showing import report as reports


def report(
    number: Number,
    dsn: JournalDsn,
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="The file to write; - for stdout.")],
    through: Annotated[
        str | None,
        typer.Option(
            "--through",
            metavar="DSN",
            help="A member to read the topology through, if --dsn is no longer one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write an HTML page about an operation: arguments, checks, plan, timeline, failures and topology.

    The page also has charts of the copy rate, of the sessions that copied, and of the lag.
    It loads nothing from elsewhere.
    """
    with reporting([dsn, through]) as screen:
        need(dsn)
        record = reports.read(dsn, number)
        streams, why = _look(screen.redact, dsn, through)
        page = reports.draw(record, screen.redact, streams, why)
        if str(html) == "-":
            outlet.write(page)
            return
        try:
            html.write_text(page, encoding="utf-8")
        except OSError as error:
            raise caller_error(f"could not write {html}: {error.strerror}", "Choose another file.") from None
        screen.line(str(html))


def _look(redact: Redactor, dsn: str, through: str | None) -> tuple[list[topology.Stream] | None, str]:
    """Return the topology, or the reason why there is none: people also need a report while nodes are down."""
    try:
        return topology.streams(dsn, through or dsn), ""
    except ZodanError as error:
        return None, redact(error.message)
