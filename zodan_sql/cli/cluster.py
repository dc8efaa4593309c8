"""topology and rescan: what a whole cluster looks like, seen through one member."""

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
    """How a topology is shown."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    JSON = "json"


_DRAW = {Format.MERMAID: picture.mermaid, Format.DOT: picture.dot, Format.SVG: picture.svg}


def topology(
    dsn: MemberDsn,
    format_: Annotated[
        Format, typer.Option("--format", help="A table, a picture to render, or the rows.")
    ] = Format.TEXT,
    as_json: Json = False,
) -> None:
    """Show who streams to whom in a cluster, with status and lag."""
    as_json = as_json or format_ is Format.JSON
    with reporting([dsn], "topology" if as_json else None) as screen:
        with borrowed(dsn) as where:
            streams = topologies.streams(where, dsn)
        if as_json:
            screen.fill({"nodes": topologies.node_names(streams), "streams": stream_entries(streams)})
        elif format_ is Format.TEXT:
            show_topology(screen, streams)
        else:
            typer.echo(_DRAW[format_](topologies.masked(streams, screen.redact)), nl=False)


def rescan(
    dsn: MemberDsn,
    fix: Annotated[bool, typer.Option("--fix", help="Run the statements that mend what was found.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="With --fix: also drop slots that a subscriber outside the cluster may need.")
    ] = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Look for what was left behind in a cluster: slots, origins, subscriptions and nodes that nobody uses.

    Exit code 1 when something was found and --fix was not given. A slot that does not belong to a stream between
    members may be one that a subscriber outside the cluster still needs: it is shown with a question mark, and mended
    with --all only.
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
    """Print the table of a topology, a line about the whole, and one for each thing that is wrong."""
    for line in picture.matrix(streams, screen.width):
        screen.line(line)
    screen.line()
    wrong = picture.troubles(streams)
    screen.line(picture.summary(streams), style="yellow" if wrong else "green")
    for line in wrong:
        screen.line(f"  {line}", style="yellow")
