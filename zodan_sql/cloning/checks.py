"""What has to hold before a clone changes anything. Everything that does not is told at once."""

from __future__ import annotations

import platform
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from zodan_sql.client.checks import CheckResult
from zodan_sql.client.connection import parse_dsn
from zodan_sql.cloning.host import Host, is_empty
from zodan_sql.cloning.source import Facts
from zodan_sql.errors import ZodanError, precondition_error
from zodan_sql.words import size

#: Slots and senders of the source that a clone needs: the stream's, and two for pg_basebackup.
_SENDERS = 3
#: What the server of a physical copy may have been when the copy was made. It was never a server of its own since.
_UNTOUCHED = ("in production", "in archive recovery", "shut down in recovery")
_ROOM = 1.1
#: Sizes that are part of a server's files.
_COMPILED = ("block_size", "wal_block_size", "segment_size")

Finding = tuple[str, str]


def refuse(findings: list[Finding]) -> None:
    """Raise ZodanError (ZD100) with all findings, if there are any."""
    if findings:
        raise precondition_error(
            f"{len(findings)} preconditions are not met",
            "; ".join(dict.fromkeys(hint for _, hint in findings)),
            detail="; ".join(what for what, _ in findings),
        )


def check_source(
    facts: Facts, source: str, new: str, old: str, slot_is_there: bool, others: list[str]
) -> Iterator[Finding]:
    """Yield what is wrong with the source."""
    if facts.node != source:
        yield f'the source is node "{facts.node}"', "Give name and connection string of the same member."
    if not facts.superuser:
        yield f'role "{facts.role}" is no superuser on the source', "Connect as a superuser."
    if new in facts.members:
        yield f'the cluster knows a node "{new}"', "Choose another name, or remove that node first."
    if old and old not in facts.members:
        yield f'the cluster has no node "{old}" to replace', "Give the name of a member."
    if slot_is_there:
        yield "the source has a slot of this stream already", "Roll back what made it, or drop the slot."
    if int(facts.settings["max_replication_slots"]) - facts.slots < _SENDERS - 1:
        yield "the source has no slots to spare", "Raise max_replication_slots on the source."
    if int(facts.settings["max_wal_senders"]) - facts.senders < _SENDERS:
        yield "the source has no senders to spare", "Raise max_wal_senders on the source."
    for each in facts.dependents:
        yield f"{each} needs Spock's extension, and would be lost with it in the copy", "Drop or change it first."
    for dbname in others:
        yield (
            f'database "{dbname}" of the source\'s server is a node too, and no longer one in the copy',
            "Give --strip-other-nodes if that is what you want.",
        )


def check_members(found: list[CheckResult]) -> Iterator[Finding]:
    """Yield which checks of a join fail among the members."""
    for each in found:
        if each.verdict == "FAIL":
            yield f"{each.scope}: {each.name}: {each.observed}, must be {each.required}", each.hint


def check_host(
    host: Host,
    facts: Facts,
    pgdata: Path,
    new_dsn: str,
    mapping: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    restored: bool,
    starts: bool,
) -> Iterator[Finding]:
    """Yield what is wrong with this machine."""
    if host.version() != facts.major:
        yield (
            f"{host.pg_bin} is PostgreSQL {host.version()}, the source {facts.major}",
            f"Give the folder of PostgreSQL {facts.major} as --pg-bin.",
        )
    for name in _COMPILED:
        if (built := host.compiled(name)) != facts.settings[name]:
            yield (
                f"{host.pg_bin} has {name} {built}, the source {facts.settings[name]}",
                "Use programs that were built with the same sizes.",
            )
    if platform.machine() not in facts.version:
        yield (
            f"this machine is {platform.machine()}, the source runs {facts.version}",
            "Use a machine of the same kind.",
        )
    if not starts and Path(facts.data_directory) not in Path(facts.config_file).parents:
        yield (
            f"the source's configuration is {facts.config_file}, which no copy of its data directory has",
            "Make the configuration of the new server, and say how to start it: --start-command.",
        )
    for name, value in settings.items():
        if name.lower() == "port":
            yield "--set names the port", "Give it in --new-node-dsn."
        elif why := host.refuses(name, value):
            yield f"--set {name}: {why}", "Correct what is given with --set."
    place = parse_dsn(new_dsn, "--new-node-dsn")
    if _answers(place):
        yield (
            f"something answers at port {place.get('port') or 5432} of the new node already",
            "Stop that server, or give another port in --new-node-dsn.",
        )
    if restored:
        return
    if not is_empty(pgdata):
        yield f"{pgdata} is not empty", "Give another directory, or --restored if it is a copy of the source."
    free = shutil.disk_usage(_existing(pgdata)).free
    if free < facts.bytes * _ROOM:
        yield f"the source has {size(facts.bytes)}, {pgdata} has {size(free)} free", "Give a larger disk."
    for there, new in mapping.items():
        if there not in facts.tablespaces.values():
            yield f"the source has no tablespace in {there}", "Correct what is given with --tablespace-mapping."
        if not Path(new).is_absolute():
            yield f"{new} for a tablespace is no absolute path", "Give one with --tablespace-mapping."
    for name, there in facts.tablespaces.items():
        here = Path(mapping.get(there, there))
        if not is_empty(here):
            yield f'{here} for tablespace "{name}" is not empty', f"Give --tablespace-mapping {there}=DIRECTORY."


def check_restored(host: Host, facts: Facts, pgdata: Path, source_started: int) -> Iterator[Finding]:
    """Yield why a data directory is no copy of the source that was never started."""
    if not (pgdata / "PG_VERSION").exists():
        yield f"{pgdata} is no data directory", "Restore the copy there, and do not start it."
        return
    if host.is_running(pgdata):
        yield f"a server runs in {pgdata}", _AWAKE
        return
    control = host.control_data(pgdata)
    if control.get("Database system identifier") != facts.system:
        yield f"{pgdata} is a copy of another server", "Restore a copy of the source."
        return
    state = control.get("Database cluster state", "")
    has_label = (pgdata / "backup_label").exists()
    if state not in _UNTOUCHED:
        yield f"the copy's server has run and was {state}", _AWAKE
    elif int(control.get("Latest checkpoint's TimeLineID", "0")) > facts.timeline:
        yield "the copy's server has begun a timeline of its own", _AWAKE
    elif not has_label and state == "in production" and not _is_snapshot(pgdata, facts, source_started):
        yield "the copy has no backup_label, and is no snapshot of the source as it runs", _AWAKE


#: If a copy was started, it took from the source's slots on other nodes what the source will not get any more.
_AWAKE = (
    "Restore it again. If it was started with Spock awake, the source may have lost what it took from other nodes: "
    "run zodan-sql verify"
)


def _is_snapshot(pgdata: Path, facts: Facts, source_started: int) -> bool:
    """Return whether the directory has the lock file of the source's server, which a start replaces."""
    try:
        lines = (pgdata / "postmaster.pid").read_text().splitlines()
        return lines[1] == facts.data_directory and int(lines[2]) in (source_started, facts.started)
    except (OSError, IndexError, ValueError):
        return False


def _answers(settings: Mapping[str, str]) -> bool:
    host, port = settings.get("hostaddr") or settings.get("host") or "", settings.get("port") or "5432"
    try:
        if host.startswith("/") or not host:
            with socket.socket(socket.AF_UNIX) as tried:
                tried.settimeout(3)
                tried.connect(f"{host or '/var/run/postgresql'}/.s.PGSQL.{port}")
        else:
            socket.create_connection((host, int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def raise_awake(pgdata: Path) -> None:
    """Raise ZodanError (ZD205): the copy was started before it was stripped."""
    raise ZodanError(
        f"the copy in {pgdata} was started by somebody else before it was a node of its own",
        sqlstate="ZD205",
        hint=_AWAKE,
    )
