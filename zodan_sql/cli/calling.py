"""Call an operation from the shell: install Zodan first, show progress, and say how to continue if the call stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
import typer

from zodan_sql.cli.documents import (
    check_entries,
    operation_entry,
    plan_entries,
    sample_entries,
    step_entries,
    verify_entries,
)
from zodan_sql.cli.options import check_client
from zodan_sql.cli.screen import Screen
from zodan_sql.client import checks, journal, operation, samples, verify
from zodan_sql.client import install as installer
from zodan_sql.client.connection import describe
from zodan_sql.client.members import read_place
from zodan_sql.client.samples import Watch
from zodan_sql.client.structure import bring_structure
from zodan_sql.errors import EXIT_INTERRUPTED, ZodanError, precondition_error

_REMOVAL = "remove_node"


@dataclass(frozen=True)
class Call:
    """A call: what to call where, and how to find its operation again after an interruption."""

    dsn: str
    procedure: str
    node: str = ""
    number: int | None = None
    schema: str = "spock"

    @property
    def title(self) -> str:
        """The work under way, in words."""
        doing = {
            "add_node": f"adding {self.node}",
            "remove_node": f"removing {self.node}",
            "replace_node": f"replacing a node by {self.node}",
            "mend": "removing leftovers",
        }
        return doing.get(self.procedure, f"{self.procedure} of operation {self.number}")

    def find_number(self) -> int | None:
        """Return the number of the operation; None if the call gives no number and its operation has ended."""
        if self.number is not None:
            return self.number
        return journal.find_unfinished(self.dsn, self.procedure, self.node)

    def find_newest(self) -> journal.Operation | None:
        """Return the operation with the call's number, or else the last of this kind on this node; None if none is."""
        found = [
            each
            for each in journal.operations(self.dsn)
            if each.number == self.number
            or (self.number is None and (each.kind, each.node) == (self.procedure, self.node))
        ]
        return found[-1] if found else None

    def watch(self) -> Watch:
        """Return a reader of the samples that waiting steps take."""
        return Watch(self.dsn, self.number, self.procedure, self.node)

    def read_plan(self) -> Sequence[journal.Step]:
        """Return the steps of the operation; none before it begins and after it has ended."""
        with suppress(ZodanError, psycopg.Error):
            if number := self.find_number():
                return journal.steps(self.dsn, number)
        return []


def begin(
    screen: Screen,
    called: Call,
    arguments: dict[str, object],
    ways: Mapping[str, bool],
    line_a_step: str,
    verbose: bool,
    dry_run: bool,
    no_install: bool,
) -> None:
    """Call an operation. With --dry-run and --json, read the plan that the call would only print."""
    provide(screen, called.dsn, change=not (no_install or dry_run))
    if dry_run and screen.as_json:
        chosen = {name: True for name, on in ways.items() if on}
        screen.fill({"plan": plan_entries(operation.plan(called.dsn, f"plan_{called.procedure}", arguments | chosen))})
        return
    # The server's verbose mode prints a line for each step; ours adds the statements.
    switches = {line_a_step: verbose or not dry_run, **ways, "dry_run": dry_run}
    run(screen, called, arguments, switches, verbose)


def bring_by_client(
    screen: Screen, called: Call, src_dsn: str, new_dsn: str, *, dry_run: bool, roles: bool, no_install: bool
) -> None:
    """Bring the structure with the client's programs, unless the call goes on where an earlier one stopped."""
    check_client(dry_run=dry_run, roles=roles)
    provide(screen, called.dsn, change=not no_install)
    if called.find_number() is None:
        screen.line(bring_structure(src_dsn, new_dsn))


def run(screen: Screen, called: Call, arguments: dict[str, object], switches: dict[str, bool], verbose: bool) -> None:
    """Call the procedure and show progress. With --json, the document gets its journal, however the call ends."""
    if not screen.as_json:
        show_call(screen, called, arguments, switches, verbose)
        return
    before = called.find_newest()
    try:
        show_call(screen, called, arguments, switches, verbose)
    finally:
        with suppress(ZodanError, psycopg.Error):
            _fill(screen, called, before)


def _fill(screen: Screen, called: Call, before: journal.Operation | None) -> None:
    found = called.find_newest()
    # If nothing has changed, this is an earlier operation: the call failed before it began one. One that is interrupted
    # once more looks the same.
    if found is not None and (before is None or found != before or found.state == journal.INTERRUPTED):
        screen.fill(read_journal(called.dsn, found))


def read_journal(dsn: str, found: journal.Operation) -> dict[str, object]:
    """Return the keys of a document with the journal of an operation."""
    return {
        "operation": operation_entry(found),
        "steps": step_entries(journal.steps(dsn, found.number)),
        "checks": check_entries(checks.recorded(dsn, found.number)),
        "samples": sample_entries(samples.read(dsn, found.number)),
        "compared": verify_entries(verify.recorded(dsn, found.number)),
    }


def show_call(
    screen: Screen, called: Call, arguments: dict[str, object], switches: dict[str, bool], verbose: bool
) -> None:
    """Call the procedure and show progress."""
    given = {**arguments, **{name: True for name, on in switches.items() if on}}
    try:
        with screen.working(called.title, called.read_plan, called.watch()):
            operation.call(
                called.dsn, called.procedure, given, screen.message, schema=called.schema, statements=verbose
            )
    except KeyboardInterrupt:
        screen.interrupted()
        _tell_what_is_left(screen, called)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except ZodanError as error:
        if error.sqlstate.startswith("ZD"):
            raise
        # The session died or was cancelled: the server could no longer say how to continue.
        screen.error(error)
        _tell_what_is_left(screen, called)
        raise typer.Exit(error.exit_code) from None


def _tell_what_is_left(screen: Screen, called: Call) -> None:
    try:
        found = called.find_newest()
    except (ZodanError, psycopg.Error):
        screen.warn("what is done stays done: run zodan-sql operations --dsn ..., then zodan-sql resume or rollback")
        return
    if found is None or found.has_ended:
        screen.warn("no operation is unfinished")
        return
    screen.warn(f"operation {found.number} is unfinished; what is done stays done")
    screen.warn(f"  to finish it: zodan-sql resume {found.number} --dsn ...")
    # A removal that has begun can only be finished.
    if found.kind != _REMOVAL:
        screen.warn(f"  to undo it: zodan-sql rollback {found.number} --dsn ...")


def provide(screen: Screen, dsn: str, *, change: bool) -> None:
    """Install this version of Zodan in a database if ``change`` allows that; otherwise fail if Zodan is missing."""
    if not change:
        need(dsn)
    elif installer.installed_version(dsn) != installer.own_version():
        (result,) = installer.install([dsn])
        if result.error is not None:
            raise result.error
        screen.line(f"installed Zodan {result.version} in {result.database}")


def refuse_node(found: str | None, name: str, *, underway: bool) -> None:
    """Raise ZodanError (ZD100) if the connection string of a new node leads to another one, ``found``.

    Unless its replacement is ``underway``, it may lead to no node at all. Nothing is installed there before.
    """
    if found is not None and (found != name or not underway):
        raise precondition_error(
            f'the connection string of the new node "{name}" leads to node "{found}"; nothing was changed',
            "Give the connection string of a database that is no node yet.",
        )


def refuse_member(dsn: str, name: str) -> None:
    """Raise ZodanError (ZD100) if the connection string of a new node leads to a node that has no Zodan.

    It would be installed there. Where it is installed, the call itself says whether it goes on.
    """
    if installer.installed_version(dsn) is None:
        refuse_node(read_place(dsn).node, name, underway=False)


def need(dsn: str) -> None:
    """Raise ZodanError (ZD100) if Zodan is not installed in a database."""
    if installer.installed_version(dsn) is None:
        raise ZodanError(
            f"Zodan is not installed in {describe(dsn)}",
            sqlstate="ZD100",
            hint="Install it with zodan-sql install --dsn ...",
        )
