"""One server of the sandbox."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql
from testgres import PostgresNode
from testgres.exceptions import TestgresException

from zodan_sql.sandbox import os_user, settings
from zodan_sql.sandbox.engine import Engine
from zodan_sql.sandbox.errors import SandboxError

StopMode = Literal["fast", "immediate", "smart"]

# The longest path in sockaddr_un, without the name of the socket.
_LONGEST_SOCKET_FOLDER = 107 - len("/.s.PGSQL.65535")

_LOG_TAIL = 20
# A resolved conflict takes three lines, and the stand-in wakes a worker by letting it print its memory use.
_LOG_NOISE = re.compile(
    r"LOG:  (level: |logging memory contexts|Grand total: )|Resolution: apply_remote|DETAIL:  existing local tuple"
    r"|CONTEXT:  apply (INS|UPD|DEL)"
)


class Node:
    """A PostgreSQL server with a database that is a node of a cluster or may become one."""

    def __init__(
        self, name: str, folder: Path, engine: Engine, port: int, dbname: str, password: str, postgres: Path
    ) -> None:
        self.name = name
        self.folder = folder
        self.engine = engine
        self.port = port
        self.dbname = dbname
        self._password = password
        self._postgres = postgres
        self._testgres: Any = None
        if len(str(self.socket_dir)) > _LONGEST_SOCKET_FOLDER:
            raise SandboxError(f"the path {self.socket_dir} is too long for a socket", "Choose a shorter folder.")

    def __repr__(self) -> str:
        return f"Node({self.name!r}, port={self.port})"

    @property
    def data_dir(self) -> Path:
        """The server's data directory."""
        return self.folder / "data"

    @property
    def socket_dir(self) -> Path:
        """The private folder of the socket, which needs no password."""
        return self.folder / "socket"

    @property
    def log_file(self) -> Path:
        """The server's log."""
        return self.folder / "logs" / "postgresql.log"

    def dsn(self, password: bool = True, dbname: str | None = None) -> str:
        """Return the connection string over TCP, with or without the password."""
        words = f"host={settings.HOST} port={self.port} dbname={dbname or self.dbname} user={settings.USER}"
        return f"{words} password={_quoted(self._password)}" if password else words

    def local_dsn(self, dbname: str | None = None) -> str:
        """Return the connection string over the private socket; it needs no password."""
        return f"host={self.socket_dir} port={self.port} dbname={dbname or self.dbname} user={settings.USER}"

    def connect(self, autocommit: bool = True, dbname: str | None = None) -> psycopg.Connection[Any]:
        """Connect over TCP, like any client."""
        return psycopg.connect(self.dsn(dbname=dbname), autocommit=autocommit)

    def execute(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run one statement in a new connection, and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(query, parameters)  # type: ignore[arg-type, unused-ignore]
            return cursor.fetchall() if cursor.description else []

    def create(self, template: Path, configuration: str) -> None:
        """Create the folders, and the data directory as a copy of ``template``."""
        # Others may read the logs, but only the server its data.
        os_user.make_folder(self.folder, mode=0o755)
        for name in ("socket", "logs"):
            os_user.make_folder(self.folder / name)
        os_user.copy_folder(template, self.data_dir)
        self.write_configuration(configuration)

    def write_configuration(self, configuration: str) -> None:
        """Write the server's two configuration files."""
        for name, text in (
            ("postgresql.conf", configuration + settings.node_settings(self.port, self.socket_dir)),
            ("pg_hba.conf", settings.host_rules()),
        ):
            path = self.data_dir / name
            path.write_text(text)
            os_user.give(path)

    def set_password(self) -> None:
        """Set the password of the sandbox's role."""
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(settings.USER), self._password)
        with psycopg.connect(self.local_dsn("postgres"), autocommit=True) as connection:
            # Otherwise the server would log the statement, with the password, if it failed.
            connection.execute("SET log_min_error_statement = panic")
            connection.execute(statement)

    def start(self) -> None:
        """Start the server and wait until it accepts connections. Raises SandboxError with the end of its log."""
        parameters = [] if self._postgres.parent == self.engine.pg_bin else ["-p", str(self._postgres)]
        try:
            self._controller().start(parameters)
        except TestgresException as error:
            raise SandboxError(f"could not start server {self.name!r}; its log ends:\n{self.log_tail()}") from error
        if not self.engine.is_real:
            self._settle_stand_in()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it is gone."""
        try:
            self._controller().stop(["-m", mode])
        except TestgresException as error:
            raise SandboxError(f"could not stop server {self.name!r}") from error

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server."""
        self.stop(mode)
        self.start()

    def is_running(self) -> bool:
        """Return whether the server is running."""
        if not self.data_dir.exists():
            return False
        return bool(self._controller().status().name == "Running")

    def log_text(self) -> str:
        """Return the server's log."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = _LOG_TAIL) -> str:
        """Return the end of the server's log, without lines that never explain a failure."""
        kept = [line for line in self.log_text().splitlines() if not _LOG_NOISE.search(line)]
        return "\n".join(kept[-lines:])

    def _controller(self) -> Any:  # noqa: ANN401
        if self._testgres is None:
            self._testgres = PostgresNode(
                name=self.name,
                base_dir=str(self.folder),
                port=self.port,
                bin_dir=str(self.engine.pg_bin),
                os_ops=os_user.ServerOperations(),
            )
        return self._testgres

    def _settle_stand_in(self) -> None:
        """Do for the stand-in what Spock does by itself when a server starts."""
        with psycopg.connect(self.local_dsn("postgres"), autocommit=True) as connection:
            exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [self.dbname]).fetchone()
        if exists is None:
            return
        with psycopg.connect(self.local_dsn(), autocommit=True) as connection:
            if connection.execute("SELECT to_regproc('spock._pause_end')").fetchone() == (None,):
                return
            # In Spock, a pause ends with the server. The stand-in keeps the pause in a table.
            connection.execute("SELECT spock._pause_end(NULL)")
            peers = connection.execute(
                "SELECT if_dsn FROM pglogical.subscription JOIN pglogical.node_interface ON if_id = sub_origin_if"
            ).fetchall()
        for (dsn,) in peers:
            with suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True, connect_timeout=2) as connection:
                connection.execute("SELECT spock._wake_manager()")


def _quoted(value: str) -> str:
    """Return a value for a connection string, in quotes only if it needs them."""
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
