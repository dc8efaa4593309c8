"""The command line: it parses, calls the layers below, and prints (design, sections 1 and 2)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from zodan_sql.cli import cluster, databases, develop, health, operations, report, sandbox
from zodan_sql.cli.screen import EXIT_USAGE, Screen

app = typer.Typer(
    name="zodan-sql",
    help="Adds a node to a running Spock cluster, or removes one, while the others keep taking writes.",
    add_completion=False,
    rich_markup_mode=None,
    # A traceback with its variables would show passwords.
    pretty_exceptions_enable=False,
)
app.command("build")(develop.build)
app.command("lint")(develop.lint)
app.command("install")(databases.install)
app.command("uninstall")(databases.uninstall)
app.command("add-node")(operations.add_node)
app.command("remove-node")(operations.remove_node)
app.command("health-check")(health.health_check)
app.command("plan")(operations.plan)
app.command("resume")(operations.resume)
app.command("rollback")(operations.rollback)
app.command("operations")(operations.operations)
app.command("steps")(operations.steps)
app.command("topology")(cluster.topology)
app.command("rescan")(cluster.rescan)
app.command("report")(report.report)
app.command("demo")(sandbox.demo)
app.add_typer(sandbox.app, name="sandbox")

#: What the parser raises for a command line that it does not understand; typer exports only its descendants.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, that of the process by default, and exit with its code.

    Exit codes: 0 done, 1 build or lint found something, 2 caller's mistake, 3 precondition, 4 remote step failed,
    5 a wait ran out, 6 finished incomplete, 7 database error, 70 bug, 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=given or ["--help"], prog_name="zodan-sql", standalone_mode=False)
    except _UsageError as error:
        # What is wrong with a command line is quoted from it: an unquoted connection string, with its password.
        Screen(given).warn(f"error: {error.format_message()}")  # type: ignore[attr-defined]
        code = EXIT_USAGE
    sys.exit(code if isinstance(code, int) else 0)
