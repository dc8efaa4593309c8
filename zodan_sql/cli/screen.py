"""What the commands print. Every text passes through the redactor; errors go to stderr and set the exit code.

With --json, stdout gets one document and nothing else: texts for people go to stderr.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import psycopg
import typer

from zodan_sql.building.lint.findings import LintUnavailable
from zodan_sql.building.render import RenderError
from zodan_sql.cli import outlet
from zodan_sql.cli.documents import ErrorEntry, WarningEntry, error_entry
from zodan_sql.cli.progress import Mode, PhaseProgress, PlainProgress, ReadPlan, is_step, watching
from zodan_sql.client.redaction import Redactor
from zodan_sql.client.samples import Watch
from zodan_sql.errors import CANCELLED, EXIT_CODES, EXIT_INTERRUPTED, ZodanError, from_database, precondition_error

EXIT_FOUND = 1
EXIT_USAGE = EXIT_CODES["ZD0"]
EXIT_BUG = EXIT_CODES["ZD9"]

_PROGRESS = ("NOTICE", "INFO", "LOG")


class Screen:
    """Where a command prints. On a terminal, rich adds colours and live progress."""

    def __init__(self, dsns: Iterable[str | None] = (), document: str | None = None, mode: Mode = Mode.AUTO) -> None:
        """``document`` is the command's name if it prints a JSON document on stdout, None if it prints text."""
        self._mode = mode
        self.redact = Redactor(dsns)
        self.as_json = document is not None
        self._out = outlet.Outlet(soft_wrap=True, stderr=self.as_json)
        self._err = outlet.Outlet(soft_wrap=True, stderr=True)
        self._progress: PhaseProgress | None = None
        self._command = document
        self._filled: dict[str, object] = {}
        self._error: ErrorEntry | None = None
        self._warnings: list[WarningEntry] = []

    @property
    def width(self) -> int:
        """The number of characters in a line of stdout."""
        return self._out.width

    def fill(self, document: Mapping[str, object]) -> None:
        """Add the command's own keys to the JSON document; zodan_sql.cli.documents has their types."""
        self._filled |= document

    def close(self) -> None:
        """Print the JSON document, if the command has one. Raises ZodanError (ZD001) if stdout lacks anything."""
        if self._command is None:
            # What the command itself failed with says more.
            if self._error is None:
                outlet.check_stdout()
            return
        whole = {"command": self._command, "error": self._error, "warnings": self._warnings, **self._filled}
        outlet.write(json.dumps(self._redacted(whole), indent=2, ensure_ascii=False) + "\n")

    def _redacted(self, value: object) -> object:
        """Mask text by text: in a whole document, masking would also remove the quotes that end strings."""
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, Mapping):
            return {name: self._redacted(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        return value

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print columns as wide as their contents; the last column is not padded."""
        widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
        for row in (head, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            self.line("  ".join([*cells, row[-1]]).rstrip())

    def keep_stdout(self) -> None:
        """Print on stderr what is for people, because stdout gets something for a program."""
        self._out = self._err

    @property
    def stdout_is_kept(self) -> bool:
        """Whether what is for people goes to stderr."""
        return self.as_json or self._out is self._err

    def raw(self, text: str) -> None:
        """Print on stdout as it is, without masking: a statement with another value would write another value."""
        outlet.write(text)

    def bug(self) -> None:
        """Print where the exception that is being handled came from, on stderr."""
        self.warn(f"this is a bug in Zodan, please report it:\n{traceback.format_exc()}")

    def line(self, text: str = "", style: str | None = None) -> None:
        """Print a line on stdout."""
        self._out.print(self.redact(text), style=style)

    def warn(self, text: str, style: str | None = None) -> None:
        """Print a line on stderr."""
        with self._progress.hidden() if self._progress is not None else nullcontext():
            self._err.print(self.redact(text), style=style)

    def error(self, error: ZodanError) -> None:
        """Print message, DETAIL and HINT on stderr; the document gets the first error of a command."""
        self.note(error)
        self.warn(f"error {error.sqlstate}: {error.message}", style="red")
        if error.detail:
            self.warn(f"  detail: {error.detail}")
        if error.hint:
            self.warn(f"  hint: {error.hint}")

    def note(self, error: ZodanError) -> None:
        """Put an error into the JSON document, unless it has one, and print nothing."""
        self._error = self._error or error_entry(error)

    def message(self, severity: str, text: str, hint: str = "") -> None:
        """Print a message of a server: progress on stdout, a line for each step or phase; warnings on stderr."""
        if severity in _PROGRESS:
            if self._mode is Mode.NONE and is_step(text):
                return
            if self._progress is None or not self._progress.take(self.redact(text)):
                self.line(text)
        elif severity.startswith("DEBUG"):
            self.line(text, style="dim")
        else:
            self._warnings.append({"message": text, "hint": hint})
            self.warn(f"{severity.lower()}: {text}", style="yellow")
            if hint:
                self.warn(f"  hint: {hint}")

    def interrupted(self) -> None:
        """Report that the user, or a signal, interrupted the command."""
        self.note(ZodanError("interrupted", sqlstate=CANCELLED))
        self.warn("interrupted", style="yellow")

    @contextmanager
    def working(self, text: str, read_plan: ReadPlan, watch: Watch | None = None) -> Iterator[None]:
        """Show the progress of an operation: read its plan once it has begun, and the samples of ``watch`` repeatedly.

        On a terminal the display is live, unless --progress says otherwise.
        """
        if self._mode is not Mode.AUTO or not self._out.is_terminal:
            plain = PlainProgress(self.line)
            with watching(watch, plain.measured) if watch and self._mode is not Mode.NONE else nullcontext():
                yield
            return
        progress = PhaseProgress(self._out, self.redact(text), read_plan)
        with progress.shown(), watching(watch, progress.measured) if watch else nullcontext():
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None


@contextmanager
def reporting(dsns: Iterable[str | None] = (), document: str | None = None, mode: Mode = Mode.AUTO) -> Iterator[Screen]:
    """Yield a screen that masks the passwords of ``dsns``, and turn exceptions into messages and exit codes.

    With ``document``, the command's name, print a JSON document at the end, whether the command succeeds or fails.
    """
    screen = Screen(dsns, document, mode)
    try:
        with _told(screen):
            yield screen
    finally:
        with _told(screen):
            screen.close()


@contextmanager
def _told(screen: Screen) -> Iterator[None]:
    try:
        yield
    except ZodanError as error:
        screen.error(error)
        raise typer.Exit(error.exit_code) from None
    except psycopg.Error as error:
        known = from_database(error)
        screen.error(known)
        raise typer.Exit(known.exit_code) from None
    except LintUnavailable as error:
        screen.warn(f"error: {error}", style="red")
        raise typer.Exit(EXIT_USAGE) from None
    except KeyboardInterrupt:
        screen.interrupted()
        raise typer.Exit(EXIT_INTERRUPTED) from None
    # Redaction needs the templates. If nobody can read them, main reports this without a screen.
    except (typer.Exit, typer.Abort, RenderError):
        raise
    except Exception as error:
        # This may be the sandbox's own error, whose module cannot be imported if testgres is missing.
        hint = getattr(error, "hint", None)
        if isinstance(hint, str):
            screen.error(precondition_error(str(error.args[0]), hint))
            raise typer.Exit(EXIT_CODES["ZD1"]) from None
        screen.note(ZodanError(f"{type(error).__name__}: {error}", sqlstate="ZD900", hint="Report this as a bug."))
        screen.bug()
        raise typer.Exit(EXIT_BUG) from None
