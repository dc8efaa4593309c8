"""stdout and stderr: a reader may leave early, and a terminal may lack characters. Neither ends a command."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer
from rich.console import Console

from zodan_sql.errors import ZodanError, caller_error

#: Width of a table, in characters, if nobody sees it on a terminal.
_PLAIN_WIDTH = 160

#: Why text for stdout could not be written, the first time.
_lost: list[str] = []


class Outlet(Console):
    """A console of which nobody has to read the end: an operation goes on, and the exit code stays the same."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=soft_wrap, stderr=stderr)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401
        """Print as any console does. Where nothing can be written the command goes on: see check_stdout."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            if not self.stderr:
                _lost.append(error.strerror or str(error))
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Write nothing more to where nothing can be written."""
        self.quiet = True
        _leave(self.file.fileno())


def table_outlet(*, stderr: bool = False) -> Outlet:
    """Return where tables are printed: as wide as the terminal, elsewhere wide enough for most."""
    outlet = Outlet(stderr=stderr)
    if not outlet.is_terminal:
        outlet.width = _PLAIN_WIDTH
    return outlet


def write(text: str) -> None:
    """Write something for a program on stdout, in UTF-8. Raises ZodanError (ZD001) if it cannot be written."""
    try:
        typer.echo(text.encode("utf-8", "backslashreplace"), nl=False)
    except BrokenPipeError:
        leave_stdout()
    except OSError as error:
        raise _unwritten(str(error.strerror)) from None


def check_stdout() -> None:
    """Raise ZodanError (ZD001) if text for people could not be written to stdout."""
    if _lost:
        raise _unwritten(_lost[0])


def replace_unknown() -> None:
    """Print an escape for each character that the encoding of stdout lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_stdout() -> None:
    """Write nothing more to stdout, nor what waits to be written."""
    _leave(sys.stdout.fileno())


def _unwritten(why: str) -> ZodanError:
    return caller_error(f"could not write to stdout: {why}", "Redirect it to another file.")


def _leave(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
