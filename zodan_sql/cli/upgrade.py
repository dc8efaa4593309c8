"""upgrade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Annotated

import typer

from zodan_sql.cli.calling import Call, provide, refuse_node, show_call
from zodan_sql.cli.documents import PairEntry, operation_entry, plan_entries
from zodan_sql.cli.options import (
    Copy,
    DryRun,
    Jobs,
    Json,
    MaxLag,
    MaxRate,
    NodeDsns,
    ProgressMode,
    Quiet,
    Roles,
    Rows,
    Soak,
    Verbose,
    Way,
    beside_arguments,
    copy_arguments,
    dsn_option,
    parse_node_dsns,
)
from zodan_sql.cli.progress import Mode
from zodan_sql.cli.screen import Screen, reporting
from zodan_sql.client import journal, operation
from zodan_sql.client.connection import parse_dsn
from zodan_sql.client.install import borrowed, installed_version
from zodan_sql.client.members import Member, find_members, read_place, read_spock
from zodan_sql.client.structure import bring_structure, has_relations
from zodan_sql.errors import ZodanError, caller_error, precondition_error

_MINOR = re.compile(r"^(\d+)\.(\d+)")


@dataclass
class _Pair:
    """A node, the one that takes its place, and what became of that."""

    old: str
    new: str
    dsn: str = field(repr=False)
    state: str = "pending"
    more: PairEntry = field(default_factory=lambda: PairEntry())

    @property
    def entry(self) -> PairEntry:
        return {"old": self.old, "new": self.new, "state": self.state, "structure": None, **self.more}

    @property
    def call(self) -> Call:
        return Call(self.dsn, "replace_node", self.new, schema="zodan")


def upgrade(
    dsn: Annotated[str, dsn_option("--dsn", "Any member; Zodan finds the others through it.")],
    pairs: Annotated[
        list[str],
        typer.Option(
            "--map",
            metavar="OLD=NEW:DSN",
            help="A member, the name of the node that takes its place, and that node's connection string; repeat it.",
            show_default=False,
        ),
    ],
    node_dsn: NodeDsns = None,
    roles: Roles = False,
    jobs: Jobs = None,
    max_rate: MaxRate = None,
    max_lag: MaxLag = None,
    copy: Copy = Rows.ROWS,
    structure: Annotated[
        Way | None,
        typer.Option(
            "--structure",
            help="Who brings the structure: Spock; or pg_dump and pg_restore of this machine; or it is present.",
            show_default="client if the new node has a newer Spock, otherwise spock",
        ),
    ] = None,
    soak: Soak = None,
    quiet: Quiet = None,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    progress: ProgressMode = Mode.AUTO,
    as_json: Json = False,
) -> None:
    """Replace members one after the other, in the order given: this is how a cluster gets to newer servers.

    A node joins before one leaves, so the cluster never has fewer members than at the start. Stops at the first
    failure. Call it again to continue: it skips a pair whose new node has taken the place of the old one.
    """
    hidden = [dsn, *(each.partition(":")[2] for each in pairs), *(each.partition("=")[2] for each in node_dsn or [])]
    with reporting(hidden, "upgrade" if as_json else None, progress) as screen:
        parse_dsn(dsn, "--dsn")
        wanted, known = [_parse_pair(each) for each in pairs], parse_node_dsns(node_dsn or [])
        _check_pairs(wanted)
        _check_places(wanted)
        arguments = copy_arguments(Way.SPOCK, copy=copy, jobs=jobs, max_rate=max_rate, max_lag=max_lag)
        arguments |= beside_arguments(soak, quiet) | ({"roles": True} if roles else {})
        try:
            for number, pair in enumerate(wanted, 1):
                screen.line(f"{number} of {len(wanted)}: {pair.new} in place of {pair.old}")
                members = _find(screen, [dsn, *(each.dsn for each in wanted)], known)
                if dry_run:
                    _plan(screen, pair, members, arguments, structure)
                else:
                    _replace(screen, pair, members, arguments, structure, known, verbose)
        finally:
            screen.fill({"pairs": [pair.entry for pair in wanted]})


def _parse_pair(text: str) -> _Pair:
    old, _, rest = text.partition("=")
    new, _, dsn = rest.partition(":")
    if not (old and new and dsn):
        raise caller_error("a --map is not of the form OLD=NEW:DSN", "Write it as --map 'n1=n5:host=... dbname=...'.")
    parse_dsn(dsn, "the part of --map after NEW:")
    return _Pair(old, new, dsn)


def _check_pairs(pairs: Sequence[_Pair]) -> None:
    names = [name for pair in pairs for name in (pair.old, pair.new)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise caller_error(f"--map names {', '.join(twice)} twice", "Give each node one name, and one place.")


def _check_places(pairs: Sequence[_Pair]) -> None:
    """Raise ZodanError if two new nodes have one database, or if one's connection string leads to another node."""
    taken: dict[object, _Pair] = {}
    for pair in pairs:
        settings = parse_dsn(pair.dsn, "the part of --map after NEW:")
        host = settings.get("hostaddr") or settings.get("host")
        database = settings.get("dbname") or settings.get("user")
        places: list[object] = [(host, settings.get("port") or "5432", database, settings.get("service"))]
        try:
            place = read_place(pair.dsn)
        except ZodanError as error:
            # Its server may start later.
            if not error.sqlstate.startswith("08"):
                raise
        else:
            places.append(place.database)
            refuse_node(place.node, pair.new, underway=True)
        for each in places:
            other = taken.setdefault(each, pair)
            if other is not pair:
                raise caller_error(
                    f"--map gives {other.new} and {pair.new} the same database; nothing was changed",
                    "Give each new node a database of its own.",
                )


def _find(screen: Screen, through: Sequence[str], known: dict[str, str]) -> dict[str, Member]:
    """Return the members, found through the first node that is one: the node given may have been replaced."""
    first: ZodanError | None = None
    for dsn in through:
        try:
            found = find_members(dsn)
        except ZodanError as error:
            if not error.sqlstate.startswith(("ZD003", "ZD1", "08")):
                raise
            first = first or error
            continue
        screen.redact.add(each.dsn for each in found.values())
        return {name: replace(each, dsn=known.get(name, each.dsn)) for name, each in found.items()}
    raise first or precondition_error("no member can be reached")


def _unfinished(pair: _Pair) -> int | None:
    if installed_version(pair.dsn) is None:
        return None
    return journal.find_unfinished(pair.dsn, "replace_node", pair.new)


def _is_done(pair: _Pair, members: dict[str, Member]) -> bool:
    """Tell whether the new node has taken the place of the old one. Raises ZodanError if neither is a member."""
    if pair.old in members:
        return False
    if pair.new not in members:
        raise precondition_error(
            f'neither "{pair.old}" nor "{pair.new}" is a member that can be reached',
            "Check the names in --map, and that the old node runs.",
            f"The members are {', '.join(members)}.",
        )
    return True


def _reached(old: Member) -> Member:
    """Return an old node, which must be there. Raises ZodanError (ZD101) if it was not reached."""
    if not old.is_reached:
        raise ZodanError(
            f'"{old.name}" is a member, and cannot be reached',
            sqlstate="ZD101",
            hint="Bring it back; if it is gone for good, remove it with zodan-sql remove-node --force.",
        )
    return old


def _plan(
    screen: Screen, pair: _Pair, members: dict[str, Member], arguments: dict[str, object], structure: Way | None
) -> None:
    """Show the plan of a replacement, made for the members of today."""
    if _is_done(pair, members):
        pair.state = "replaced before"
        screen.line("  it has taken its place already")
        return
    way = _choose(pair, _reached(members[pair.old]), structure)
    pair.state, pair.more = "failed", {"structure": way.value, "plan": None}
    if way is Way.CLIENT:
        pair.state = "planned"
        screen.line("  pg_dump and pg_restore bring the structure first: the plan compares it, and is made then")
        return
    with borrowed(pair.dsn) as lent:
        steps = operation.plan(lent, "plan_replace_node", _arguments(pair, members[pair.old], arguments, way))
    pair.state, pair.more["plan"] = "planned", plan_entries(steps)
    for step in steps:
        screen.line(f"  {step.phase:>3}.{step.ordinal} {step.node}: {step.title}")


def _replace(
    screen: Screen,
    pair: _Pair,
    members: dict[str, Member],
    arguments: dict[str, object],
    structure: Way | None,
    known: dict[str, str],
    verbose: bool,
) -> None:
    """Replace a node, or go on where an earlier call stopped."""
    is_done, number = _is_done(pair, members), _unfinished(pair)
    if is_done and number is None:
        pair.state = "replaced before"
        screen.line("  it has taken its place already")
        return
    if number is None:
        _reached(members[pair.old])
    refuse_node(read_place(pair.dsn).node, pair.new, underway=number is not None)
    provide(screen, pair.dsn, change=True)
    pair.state = "failed"
    try:
        if number is not None:
            dsns = {each.name: each.dsn for each in members.values() if each.dsn} | known | {pair.new: pair.dsn}
            journal.change(pair.dsn, number, arguments)
            resumed: dict[str, object] = {"p_operation": number, "p_dsns": dsns}
            show_call(
                screen, Call(pair.dsn, "resume", pair.new, number, "zodan"), resumed, {"p_verbose": True}, verbose
            )
        else:
            old = members[pair.old]
            way = _choose(pair, old, structure)
            pair.more = {"structure": way.value}
            if way is Way.CLIENT:
                screen.line(bring_structure(old.dsn, pair.dsn))
            show_call(screen, pair.call, _arguments(pair, old, arguments, way), {"verb": True}, verbose)
        pair.state = "replaced"
    finally:
        with suppress(ZodanError):
            if (found := pair.call.find_newest()) is not None:
                pair.more["operation"] = operation_entry(found)


def _choose(pair: _Pair, old: Member, structure: Way | None) -> Way:
    """Return who brings the structure. Spock's own way needs the same version of Spock at both ends."""
    if structure is not None and structure is not Way.CLIENT:
        return structure
    here, there = _MINOR.match(read_spock(pair.dsn) or ""), _MINOR.match(old.spock or "")
    if structure is None and (here is None or there is None or here.groups() == there.groups()):
        return Way.SPOCK
    # A call that ended after the structure had come: it is compared before a row is copied.
    return Way.PRESENT if has_relations(pair.dsn) else Way.CLIENT


def _arguments(pair: _Pair, old: Member, arguments: dict[str, object], way: Way) -> dict[str, object]:
    return {
        "old_node_name": pair.old,
        "old_node_dsn": old.dsn,
        "new_node_name": pair.new,
        "new_node_dsn": pair.dsn,
        "structure": (Way.SPOCK if way is Way.SPOCK else Way.PRESENT).value,
        **arguments,
    }
