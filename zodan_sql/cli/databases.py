"""install and uninstall."""

from __future__ import annotations

from typing import Annotated

import typer

from zodan_sql.cli.documents import database_entries
from zodan_sql.cli.options import Dsns, Json
from zodan_sql.cli.screen import Screen, reporting
from zodan_sql.client import install as installer
from zodan_sql.client.install import InstallResult


def install(
    dsn: Dsns,
    create_dblink: Annotated[
        bool, typer.Option("--create-dblink/--no-create-dblink", help="Create the extension dblink if it is missing.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Install Zodan into databases, or upgrade it.

    Each database has its own transaction: a failure in one does not stop the others.
    """
    with reporting(dsn, "install" if as_json else None) as screen:
        _report(screen, installer.install(dsn, create_dblink=create_dblink))


def uninstall(
    dsn: Dsns,
    force: Annotated[bool, typer.Option("--force", help="Uninstall even while an operation is under way.")] = False,
    as_json: Json = False,
) -> None:
    """Uninstall Zodan from databases; dblink stays."""
    with reporting(dsn, "uninstall" if as_json else None) as screen:
        _report(screen, installer.uninstall(dsn, force=force))


def _report(screen: Screen, results: list[InstallResult]) -> None:
    """Print a line for each database, and exit with the code of the first failure."""
    screen.fill({"databases": database_entries(results)})
    for result in results:
        if result.error is not None:
            screen.warn(f"{result.database}: failed")
            screen.error(result.error)
        else:
            facts = ", ".join(fact for fact in (result.version and f"version {result.version}", result.note) if fact)
            screen.line(f"{result.database}: {result.outcome}" + (f" ({facts})" if facts else ""))
    failures = [result.error.exit_code for result in results if result.error is not None]
    if failures:
        raise typer.Exit(failures[0])
