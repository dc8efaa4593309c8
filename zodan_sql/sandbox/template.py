"""A data directory made once and copied for every node: initdb, the database and its extensions."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from zodan_sql.sandbox import os_user, ports, settings, standin
from zodan_sql.sandbox.engine import Engine
from zodan_sql.sandbox.errors import SandboxError
from zodan_sql.sandbox.node import Node


def template_folder(engine: Engine, dbname: str) -> Path:
    """Return the data directory to copy, made first if need be; its server is stopped."""
    cache = cache_folder()
    template = cache / f"template-{_key(engine, dbname)}"
    with locked(cache / f"{template.name}.lock"):
        if not template.exists():
            _make(engine, dbname, template)
    return template


def cache_folder() -> Path:
    """Return the folder, of this user and in the system's for temporary files, that keeps templates."""
    cache = Path(tempfile.gettempdir()) / f"zodan-sandbox-cache-{os.geteuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    if cache.stat().st_uid != os.geteuid() or cache.is_symlink():
        raise SandboxError(f"{cache} belongs to somebody else")
    return cache


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _key(engine: Engine, dbname: str) -> str:
    parts = [engine.description, str(engine.pg_bin), dbname, str(os_user.server_user()), settings.USER]
    parts += [settings.server_settings(engine, {}, {}), Path(__file__).read_text()]
    if not engine.is_real:
        parts += [path.read_text() for path in standin.sql_files()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _make(engine: Engine, dbname: str, template: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="zodan-template-"))
    work.chmod(0o755)
    lease = ports.lease_port()
    try:
        program, engine_settings = engine_parts(engine, work / "engine")
        node = Node("template", work / "node", engine, lease.port, dbname, "", program)
        for name in ("", "socket", "logs"):
            os_user.make_folder(node.folder / name, mode=0o755)
        initdb = [str(engine.pg_bin / "initdb"), "-D", str(node.data_dir), "-U", settings.USER]
        os_user.run([*initdb, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
        node.write_configuration(settings.server_settings(engine, engine_settings, {}))
        node.start()
        try:
            _create_database(node, engine)
        finally:
            node.stop()
        shutil.move(node.data_dir, template)
    finally:
        lease.release()
        os_user.remove_folder(work)


def engine_parts(engine: Engine, folder: Path) -> tuple[Path, dict[str, str]]:
    """Return the server program, and the settings it needs to find its parts; lay out those of the stand-in."""
    if engine.is_real:
        return engine.pg_bin / "postgres", {}
    parts = standin.lay_out(engine, folder)
    return parts.postgres, parts.settings


def create_extensions(connection: psycopg.Connection[tuple[object, ...]], engine: Engine) -> None:
    """Create what a database needs to become a node."""
    for extension in ("dblink", *(() if engine.is_real else ("pglogical",)), "spock"):
        connection.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))


def _create_database(node: Node, engine: Engine) -> None:
    with psycopg.connect(node.local_dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(node.dbname)))
    with psycopg.connect(node.local_dsn(), autocommit=True) as connection:
        create_extensions(connection, engine)
    if not engine.is_real:
        _settle_managers(node)


def _settle_managers(node: Node) -> None:
    """See that pglogical's supervisor has no manager to start in the databases that are no node.

    It would start one in each whenever a subscription changes, and each ends at once. Where its place is given to a
    worker before the supervisor has looked (wait_for_worker_startup reads the place's generation too late), that
    worker is taken for dead and its place given away again: it goes on, "down" for good. Spock has the same code.
    """
    with psycopg.connect(node.local_dsn("postgres"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE template1 ALLOW_CONNECTIONS false")
        # A manager stays where there is a node.
        connection.execute("CREATE EXTENSION pglogical")
        connection.execute("SELECT pglogical.create_node('postgres', 'dbname=postgres')")
