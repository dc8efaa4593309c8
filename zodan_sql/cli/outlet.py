"""stdout and stderr: a reader may leave early, and a terminal may lack characters. Neither ends a command."""

from __future__ import annotations

import io
import os
import sys

import typer
from rich.console import Console

from zodan_sql.errors import caller_error

#: Width of a table, in characters, if nobody sees it on a terminal.
_PLAIN_WIDTH = 160


class Outlet(Console):
    """A console of which nobody has to read the end: an operation goes on, and the exit code stays the same."""

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=soft_wrap, stderr=stderr)

    def on_broken_pipe(self) -> None:
        """Write nothing more to a pipe that nobody reads."""
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
        _leave(sys.stdout.fileno())
    except OSError as error:
        raise caller_error(f"could not write to stdout: {error.strerror}", "Redirect it to another file.") from None


def replace_unknown() -> None:
    """Print an escape for each character that the encoding of stdout lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _leave(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
