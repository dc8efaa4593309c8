"""sandbox up, down, status and dsn; and the demonstration on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zodan_sql.cli.documents import server_entries
from zodan_sql.cli.options import Base, Json, PgBin
from zodan_sql.cli.screen import EXIT_FOUND, Screen, reporting

if TYPE_CHECKING:
    from zodan_sql.sandbox import SandboxStatus

# The package behind this stands on testgres, which only an extra brings: it is imported where it is used.

app = typer.Typer(help="A local cluster to try things on.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=0, help="Members, in a full mesh: n1, n2, ...")] = 3,
    blanks: Annotated[int, typer.Option(min=0, help="Servers more, which are nodes of nothing yet.")] = 1,
    base: Base = None,
    pg_bin: PgBin = None,
) -> None:
    """Make and start a cluster, or start the one that is there."""
    with reporting() as screen:
        from zodan_sql import sandbox

        result = sandbox.up(base, nodes=nodes, blanks=blanks, pg_bin=pg_bin)
        if result.was_there:
            screen.line("it was there already")
        _show(screen, result.status)


@app.command()
def down(base: Base = None) -> None:
    """Stop the cluster and remove it, data and all."""
    with reporting() as screen:
        from zodan_sql import sandbox

        result = sandbox.down(base)
        screen.line(f"removed {', '.join(result.removed)}" if result.removed else "there is no sandbox")


@app.command()
def status(base: Base = None, as_json: Json = False) -> None:
    """Show the servers, and what each one's subscriptions do."""
    with reporting(document="sandbox status" if as_json else None) as screen:
        from zodan_sql import sandbox

        found = sandbox.status(base)
        if as_json:
            screen.fill({"base": str(found.base), "engine": found.engine, "running": found.running})
            screen.fill({"servers": server_entries(found)})
        else:
            _show(screen, found)
        if not found.running:
            raise typer.Exit(EXIT_FOUND)


@app.command()
def dsn(node: Annotated[str, typer.Argument(help="A node of the sandbox.")], base: Base = None) -> None:
    """Print a node's connection string, with its password.

    For command lines: --src-dsn "$(zodan-sql sandbox dsn n1)".
    """
    with reporting():
        from zodan_sql import sandbox

        try:
            found = sandbox.Cluster.load(base or sandbox.default_base())[node]
        except KeyError:
            raise sandbox.SandboxError(
                f'there is no node "{node}" in the sandbox', "See zodan-sql sandbox status."
            ) from None
        # Asked for, and good for nothing but the sandbox: the one connection string that is not masked.
        typer.echo(found.dsn())


def demo(pg_bin: PgBin = None) -> None:
    """Show a node join a cluster under load, and leave.

    Makes a sandbox of its own, compares every row on every node, and removes everything again.
    """
    with reporting() as screen:
        from zodan_sql.sandbox import demo as demonstration

        if not demonstration.run(screen, pg_bin):
            raise typer.Exit(EXIT_FOUND)


def _show(screen: Screen, status: SandboxStatus) -> None:
    if not status.exists:
        screen.line("there is no sandbox")
        return
    screen.line(f"engine: {status.engine}")
    for node in status.nodes:
        screen.line(f"{node.name}  {node.role}, {'running' if node.running else 'stopped'}")
        screen.line(f"    {node.psql}")
        for name, state in node.subscriptions.items():
            screen.line(f"    {name} {state}")
