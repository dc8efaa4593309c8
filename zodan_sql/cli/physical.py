"""What clone and replace-node --clone share: a physical copy, and the operation that makes a node of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from zodan_sql.cli.calling import Call, provide, run
from zodan_sql.cli.options import parse_size
from zodan_sql.cli.screen import Screen
from zodan_sql.client import journal
from zodan_sql.cloning.clone import Clone, Request
from zodan_sql.errors import ZodanError, caller_error

_HOOK = "ZODAN_CLONE_HOOK"
_KINDS = ("add_node", "replace_node")
#: What pg_basebackup takes, in bytes a second.
_SLOWEST, _FASTEST = 32 * 1024, 1024**3


@dataclass(frozen=True)
class CopyOptions:
    """The options of a physical copy, as they were given."""

    pgdata: Path | None
    pg_bin: Path | None
    restored: bool
    prepare_only: bool
    tablespace_mapping: list[str] | None
    settings: list[str] | None
    restore_command: str | None
    start_command: str | None
    stop_command: str | None
    os_user: str | None
    strip_other_nodes: bool
    empty_pgdata: bool
    rollback: bool

    def named(self) -> list[str]:
        """Return those that were given, as they are spelled on the command line."""
        names = [each.name for each in fields(self) if getattr(self, each.name)]
        return ["--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in names]


@dataclass(frozen=True)
class Ending:
    """The operation that makes a node of the copy."""

    called: Call
    arguments: Mapping[str, object]
    switches: Mapping[str, bool]
    #: Connection strings by node.
    dsns: dict[str, str]
    #: What it does after the join, a line each.
    follows: Sequence[str]
    #: The member that the new node replaces; empty if it joins beside all of them.
    old: str = ""

    @property
    def new(self) -> str:
        """The new node."""
        return self.called.node

    def find(self) -> journal.Operation | None:
        """Return the operation that has made a node of the copy, or tries to: that of this call, or one by hand."""
        return journal.find_newest(self.called.dsn, _KINDS, self.new)


def make_node(
    screen: Screen,
    given: CopyOptions,
    ending: Ending,
    source: str,
    max_rate: str | None,
    *,
    dry_run: bool,
    verbose: bool,
) -> None:
    """Make a copy of ``source`` and a node of it, or do of that what the options say. Raises ZodanError."""
    if given.rollback and (dry_run or given.prepare_only):
        raise caller_error(
            "--rollback goes with neither --dry-run nor --prepare-only", "Leave out --rollback, or the other one."
        )
    cloned = Clone(_request(given, ending, source, max_rate), screen.line, _hold)
    if dry_run:
        steps = [*cloned.check(), *ending.follows]
        screen.fill({"clone_steps": steps})
        for text in steps:
            screen.line(text)
        return
    with cloned.locked():
        if given.rollback:
            _roll_back(screen, cloned, ending, verbose)
        elif given.prepare_only:
            record = cloned.prepare()
            screen.fill({"slot": record.slot, "slot_lsn": record.slot_lsn})
            screen.line(f"make a copy of {record.source} from now on, or restore one to {record.slot_lsn} or later;")
            screen.line("do not start it, and call again with --restored")
        else:
            record = cloned.run()
            screen.fill({"slot": record.slot, "slot_lsn": record.slot_lsn, "copy_lsn": record.lsn})
            screen.fill({"took_s": record.took})
            _join(screen, cloned, ending, verbose)


def _request(given: CopyOptions, ending: Ending, source: str, max_rate: str | None) -> Request:
    if given.pgdata is None:
        raise caller_error("--pgdata is missing", "Give the data directory that the new server has on this machine.")
    return Request(
        source=source,
        src_dsn=ending.dsns[source],
        new=ending.new,
        new_dsn=ending.dsns[ending.new],
        pgdata=given.pgdata.absolute(),
        replaces=ending.old,
        replaces_dsn=ending.dsns.get(ending.old, ""),
        pg_bin=given.pg_bin,
        os_user=given.os_user,
        restored=given.restored,
        empties=given.empty_pgdata,
        strips_others=given.strip_other_nodes,
        mapping=_pairs(given.tablespace_mapping, "--tablespace-mapping"),
        settings=_pairs(given.settings, "--set"),
        restore_command=given.restore_command,
        start_command=given.start_command,
        stop_command=given.stop_command,
        max_rate=None if max_rate is None else _rate(max_rate),
    )


def _join(screen: Screen, cloned: Clone, ending: Ending, verbose: bool) -> None:
    """Run the operation that makes a node of the copy, or go on with it; nothing if it is done."""
    provide(screen, ending.called.dsn, change=True)
    found = ending.find()
    is_other = found is not None and found.kind != ending.called.procedure
    if found is not None and is_other and not found.has_ended:
        raise ZodanError(
            f"operation {found.number} on {ending.new} is unfinished, and it is a call of {found.kind}",
            sqlstate="ZD004",
            hint=f"Finish it: zodan-sql resume {found.number} --dsn ...; or undo it: add --rollback.",
        )
    if found is None or found.state != "done":
        run(screen, ending.called, dict(ending.arguments), dict(ending.switches), verbose)
    _hold("join")
    cloned.finish()
    if ending.old and is_other and found is not None and found.state == "done":
        raise ZodanError(
            f"{ending.new} has joined by a call of {found.kind}, which does not remove {ending.old}",
            sqlstate="ZD401",
            hint=f"Remove {ending.old}, if it is still a member: zodan-sql remove-node.",
        )


def _roll_back(screen: Screen, cloned: Clone, ending: Ending, verbose: bool) -> None:
    """Undo the operation, if it began, then the clone. Raises ZodanError (ZD007) if it can only be finished."""
    found = cloned.find_join(ending.find)
    if found is not None and found.state == "done":
        replaced = found.kind == "replace_node"
        raise ZodanError(
            f"{ending.new} has replaced {ending.old or 'another node'}" if replaced else f"{ending.new} has joined",
            sqlstate="ZD007",
            hint="Call again without --rollback to end the clone"
            + ("." if replaced else "; then remove the node: zodan-sql remove-node."),
        )
    if found is not None and not found.has_ended:
        called = Call(ending.called.dsn, "rollback", ending.new, found.number, "zodan")
        run(screen, called, {"p_operation": found.number, "p_dsns": ending.dsns}, {}, verbose)
    cloned.roll_back(had_joined=found is not None)


def _rate(text: str) -> int:
    found = parse_size(text, "--max-rate")
    if not _SLOWEST <= found <= _FASTEST:
        raise caller_error(
            f'--max-rate is "{text}", which pg_basebackup does not take', "Give 32kB to 1GB, or leave it out."
        )
    return found


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    found = {}
    for each in given or []:
        name, between, value = each.partition("=")
        if not name or not between:
            raise caller_error(f'{option} is "{each}"', "Write it as NAME=VALUE.")
        found[name] = value
    return found


def _hold(step: str) -> None:
    """End here if a test asks for that, as if the process had been killed."""
    if os.environ.get(_HOOK) == step:
        os._exit(9)
