"""The command line: it parses, calls the layers below, and prints."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import ModuleType


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of the process, and exit with its code.

    Exit codes: 0 done, 1 build or lint found something, 2 caller's mistake, 3 precondition, 4 remote step failed,
    5 a wait ran out, 6 finished incomplete, 7 database error, 70 bug, 130 interrupted.
    """
    _load().main(arguments)


def zodan_py(arguments: Sequence[str] | None = None) -> None:
    """Run ``zodan.py add_node`` or ``zodan.py health-check``; exit codes as of main."""
    _load().zodan_py(arguments)


def zodremove_py(arguments: Sequence[str] | None = None) -> None:
    """Run ``zodremove.py remove_node``; exit codes as of main."""
    _load().zodremove_py(arguments)


def _load() -> ModuleType:
    """Import the commands, which may take a second. Meanwhile, Ctrl-C ends the process as it ends any other program."""
    before = signal.getsignal(signal.SIGINT)
    # A shell's background process ignores Ctrl-C, and goes on doing so.
    catches = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if catches:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from zodan_sql.cli import commands

    if catches:
        signal.signal(signal.SIGINT, before)
    return commands
