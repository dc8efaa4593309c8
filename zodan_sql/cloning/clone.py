"""The steps of a clone on the new node's machine, each of which can be repeated and undone."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from zodan_sql.client.connection import connect, parse_dsn
from zodan_sql.client.journal import Operation
from zodan_sql.cloning import base_backup, checks, fence, strip
from zodan_sql.cloning.host import Host, empty, find_host, is_empty, read_major, run_shell
from zodan_sql.cloning.quarantine import Quarantine, Recovery, Server
from zodan_sql.cloning.record import Record, RecordFile
from zodan_sql.cloning.source import Facts, Names, Source
from zodan_sql.errors import ZodanError, caller_error, precondition_error

#: The steps, in order, with what they do.
STEPS = {
    "slot": "make the slot of the copy on {source}",
    "copy": "copy the data directory of {source} to {pgdata}",
    "recover": "recover the copy, apart from everybody, to where it is whole",
    "strip": "take what makes it {source} from the copy",
    "settle": "leave the settings of {new} in the copy",
    "start": "start the server of {new}",
    "join": "join {new}",
}
_START_S = 120.0
#: Seconds for which the source's archiver may take to bring what there is.
_ARCHIVED_S = 60.0
_REST_S = 0.2
_NOTHING = "/bin/false"
#: What the new server says, in its data directory, if nothing else takes it.
_LOG = "zodan-clone.log"
_BEHIND = """
SELECT pg_catalog.pg_wal_lsn_diff(%s::pg_lsn, %s::pg_lsn) < 0
"""
_STARTED = """
SELECT c.system_identifier::text, pg_catalog.floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint
  FROM pg_catalog.pg_control_system() AS c
"""


@dataclass(frozen=True)
class Request:
    """What the caller asks for."""

    source: str
    src_dsn: str
    new: str
    new_dsn: str
    pgdata: Path
    #: The member that the new node replaces; empty if it joins beside all of them.
    replaces: str = ""
    replaces_dsn: str = ""
    pg_bin: Path | None = None
    os_user: str | None = None
    restored: bool = False
    empties: bool = False
    strips_others: bool = False
    mapping: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    restore_command: str | None = None
    start_command: str | None = None
    stop_command: str | None = None
    max_rate: int | None = None


class Clone:
    """A clone, from its beginning or from where an earlier call stopped."""

    def __init__(
        self, request: Request, tell: Callable[[str], None], hold: Callable[[str], None] = lambda _: None
    ) -> None:
        """``tell`` gets a line for people; ``hold`` is called after each step, before it is recorded as done."""
        self._request = request
        self._tell = tell
        self._hold = hold
        self._source = Source(request.src_dsn)
        self._file = RecordFile(request.pgdata)
        self._facts: Facts | None = None
        self._host: Host | None = None
        self._lock = -1
        self._open = ExitStack()
        self._server: Server | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only call that works at this data directory."""
        with self._file.locked() as self._lock:
            yield

    @property
    def facts(self) -> Facts:
        """What the source says of itself."""
        if self._facts is None:
            self._facts = self._source.facts()
        return self._facts

    @property
    def host(self) -> Host:
        """The machine that this runs on."""
        if self._host is None:
            given = self._request
            # At the end of a replacement, the source may be gone.
            major = read_major(given.pgdata) or self.facts.major
            self._host = find_host(given.pg_bin, given.os_user, given.pgdata, major)
        return self._host

    def check(self) -> list[str]:
        """Return the steps that a call would do. Raises ZodanError (ZD100) with everything that speaks against it."""
        record = self._load()
        if record is None:
            self._check()
        return [self._describe(step) for step in STEPS if record is None or step not in record.done]

    def prepare(self) -> Record:
        """Make the slot that keeps what a copy made from now on will not have; return the record with its position."""
        record = self._load() or self._begin()
        if "slot" not in record.done:
            self._do(record, "slot", self._make_slot)
        return record

    def run(self) -> Record:
        """Do all steps up to the join, or those that an earlier call did not. Raises ZodanError."""
        record = self.prepare()
        with self._open:
            for step, work in (
                ("copy", self._copy),
                ("recover", self._recover),
                ("strip", self._strip),
                ("settle", self._settle),
                ("start", self._start),
            ):
                if step not in record.done:
                    self._do(record, step, work)
        return record

    def find_join(self, find: Callable[[], Operation | None]) -> Operation | None:
        """Return the join, if one has begun or was made since; ``find`` looks in the new node's journal.

        Raises ZodanError (ZD101) if its server has run and does not run now.
        """
        record = self._load()
        if record is None or "settle" not in record.done:
            return None
        if not self.host.is_running(self._request.pgdata):
            # Whoever started it may have called the join too.
            if "start" not in record.done and self._read_rest() == record.rested:
                return None
            raise ZodanError(
                f"the server of {record.new} does not run, and only there it is known how far the join is",
                sqlstate="ZD101",
                hint="Start it, then call again; if it is lost, remove the node: zodan-sql remove-node --force.",
            )
        return find()

    def finish(self) -> None:
        """Forget the clone: the node has joined."""
        self._file.remove()

    def roll_back(self, *, had_joined: bool) -> None:
        """Undo the clone: the source as before, and the copy unable to start, or deleted if this clone made it.

        It is never deleted if ``had_joined``: users may have written there.
        """
        record = self._load()
        if record is None:
            raise caller_error(
                f"there is no unfinished clone in {self._request.pgdata}", f"{self._file.path} is missing."
            )
        if self._request.empties and not record.fills:
            raise caller_error("this clone did not fill the data directory", "Leave out --empty-pgdata.")
        pgdata = self._request.pgdata
        if "settle" in record.done:
            self._stop()
        self.host.stop(pgdata)
        if (slot := self._source.slot(record.slot)) is not None:
            if slot.is_active:
                raise ZodanError(
                    f'slot "{record.slot}" is in use',
                    sqlstate="ZD200",
                    hint="Roll back the join on the new node first.",
                )
            self._source.drop_slot(record.slot)
            self._tell(f"dropped slot {record.slot} on {record.source}")
        if pgdata.exists() and not is_empty(pgdata):
            if record.fills and self._request.empties and not had_joined:
                self._empty()
                pgdata.chmod(0o700)
                self._tell(f"emptied {pgdata}")
            elif (pgdata / "PG_VERSION").exists():
                fence.fence(pgdata, self.host)
                self._tell(f"{pgdata} stays, and cannot be started; it is of no use any more")
        self._file.remove()

    # The steps. Each can be done again after it broke off anywhere.

    def _make_slot(self, record: Record) -> None:
        slot = self._source.slot(record.slot)
        if slot is None and (waits := self._source.open_transactions()):
            self._tell(f"the slot waits for the end of: {'; '.join(waits)}")
        record.slot_lsn = slot.lsn if slot else self._source.make_slot(record.slot, self.facts.major)
        self._tell(f"slot {record.slot} on {record.source} keeps WAL from {record.slot_lsn} on")

    def _copy(self, record: Record) -> None:
        pgdata = self._request.pgdata
        self._confirm_slot(record)
        if not record.fills:
            if not fence.is_fenced(pgdata):
                checks.refuse(list(checks.check_restored(self.host, self.facts, pgdata, record.source_started)))
            fence.fence(pgdata, self.host)
            return
        if not is_empty(pgdata):
            # An earlier call did not finish its copy.
            if not self._request.empties:
                raise precondition_error(
                    f"{pgdata} has part of a copy, which pg_basebackup cannot continue",
                    "Give --empty-pgdata to have it deleted and made again.",
                )
            self._empty()
        fence.shut(pgdata, self.host)
        for here in self._request.mapping.values():
            fence.shut(Path(here), self.host)
            Path(here).chmod(0o700)
        base_backup.copy(
            self.host,
            self._request.src_dsn,
            pgdata,
            self._request.mapping,
            self._request.max_rate,
            self._tell,
            lock=self._lock,
            syncs=self.facts.settings["fsync"] == "on",
        )
        fence.fence(pgdata, self.host)

    def _recover(self, record: Record) -> None:
        pgdata = self._request.pgdata
        self._confirm_fence()
        self.host.stop(pgdata)
        # That of the source, if the copy is a snapshot.
        (pgdata / "postmaster.pid").unlink(missing_ok=True)
        control = self.host.control_data(pgdata)
        recovery = None
        if int(control.get("Latest checkpoint's TimeLineID", "0")) <= record.timeline:
            recovery = self._plan_recovery(record)
            (pgdata / "standby.signal").unlink(missing_ok=True)
            signal = pgdata / "recovery.signal"
            signal.touch()
            self.host.give(signal)
        # The next step goes on with the same server.
        self._server = self._open.enter_context(self._quarantine().opened(recovery, self.facts.libraries))
        record.lsn = strip.read_end(self._server, record.timeline)
        with connect(self._request.src_dsn) as connection:
            row = connection.execute(_BEHIND, [record.lsn, record.slot_lsn]).fetchone()
        if row and row[0]:
            raise ZodanError(
                f"the copy goes to {record.lsn} only, and the slot keeps what came after {record.slot_lsn}",
                sqlstate="ZD205",
                hint="Make a copy that ends after the slot was made, or give --restore-command to fetch the rest.",
            )
        self._tell(f"the copy has everything up to {record.lsn}")

    def _strip(self, record: Record) -> None:
        if self._server is None:
            self._confirm_fence()
            self.host.stop(self._request.pgdata)
            self._server = self._open.enter_context(self._quarantine().opened())
        strip.strip(self._server)
        strip.mark(self._server, record.mark, record.lsn)
        self._open.close()
        # What Spock keeps there is the source's.
        shutil.rmtree(self._request.pgdata / "spock", ignore_errors=True)

    def _settle(self, record: Record) -> None:
        self._write_settings()
        record.rested = self._read_rest()

    def _write_settings(self) -> None:
        settings = {"port": parse_dsn(self._request.new_dsn, "--new-node-dsn").get("port", "5432")}
        was = self.facts.settings
        if was.get("archive_mode", "off") != "off":
            settings["archive_mode"] = "off"
            self._tell(
                "archive_mode is on at the source; the copy has it off, so that it writes into no archive but its own"
            )
        for name in ("synchronous_standby_names", "primary_conninfo"):
            if was.get(name) or fence.read_setting(self._request.pgdata, name):
                settings[name] = ""
        for name in ("restore_command", "recovery_target", "recovery_target_time", "recovery_target_lsn"):
            if fence.read_setting(self._request.pgdata, name):
                settings[name] = ""
        fence.settle(self._request.pgdata, settings | dict(self._request.settings), self.host)

    def _start(self, record: Record) -> None:
        log = self._request.pgdata / _LOG
        if not self.host.is_running(self._request.pgdata):
            # It may not have started with those of the call before.
            self._write_settings()
            if self._request.start_command is not None:
                run_shell(self._request.start_command, "the server of the new node did not start", log, self.host)
            else:
                self.host.run(
                    "pg_ctl",
                    *("start", "-D", str(self._request.pgdata), "-l", str(log), "-t", str(int(_START_S))),
                    problem=f"the server of the new node did not start; see {log}",
                )
        self._await_new(record)
        with connect(self._request.new_dsn, "--new-node-dsn") as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS spock CASCADE")

    # What the steps are made of.

    def _load(self) -> Record | None:
        record = self._file.load()
        given = self._request
        if record is None:
            return None
        asked = (given.source, given.new, given.replaces, not given.restored)
        if (record.source, record.new, record.replaces, record.fills) != asked:
            how = "filled by the clone" if record.fills else "restored"
            whom = f" and replaces {record.replaces}" if record.replaces else ""
            raise ZodanError(
                f"an unfinished clone is in {given.pgdata}: {record.new} is a copy of {record.source}{whom}, {how}",
                sqlstate="ZD004",
                hint=f"Call zodan-sql {record.command} with the options of that call; to undo it, add --rollback.",
            )
        return record

    def _begin(self) -> Record:
        given = self._request
        names = self._check()
        record = Record(
            source=given.source,
            new=given.new,
            slot=names.name,
            mark=names.mark,
            fills=not given.restored,
            replaces=given.replaces,
            system=self.facts.system,
            timeline=self.facts.timeline,
            source_started=self.facts.started,
        )
        self._file.save(record)
        return record

    def _check(self) -> Names:
        """Check everything, and return the names to use."""
        given = self._request
        facts = self.facts
        names, of_members = self._source.names(
            given.source, given.new, given.new_dsn, given.replaces, given.replaces_dsn
        )
        nodes = [] if given.strips_others else self._source.other_nodes(facts.databases)
        found = [
            *checks.check_source(
                facts, given.source, given.new, given.replaces, self._source.slot(names.name) is not None, nodes
            ),
            *checks.check_members(of_members),
            *checks.check_host(
                self.host,
                facts,
                given.pgdata,
                given.new_dsn,
                given.mapping,
                given.settings,
                restored=given.restored,
                starts=given.start_command is not None,
            ),
        ]
        checks.refuse(found)
        self._tell(f"the copy has data checksums {facts.settings['data_checksums']}, as {given.source} has them")
        limit = int(facts.settings["max_slot_wal_keep_size"])
        kept = "without limit" if limit < 0 else f"{limit} MB at most; beyond that the slot is lost and the clone fails"
        self._tell(f"{given.source} keeps its WAL until the new node has it: {kept} (max_slot_wal_keep_size)")
        others = [name for name in facts.libraries.replace(" ", "").split(",") if name not in ("", "spock")]
        if others:
            self._tell(f"the new server loads what the source loads, and does its jobs too: {', '.join(others)}")
        if facts.databases:
            self._tell(f"the copy has the source's other databases too: {', '.join(facts.databases)}")
        return names

    def _confirm_slot(self, record: Record) -> None:
        slot = self._source.slot(record.slot)
        if slot is None or slot.is_lost or slot.is_active or slot.lsn != record.slot_lsn:
            raise ZodanError(
                f'slot "{record.slot}" on {record.source} is gone, in use or has lost its WAL',
                sqlstate="ZD205",
                hint="Roll back, and begin again.",
            )

    def _confirm_fence(self) -> None:
        if not fence.is_fenced(self._request.pgdata):
            checks.raise_awake(self._request.pgdata)

    def _plan_recovery(self, record: Record) -> Recovery:
        pgdata = self._request.pgdata
        command = self._request.restore_command or fence.read_setting(pgdata, "restore_command") or _NOTHING
        if command != _NOTHING:
            # What is fetched has to reach beyond the slot.
            self._source.archive(_ARCHIVED_S)
        return Recovery(record.timeline, command)

    def _read_rest(self) -> str:
        """Return where the copy's server was last shut down; something else while it runs, or if it crashed."""
        control = self.host.control_data(self._request.pgdata)
        return f"{control.get('Database cluster state')} at {control.get('Latest checkpoint location')}"

    def _quarantine(self) -> Quarantine:
        return Quarantine(self.host, self._request.pgdata, self.facts.role, self.facts.dbname, self.facts.settings)

    def _await_new(self, record: Record) -> None:
        """Wait until the new node's connection string leads to the copy, and its server loads Spock."""
        until = time.monotonic() + _START_S
        while True:
            try:
                with connect(self._request.new_dsn, "--new-node-dsn") as connection:
                    row = connection.execute(_STARTED).fetchone()
                break
            except ZodanError as error:
                if time.monotonic() > until or not error.sqlstate.startswith(("08", "57P03")):
                    raise
                time.sleep(_REST_S)
            except psycopg.OperationalError:
                time.sleep(_REST_S)
        # A server's lock file has the second in which it started.
        if row is None or row[0] != record.system or abs(row[1] - self.host.started(self._request.pgdata)) > 1:
            raise ZodanError(
                "--new-node-dsn does not lead to the copy",
                sqlstate="ZD003",
                hint="Give the connection string of the server that was started here.",
            )

    def _empty(self) -> None:
        """Delete what this clone has copied."""
        for folder in (self._request.pgdata, *map(Path, self._request.mapping.values())):
            if folder.exists():
                empty(folder)

    def _describe(self, step: str) -> str:
        given = self._request
        return STEPS[step].format(source=given.source, new=given.new, pgdata=given.pgdata)

    def _stop(self) -> None:
        if self._request.stop_command is not None and self.host.is_running(self._request.pgdata):
            log = self._request.pgdata / _LOG
            run_shell(self._request.stop_command, "the server of the new node does not stop", log, self.host)

    def _do(self, record: Record, step: str, work: Callable[[Record], None]) -> None:
        self._tell(f"+ {self._describe(step)}")
        began = time.monotonic()
        work(record)
        self._hold(step)
        record.note(step, time.monotonic() - began)
        self._file.save(record)
