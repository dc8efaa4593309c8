"""The options that several commands take, each with its spelling and its help in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from zodan_sql.cli.progress import Mode
from zodan_sql.client.connection import parse_dsn
from zodan_sql.errors import caller_error

_SIZE = re.compile(r"(?P<number>\d{1,15}(\.\d+)?)\s*(?P<unit>B|kB|MB|GB|TB)?", re.IGNORECASE)
_SPAN = re.compile(r"(?P<number>\d{1,9}(\.\d+)?)\s*(?P<unit>ms|s|min|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
#: The largest numbers that the server takes: of bytes and of operations, of rows, and of sessions.
LARGEST = 2**63 - 1
MOST_ROWS = 2**31 - 1
MOST_JOBS = 64
_UNITS = {unit: 1024**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb"))}


class Way(StrEnum):
    """How the structure comes to a new node."""

    SPOCK = "spock"
    PRESENT = "present"
    CLIENT = "client"


class Rows(StrEnum):
    """How the rows come to a new node."""

    ROWS = "rows"
    PSQL = "psql"


def dsn_option(name: str, text: str) -> OptionInfo:
    """Return an option for a connection string. Its help shows no default, because that could be a password."""
    option: OptionInfo = typer.Option(name, metavar="DSN", help=text, show_default=False)
    return option


def parse_size(text: str, option: str) -> int:
    """Return a number of bytes that was written with or without a unit, as PostgreSQL reads it: 1 kB is 1024 bytes."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise caller_error(f'{option} is "{text}"', "Give a number of bytes, or one with a unit: 500kB, 20MB, 1.5GB.")
    size = int(float(found["number"]) * _UNITS[(found["unit"] or "B").lower()])
    if size > LARGEST:
        raise caller_error(f'{option} is "{text}"', "Give less, or leave it out.")
    return size


def parse_span(text: str, option: str) -> str:
    """Return a span of time that was written with or without a unit as PostgreSQL reads it."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise caller_error(
            f'{option} is "{text}"', "Give a number of seconds, or one with a unit: 500ms, 30s, 5min, 1h."
        )
    return f"{found['number']} {found['unit'] or 's'}"


def parse_duration(text: str, option: str) -> timedelta:
    """Return a span of time that was written with or without a unit; a span too long to count is the longest."""
    number, unit = parse_span(text, option).split()
    try:
        return timedelta(seconds=float(number) * _SECONDS[unit])
    except OverflowError:
        return timedelta.max


def parse_node_dsns(given: Sequence[str]) -> dict[str, str]:
    """Return the connection strings of --node-dsn by node."""
    pairs = [each.partition("=") for each in given]
    for node, _, dsn in pairs:
        if not node:
            raise caller_error("--node-dsn names no node", "Write it as --node-dsn 'n1=host=... dbname=...'.")
        parse_dsn(dsn, "the part of --node-dsn after NODE=")
    return {node: dsn for node, _, dsn in pairs}


def beside_arguments(soak: str | None, quiet: str | None) -> dict[str, object]:
    """Return what replace_node is to know of the time before the removal."""
    arguments = {
        "soak": None if soak is None else parse_span(soak, "--soak"),
        "quiet": None if quiet is None else parse_span(quiet, "--quiet"),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def join_arguments(
    src_node_name: str,
    src_dsn: str,
    new_node_name: str,
    new_node_dsn: str,
    location: str | None,
    country: str | None,
    info: str | None,
) -> dict[str, object]:
    """Return the given arguments of add_node; the server has defaults for the others."""
    parse_dsn(src_dsn, "--src-dsn")
    parse_dsn(new_node_dsn, "--new-node-dsn")
    arguments: dict[str, object] = {
        "src_node_name": src_node_name,
        "src_dsn": src_dsn,
        "new_node_name": new_node_name,
        "new_node_dsn": new_node_dsn,
        "new_node_location": location,
        "new_node_country": country,
        "new_node_info": None if info is None else _json_object(info),
    }
    return {name: value for name, value in arguments.items() if value is not None}


def copy_arguments(
    way: Way, *, copy: Rows, jobs: int | None, max_rate: str | None, max_lag: str | None
) -> dict[str, object]:
    """Return what add_node is to know of the copy; a structure that the client brings is present by then."""
    arguments = {
        "jobs": jobs,
        "max_rate": None if max_rate is None else parse_size(max_rate, "--max-rate"),
        "max_lag": None if max_lag is None else parse_span(max_lag, "--max-lag"),
        "structure": None if way is Way.SPOCK else Way.PRESENT.value,
        "copy": None if copy is Rows.ROWS else copy.value,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def check_client(*, dry_run: bool, roles: bool) -> None:
    """Refuse what does not go with a structure that the client brings."""
    if dry_run:
        raise caller_error(
            "a plan cannot be made for --structure client: it compares a structure that is not there yet",
            "Make the plan with --structure spock, or bring the structure and give --structure present.",
        )
    if roles:
        raise caller_error(
            "--structure client needs the roles before the join copies them",
            "Bring them first, for example with pg_dumpall --roles-only, and leave out --with-roles.",
        )


def _refuse_constant(text: str) -> None:
    # Python reads NaN and Infinity, and PostgreSQL does not.
    raise ValueError(text)


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise caller_error("--new-node-info is not a JSON object", """Write it as '{"name": "value"}'.""")
    return value


SrcNodeName = Annotated[str, typer.Option("--src-node-name", help="The member to copy from.")]
SrcDsn = Annotated[str, dsn_option("--src-dsn", "The member's connection string, valid on every node.")]
NewNodeName = Annotated[str, typer.Option("--new-node-name", help="The node to add.")]
NewNodeDsn = Annotated[str, dsn_option("--new-node-dsn", "The new node's connection string, valid on every node.")]
Location = Annotated[str | None, typer.Option("--new-node-location", help="The node's location.", show_default="NY")]
Country = Annotated[str | None, typer.Option("--new-node-country", help="The node's country.", show_default="USA")]
Info = Annotated[str | None, typer.Option("--new-node-info", metavar="JSON", help="Any facts about the node.")]
Roles = Annotated[
    bool,
    typer.Option("--with-roles", "--roles", help="Copy the roles that the new server lacks, with password hashes."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        max=MOST_JOBS,
        metavar="N",
        help="How many sessions copy side by side; as many more build indexes.",
        show_default="as many as both servers have processors, from 2 to 8",
    ),
]
MaxRate = Annotated[
    str | None,
    typer.Option(
        "--max-rate",
        metavar="SIZE",
        help="How many bytes of tables a second the copy reads at most, such as 20MB.",
        show_default="no limit",
    ),
]
MaxLag = Annotated[
    str | None,
    typer.Option(
        "--max-lag",
        metavar="TIME",
        help="Pause the copy while a peer lags further behind the source, such as 30s.",
        show_default="any lag",
    ),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Compare the rows of all nodes at the end, as zodan-sql verify does.")
]
Structure = Annotated[
    Way,
    typer.Option(
        "--structure",
        help="Who brings the structure: Spock; or pg_dump and pg_restore of this machine; or it is present already.",
    ),
]
Copy = Annotated[
    Rows,
    typer.Option(
        "--copy",
        help="How the rows come: over dblink; or through the psql that the new node's server runs, which is faster.",
    ),
]
Pgdata = typer.Option("--pgdata", metavar="DIRECTORY", help="The new server's data directory, on this machine.")
ServerBin = Annotated[
    Path | None,
    typer.Option("--pg-bin", metavar="DIRECTORY", help="Where the server's programs are.", show_default=False),
]
Restored = Annotated[
    bool, typer.Option("--restored", help="The copy is in the data directory already, and was never started.")
]
PrepareOnly = Annotated[
    bool, typer.Option("--prepare-only", help="Make the slot, say what a copy has to reach, and stop there.")
]
TablespaceMapping = Annotated[
    list[str] | None,
    typer.Option(
        "--tablespace-mapping",
        metavar="OLD=NEW",
        help="Where a tablespace's directory is to be here; repeat the option.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of the new server; repeat it.", show_default=False),
]
RestoreCommand = Annotated[
    str | None,
    typer.Option(
        "--restore-command",
        help="With --restored: what fetches WAL from the archive, as PostgreSQL's setting of this name.",
        show_default="what postgresql.auto.conf has",
    ),
]
StartCommand = Annotated[
    str | None,
    typer.Option("--start-command", help="What starts the new server.", show_default="pg_ctl start"),
]
StopCommand = Annotated[
    str | None, typer.Option("--stop-command", help="What stops it in a rollback.", show_default="pg_ctl stop")
]
OsUser = Annotated[
    str | None,
    typer.Option(
        "--os-user", help="As root: who owns the server.", show_default="the data directory's owner, or postgres"
    ),
]
StripOtherNodes = Annotated[
    bool,
    typer.Option("--strip-other-nodes", help="Other databases of the server may be nodes; they are none in the copy."),
]
EmptyPgdata = Annotated[
    bool,
    typer.Option("--empty-pgdata", help="Delete what an unfinished clone has copied, to copy again or to roll back."),
]
UndoClone = Annotated[bool, typer.Option("--rollback", help="Undo an unfinished clone, with all that followed it.")]
OldNodeName = Annotated[str, typer.Option("--old-node-name", help="The member to replace.")]
OldNodeDsn = Annotated[str, dsn_option("--old-node-dsn", "That member's connection string, valid on every node.")]
Soak = Annotated[
    str | None,
    typer.Option(
        "--soak",
        metavar="TIME",
        help="How long the new node lives beside the old one before the removal, such as 1h; its streams are watched.",
        show_default="no longer than it takes to check them",
    ),
]
Quiet = Annotated[
    str | None,
    typer.Option(
        "--quiet",
        metavar="TIME",
        help="How long nobody must have written on the old node before its removal begins; 0 does not wait for that.",
        show_default="5s",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Remove a node that cannot be reached; also give --survivor-dsn or --dsn."),
]
AcceptDivergence = Annotated[
    bool, typer.Option("--accept-divergence", help="Remove the node even if its rows may then differ between members.")
]
Level = Annotated[
    bool,
    typer.Option("--level", help="With --force: first bring members that are behind level with the others."),
]
SurvivorDsn = Annotated[
    str | None, dsn_option("--survivor-dsn", "With --force: the connection string of a member that stays.")
]
Number = Annotated[
    int,
    typer.Argument(metavar="OPERATION", max=LARGEST, help="The operation's number, as zodan-sql operations lists it."),
]
JournalDsn = Annotated[str, dsn_option("--dsn", "The database in which the operation was called.")]
NodeDsns = Annotated[
    list[str] | None,
    typer.Option(
        "--node-dsn",
        metavar="NODE=DSN",
        help="A node's connection string, if the cluster does not know it; repeat the option for more nodes.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also print the statements.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout, all else on stderr. See docs/reference/json.md."),
]
ProgressMode = Annotated[
    Mode,
    typer.Option(
        "--progress",
        help="auto shows progress live on a terminal, elsewhere as plain; plain prints lines; none shows no progress.",
    ),
]
NoInstall = Annotated[bool, typer.Option("--no-install", help="Fail if Zodan is missing, instead of installing it.")]
MemberDsn = Annotated[str, dsn_option("--dsn", "Any member; Zodan finds the others through it.")]
Dsns = Annotated[
    list[str], typer.Option("--dsn", metavar="DSN", help="A database; repeat the option for more databases.")
]
Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="The sandbox's folder.", envvar="ZODAN_SANDBOX", show_default=False),
]
PgBin = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The bin folder of the PostgreSQL to use.", envvar="ZODAN_PG_BIN"),
]
