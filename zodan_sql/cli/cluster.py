"""topology and rescan: the state of a whole cluster, seen through one member."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, need, run
from zodan_sql.cli.documents import leftover_entries, stream_entries
from zodan_sql.cli.options import Json, MemberDsn, ProgressMode
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import EXIT_FOUND, Screen, reporting
from zodan_sql.client import topology as topologies
from zodan_sql.client.install import borrowed
from zodan_sql.showing import picture


class Format(StrEnum):
    """How to show a topology."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


_DRAW = {Format.MERMAID: picture.mermaid, Format.DOT: picture.dot, Format.SVG: picture.svg}


def topology(
    dsn: MemberDsn,
    format_: Annotated[
        Format, typer.Option("--format", help="text prints a table, json the rows, and the others a picture.")
    ] = Format.TEXT,
    as_json: Json = False,
) -> None:
    """Show which node streams to which in a cluster, with status and lag."""
    as_json = as_json or format_ is Format.JSON
    with reporting([dsn], "topology" if as_json else None) as screen:
        with borrowed(dsn) as where:
            streams = topologies.streams(where, dsn)
        if as_json:
            screen.fill({"nodes": topologies.node_names(streams), "streams": stream_entries(streams)})
        elif format_ is Format.TEXT:
            show_topology(screen, streams)
        else:
            screen.raw(_DRAW[format_](topologies.masked(streams, screen.redact)))


def rescan(
    dsn: MemberDsn,
    fix: Annotated[bool, typer.Option("--fix", help="Run the statements that remove the leftovers.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="With --fix: also remove leftovers that somebody else may still need.")
    ] = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Find leftovers in a cluster: slots, origins, subscriptions and nodes that nobody uses.

    Exits with 1 if there are leftovers and you do not give --fix. A question mark means that somebody else may still
    need the leftover, such as a slot whose subscriber is outside the cluster; only --fix --all removes it.
    """
    with reporting([dsn], "rescan" if as_json else None, progress) as screen:
        with borrowed(dsn) as where:
            found = topologies.rescan(where, dsn, screen.message)
        screen.fill({"leftovers": leftover_entries(found)})
        for leftover in found:
            mark = "" if leftover.certain else "? "
            screen.line(f"{leftover.node}  {mark}{leftover.kind} {leftover.name}: {leftover.reason}")
            screen.line(f"    {leftover.statement}", style="dim")
        if not found:
            screen.line("nothing is left behind in this cluster")
        elif fix:
            need(dsn)
            run(
                screen,
                Call(dsn, "mend", "cluster", schema="zodan"),
                {"p_dsn": dsn},
                {"p_verbose": True, "p_all": everything},
                verbose=False,
            )
        else:
            raise typer.Exit(EXIT_FOUND)


def show_topology(screen: Screen, streams: list[topologies.Stream]) -> None:
    """Print the table of a topology, a summary, and a line for each problem."""
    for line in picture.matrix(streams, screen.width):
        screen.line(line)
    screen.line()
    wrong = picture.troubles(streams)
    screen.line(picture.summary(streams), style="yellow" if wrong else "green")
    for line in wrong:
        screen.line(f"  {line}", style="yellow")
