"""The copy's server while it still believes to be its source: alone, without Spock, and reachable for nobody else."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from zodan_sql.cloning.host import Host, end_with_parent, settings_lines, write
from zodan_sql.errors import ZodanError, from_database

_REST_S = 0.1
_PORT = 5432
_HBA = "local all all trust\n"
#: A resource manager that no library of PostgreSQL itself has.
_NEEDS_LIBRARY = re.compile(r"resource manager with ID \d+ not registered")
_NOT_YET = re.compile(
    r"No such file|Connection refused|starting up|not (?:yet )?accepting|in recovery mode|closed the connection"
)
#: Nothing in the copy's own configuration has an effect here: it is not read, but for postgresql.auto.conf.
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "port": str(_PORT),
    "shared_preload_libraries": "",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "recovery_min_apply_delay": "0",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",
    "autovacuum": "off",
    "hot_standby": "off",
    "wal_level": "logical",
    "ssl": "off",
    "jit": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_statement": "none",
    "log_min_messages": "warning",
    "lc_messages": "C",
    "external_pid_file": "",
    "cluster_name": "zodan clone",
}
#: What recovery needs as it is on the source.
_ALIKE = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_replication_slots",
    "max_active_replication_origins",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "track_commit_timestamp",
    # Who does not need the source on disk does not need the copy there either.
    "fsync",
)
_TARGETS = (
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target",
)
_SESSION = (
    "-c session_preload_libraries= -c local_preload_libraries= -c statement_timeout=0 -c lock_timeout=0 "
    "-c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off -c session_replication_role=replica "
    "-c search_path=pg_catalog -c role=none -c log_min_error_statement=panic"
)


@dataclass(frozen=True)
class Recovery:
    """How the copy becomes a server of its own: it replays what WAL there is, and begins a timeline."""

    timeline: int
    #: Brings WAL that the copy does not have; /bin/false if nothing does.
    restore_command: str

    def settings(self) -> dict[str, str]:
        """Return the settings of the recovery."""
        return {
            "restore_command": self.restore_command,
            "recovery_target_action": "promote",
            "recovery_target_timeline": str(self.timeline),
            **dict.fromkeys(_TARGETS, ""),
        }


class Quarantine:
    """Starts the copy's server for this program only. It must not run when ``opened`` is called."""

    def __init__(self, host: Host, pgdata: Path, role: str, dbname: str, alike: Mapping[str, str]) -> None:
        self._host = host
        self._pgdata = pgdata
        self._role = role
        self._dbname = dbname
        self._alike = {name: alike[name] for name in _ALIKE if name in alike}
        self._folder = Path()

    @contextmanager
    def opened(self, recovery: Recovery | None = None, libraries: str = "") -> Iterator[Server]:
        """Yield the running server, recovered and open for statements; stop it afterwards.

        WAL of Spock 6 needs its library to be replayed. Then a single process replays it with ``libraries``, in which
        no worker can start. Raises ZodanError (ZD200) with what the server's log says.
        """
        self._folder = Path(tempfile.mkdtemp(prefix="zodan-clone-"))
        self._host.give(self._folder)
        try:
            server = self._start(recovery)
            if server is None:
                self._replay(recovery, libraries)
                server = self._start(None)
            if server is None:
                raise self._failed("WAL of the copy cannot be replayed without a library that the source loads")
            try:
                yield server
            finally:
                self._host.stop(self._pgdata)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, recovery: Recovery | None) -> Server | None:
        """Start the server; return None if it needs a library that it was not given."""
        process = self._run([], recovery, {})
        server = Server(self._folder, self._role, self._dbname)
        while process.poll() is None:
            if server.is_open():
                return server
            time.sleep(_REST_S)
        if _NEEDS_LIBRARY.search(self._log.read_text(errors="replace")):
            return None
        raise self._failed("the copy's server did not start")

    def _replay(self, recovery: Recovery | None, libraries: str) -> None:
        """Recover the copy in one process, which ends when that is done."""
        process = self._run(["--single"], recovery, {"shared_preload_libraries": libraries}, self._dbname)
        if process.wait() != 0:
            raise self._failed("the copy could not be recovered")
        self._log.write_text("")

    def _run(
        self, words: Sequence[str], recovery: Recovery | None, more: Mapping[str, str], *names: str
    ) -> subprocess.Popen[Any]:
        write(self._folder / "hba.conf", _HBA, self._host)
        write(self._folder / "ident.conf", "", self._host)
        write(self._folder / "postgresql.conf", "\n".join(settings_lines(self._alike)) + "\n", self._host)
        settings = {
            "config_file": str(self._folder / "postgresql.conf"),
            "hba_file": str(self._folder / "hba.conf"),
            "ident_file": str(self._folder / "ident.conf"),
            "unix_socket_directories": str(self._folder),
            **_SETTINGS,
            **self._alike,
            **(recovery.settings() if recovery else {}),
            **more,
        }
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._host.give(self._log)
            return subprocess.Popen(
                self._host.command("postgres", *words, "-D", str(self._pgdata), *given, *names),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
                # A fast shutdown.
                preexec_fn=partial(end_with_parent, signal.SIGINT),
                **self._host.options(),
            )

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _failed(self, message: str) -> ZodanError:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if "DETAIL:  Last" not in line]
        return ZodanError(
            message, sqlstate="ZD200", detail="\n".join(lines[-8:]), hint="Fix the cause, then call again."
        )


class Server:
    """A server in quarantine."""

    def __init__(self, folder: Path, role: str, dbname: str) -> None:
        self._folder = folder
        self._role = role
        self._dbname = dbname

    def connect(self, dbname: str | None = None) -> psycopg.Connection[Any]:
        """Open a session, by default in the source's database; nothing of the copy's own settings has an effect."""
        return psycopg.connect(
            host=str(self._folder),
            port=_PORT,
            user=self._role,
            dbname=dbname or self._dbname,
            autocommit=True,
            options=_SESSION,
            application_name="zodan-sql clone",
        )

    def is_open(self) -> bool:
        """Return whether the server has recovered and takes statements."""
        try:
            with self.connect() as connection:
                row = connection.execute("SELECT NOT pg_catalog.pg_is_in_recovery()").fetchone()
            return bool(row and row[0])
        except psycopg.OperationalError as error:
            if _NOT_YET.search(str(error)):
                return False
            raise from_database(error) from None
