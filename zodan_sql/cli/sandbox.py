"""sandbox up, down, status and dsn, and the demonstration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zodan_sql.cli.documents import server_entries
from zodan_sql.cli.options import Base, Json, PgBin
from zodan_sql.cli.screen import EXIT_FOUND, Screen, reporting

if TYPE_CHECKING:
    from zodan_sql.sandbox import SandboxStatus

# The sandbox needs testgres, which only an extra installs. So each command imports the sandbox itself.

app = typer.Typer(help="Run a local cluster to try things out.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=0, help="Members of a full mesh: n1, n2, ...")] = 3,
    blanks: Annotated[int, typer.Option(min=0, help="More servers, which belong to no cluster yet.")] = 1,
    base: Base = None,
    pg_bin: PgBin = None,
) -> None:
    """Create and start a cluster, or start the existing one."""
    with reporting() as screen:
        from zodan_sql import sandbox

        result = sandbox.up(base, nodes=nodes, blanks=blanks, pg_bin=pg_bin)
        if result.was_there:
            screen.line("the sandbox exists already")
        _show(screen, result.status)


@app.command()
def down(base: Base = None) -> None:
    """Stop the cluster and delete it, with its data."""
    with reporting() as screen:
        from zodan_sql import sandbox

        result = sandbox.down(base)
        screen.line(f"removed {', '.join(result.removed)}" if result.removed else "there is no sandbox")


@app.command()
def status(base: Base = None, as_json: Json = False) -> None:
    """Show the servers and the status of their subscriptions."""
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

    Use it in a command line: --src-dsn "$(zodan-sql sandbox dsn n1)".
    """
    with reporting() as screen:
        from zodan_sql import sandbox

        try:
            found = sandbox.Cluster.load(base or sandbox.default_base())[node]
        except KeyError:
            raise sandbox.SandboxError(
                f'there is no node "{node}" in the sandbox', "Run zodan-sql sandbox status to list the nodes."
            ) from None
        # The user asked for it, and it opens only the sandbox: the one connection string that is not masked.
        screen.raw(found.dsn() + "\n")


def demo(pg_bin: PgBin = None) -> None:
    """Show how a node joins a cluster under load, and leaves it.

    Creates its own sandbox, compares every row on every node, and deletes the sandbox at the end.
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
