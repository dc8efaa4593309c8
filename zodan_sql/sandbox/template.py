"""A data directory to copy for every node, created once: initdb, the database and its extensions."""

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
    """Return the data directory to copy, with its server stopped. Create it if it does not exist."""
    cache = cache_folder()
    template = cache / f"template-{_key(engine, dbname)}"
    with locked(cache / f"{template.name}.lock"):
        if not template.exists():
            _make(engine, dbname, template)
    return template


def cache_folder() -> Path:
    """Return this user's folder for templates, in the system's folder for temporary files."""
    cache = Path(tempfile.gettempdir()) / f"zodan-sandbox-cache-{os.geteuid()}"
    cache.mkdir(mode=0o755, exist_ok=True)
    if cache.stat().st_uid != os.geteuid() or cache.is_symlink():
        raise SandboxError(f"{cache} belongs to another user")
    return cache


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file; wait for it first."""
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
    """Return the server's program and the settings it needs to find its parts; write the stand-in to ``folder``."""
    if engine.is_real:
        return engine.pg_bin / "postgres", {}
    parts = standin.lay_out(engine, folder)
    return parts.postgres, parts.settings


def create_extensions(connection: psycopg.Connection[tuple[object, ...]], engine: Engine) -> None:
    """Create the extensions that a database needs to become a node."""
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
    """Keep pglogical's supervisor from starting managers in the databases that are no node.

    It would start a manager in each of them whenever a subscription changes, and each manager ends at once. If a worker
    gets the manager's slot before the supervisor checks it (wait_for_worker_startup reads the slot's generation too
    late), the supervisor takes that worker for dead and frees its slot again: the worker goes on, but its status stays
    "down". Spock has the same code.
    """
    with psycopg.connect(node.local_dsn("postgres"), autocommit=True) as connection:
        connection.execute("ALTER DATABASE template1 ALLOW_CONNECTIONS false")
        # In a database that is a node, the manager stays.
        connection.execute("CREATE EXTENSION pglogical")
        connection.execute("SELECT pglogical.create_node('postgres', 'dbname=postgres')")
