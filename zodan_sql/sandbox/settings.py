"""The settings of a sandbox server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zodan_sql.sandbox.engine import Engine

#: Not the name of a schema, because "$user" is first in the default search path.
USER = "dba"
HOST = "127.0.0.1"

_HBA = f"""\
# Set-up uses a socket in a private folder; every other connection needs the password.
local all all trust
host all all {HOST}/32 scram-sha-256
host replication all {HOST}/32 scram-sha-256
"""

# Enough for a mesh of eight nodes: each peer takes a slot, a walsender and an apply worker.
_SETTINGS = {
    "listen_addresses": HOST,
    "password_encryption": "scram-sha-256",
    "wal_level": "logical",
    "track_commit_timestamp": "on",
    "max_worker_processes": "32",
    "max_replication_slots": "32",
    "max_wal_senders": "32",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "512MB",
    # A sandbox may lose its data if the machine crashes, but not if a server is killed.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_init_zero": "off",
    "autovacuum_naptime": "10s",
    "log_min_messages": "info",
    "log_line_prefix": "%m [%p] %b %d ",
    "log_statement": "none",
    "lc_messages": "C",
    "timezone": "UTC",
}

# Spock's default: the later commit wins.
_STAND_IN_SETTINGS = {"pglogical.conflict_resolution": "last_update_wins"}


def server_settings(engine: Engine, engine_settings: Mapping[str, str], extra: Mapping[str, str]) -> str:
    """Return the part of postgresql.conf that all servers of a cluster share."""
    settings = {**_SETTINGS, "shared_preload_libraries": engine.preload_library}
    if not engine.is_real:
        settings |= _STAND_IN_SETTINGS
    if engine.has_plugin_allow_list:
        settings["output_plugin_libraries"] = "pgoutput, spock_output, pglogical_output"
    settings |= {**engine_settings, **extra}
    return "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())


def node_settings(port: int, socket_dir: Path) -> str:
    """Return the part of postgresql.conf that differs between servers."""
    return f"port = {port}\nunix_socket_directories = {_quoted(str(socket_dir))}\n"


def host_rules() -> str:
    """Return the text of pg_hba.conf."""
    return _HBA


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
