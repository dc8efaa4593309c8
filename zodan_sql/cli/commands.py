"""The commands by their names, and what every one of them ends with."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from zodan_sql.building.render import RenderError
from zodan_sql.cli import (
    clone,
    cluster,
    databases,
    develop,
    health,
    operations,
    replace,
    report,
    sandbox,
    upgrade,
    verify,
)
from zodan_sql.cli.outlet import leave_stdout, replace_unknown
from zodan_sql.cli.screen import EXIT_BUG, EXIT_USAGE, Screen
from zodan_sql.client.install import own_version
from zodan_sql.errors import EXIT_INTERRUPTED


def _app(name: str, text: str) -> typer.Typer:
    # A traceback with its variables would show passwords.
    return typer.Typer(
        name=name, help=text, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )


_ABOUT = "Add a node to a running Spock cluster, or remove one, while the other nodes keep taking writes."
app = _app("zodan-sql", _ABOUT)
app.command("build")(develop.build)
app.command("lint")(develop.lint)
app.command("install")(databases.install)
app.command("uninstall")(databases.uninstall)
app.command("add-node")(operations.add_node)
app.command("clone")(clone.clone)
app.command("remove-node")(operations.remove_node)
app.command("replace-node")(replace.replace_node)
app.command("upgrade")(upgrade.upgrade)
app.command("health-check")(health.health_check)
app.command("plan")(operations.plan)
app.command("resume")(operations.resume)
app.command("rollback")(operations.rollback)
app.command("operations")(operations.operations)
app.command("steps")(operations.steps)
app.command("topology")(cluster.topology)
app.command("rescan")(cluster.rescan)
app.command("verify")(verify.verify)
app.command("report")(report.report)
app.command("demo")(sandbox.demo)
app.add_typer(sandbox.app, name="sandbox")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(own_version())
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
]


def _options(version: Version = False) -> None:
    """Accept the options before the command."""


app.callback(help=_ABOUT)(_options)

#: The commands of zodan-sql under the names in existing runbooks.
_add_app = _app("zodan.py", "Add a node to a running Spock cluster: the same as zodan-sql add-node and health-check.")
_add_app.command("add_node")(operations.add_node)
_add_app.command("health-check")(health.health_check)
_remove_app = _app("zodremove.py", "Remove a node from a running Spock cluster: the same as zodan-sql remove-node.")
_remove_app.command("remove_node")(operations.remove_node)
# With only one command, the parser would not expect the command's name.
_remove_app.callback()(lambda: None)

#: What the parser raises for an invalid command line; typer exports only its subclasses.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``zodan-sql``."""
    _run(app, "zodan-sql", arguments)


def zodan_py(arguments: Sequence[str] | None = None) -> None:
    """Run ``zodan.py``."""
    _run(_add_app, "zodan.py", arguments)


def zodremove_py(arguments: Sequence[str] | None = None) -> None:
    """Run ``zodremove.py``."""
    _run(_remove_app, "zodremove.py", arguments)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Take SIGTERM for a Ctrl-C: the call is cancelled, and the command says what is left."""
    takes = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if takes:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if takes:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(commands: typer.Typer, name: str, arguments: Sequence[str] | None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    replace_unknown()
    try:
        for each in given:
            each.encode()
    except UnicodeEncodeError:
        # Its bytes would pass through neither libpq nor SQL. The message does not quote them: perhaps a password.
        Screen().warn("error: an argument is no text in UTF-8")
        sys.exit(EXIT_USAGE)
    try:
        with _ended_in_order():
            code = commands(args=given or ["--help"], prog_name=name, standalone_mode=False)
    except _UsageError as error:
        # The message quotes the command line: perhaps an unquoted connection string, with its password.
        Screen(given).warn(f"error: {error.format_message()}")  # type: ignore[attr-defined]
        code = EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except RenderError as error:
        typer.echo(f"error: {error}", err=True)
        code = EXIT_BUG
    except OSError as error:
        # Of what typer itself prints: the commands report their own.
        leave_stdout()
        Screen(given).warn(f"error: could not write to stdout: {error.strerror}")
        code = EXIT_USAGE
    except Exception:
        # The code 1 of Python itself would say that something was found.
        Screen(given).bug()
        code = EXIT_BUG
    sys.exit(code if isinstance(code, int) else 0)
