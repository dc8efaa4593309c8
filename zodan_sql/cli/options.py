"""The options that more than one command takes: each is spelled, and explained, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from zodan_sql.cli.progress import Mode


def dsn_option(name: str, text: str) -> OptionInfo:
    """Return an option that takes a connection string, which its help never repeats."""
    option: OptionInfo = typer.Option(name, metavar="DSN", help=text, show_default=False)
    return option


Location = Annotated[str | None, typer.Option("--new-node-location", help="Where the node is.", show_default="NY")]
Country = Annotated[str | None, typer.Option("--new-node-country", help="Its country.", show_default="USA")]
Info = Annotated[str | None, typer.Option("--new-node-info", metavar="JSON", help="Anything about the node.")]
Roles = Annotated[
    bool,
    typer.Option("--with-roles", "--roles", help="Bring the roles that the new server lacks, password hashes too."),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Remove it although it cannot be reached; also give --survivor-dsn or --dsn."),
]
AcceptDivergence = Annotated[
    bool, typer.Option("--accept-divergence", help="With --force, although the others do not all have the same.")
]
SurvivorDsn = Annotated[
    str | None, dsn_option("--survivor-dsn", "With --force: the connection string of a member that stays.")
]
Number = Annotated[int, typer.Argument(metavar="OPERATION", help="Its number: see zodan-sql operations.")]
JournalDsn = Annotated[str, dsn_option("--dsn", "The database that the operation was called in.")]
NodeDsns = Annotated[
    list[str] | None,
    typer.Option(
        "--node-dsn",
        metavar="NODE=DSN",
        help="A node and its connection string, where the cluster does not know it; once for each of several.",
        show_default=False,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Also print the statements.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON document on stdout; all else on stderr. See docs/reference/json.md.")
]
ProgressMode = Annotated[
    Mode,
    typer.Option(
        "--progress",
        help="How progress is shown: auto, live on a terminal and plain elsewhere; plain, in lines; none, not at all.",
    ),
]
NoInstall = Annotated[bool, typer.Option("--no-install", help="Fail where Zodan is missing instead of installing it.")]
MemberDsn = Annotated[str, dsn_option("--dsn", "A member, by which the others are found.")]
Dsns = Annotated[
    list[str], typer.Option("--dsn", metavar="DSN", help="A database; give the option once for each of several.")
]
Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="FOLDER", help="Where the sandbox is.", envvar="ZODAN_SANDBOX", show_default=False),
]
PgBin = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The bin folder of the server to use.", envvar="ZODAN_PG_BIN"),
]
