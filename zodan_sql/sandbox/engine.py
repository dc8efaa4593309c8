"""Choose the server for the sandbox: one with the real Spock if there is one, otherwise the stand-in on pglogical."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from zodan_sql.sandbox.errors import SandboxError

_DEBIAN_SERVERS = Path("/usr/lib/postgresql")
_OLDEST_SERVER = 15
_INSTALL_HINT = (
    "Run scripts/setup-server (Debian, Ubuntu), or install PostgreSQL 15 or later with pglogical "
    "(Debian: postgresql-15-pglogical), or point ZODAN_PG_BIN at the bin folder of a server with Spock."
)


@dataclass(frozen=True)
class Engine:
    """A server installation, and the extension that replicates on it."""

    pg_bin: Path
    is_real: bool
    #: One line for people. Show it with every result of the sandbox.
    description: str
    server_version: int
    share_dir: Path
    lib_dir: Path
    #: Newer minor versions create slots only for the output plugins on a list (output_plugin_libraries).
    has_plugin_allow_list: bool

    @property
    def preload_library(self) -> str:
        """The library that starts the replication workers."""
        return "spock" if self.is_real else "pglogical"


def detect_engine(pg_bin: Path | None = None) -> Engine:
    """Return the server to use: ``pg_bin``, else ``ZODAN_PG_BIN``, else the newest suitable server of Debian.

    Raises SandboxError if there is none; its hint says what to install.
    """
    if pg_bin is None and os.environ.get("ZODAN_PG_BIN"):
        pg_bin = Path(os.environ["ZODAN_PG_BIN"])
    if pg_bin is not None:
        return _inspect(pg_bin)
    reasons = []
    for candidate in _debian_servers():
        try:
            return _inspect(candidate)
        except SandboxError as error:
            reasons.append(str(error.args[0]))
    raise SandboxError("; ".join(reasons) or "found no PostgreSQL server", _INSTALL_HINT)


def _debian_servers() -> list[Path]:
    found = [path for path in _DEBIAN_SERVERS.glob("*/bin") if path.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def _inspect(pg_bin: Path) -> Engine:
    version = _server_version(pg_bin)
    major = int(version.split(".")[0])
    if major < _OLDEST_SERVER:
        raise SandboxError(f"{pg_bin} is PostgreSQL {version}, older than {_OLDEST_SERVER}", _INSTALL_HINT)
    share_dir, lib_dir = _folder(pg_bin, "--sharedir"), _folder(pg_bin, "--pkglibdir")
    spock = _default_version(share_dir, "spock")
    pglogical = _default_version(share_dir, "pglogical")
    if spock:
        description = f"Spock {spock} on PostgreSQL {version}"
    elif pglogical:
        description = f"stand-in for Spock (pglogical {pglogical} on PostgreSQL {version}): only for trials and tests"
    else:
        raise SandboxError(f"PostgreSQL {version} in {pg_bin} has neither Spock nor pglogical", _INSTALL_HINT)
    return Engine(
        pg_bin=pg_bin,
        is_real=bool(spock),
        description=description,
        server_version=major,
        share_dir=share_dir,
        lib_dir=lib_dir,
        has_plugin_allow_list="output_plugin_libraries" in _output(pg_bin / "postgres", "--describe-config"),
    )


def _server_version(pg_bin: Path) -> str:
    words = _output(pg_bin / "postgres", "--version").split()
    match = re.match(r"\d+(\.\d+)?", words[2]) if len(words) > 2 else None
    if match is None:
        raise SandboxError(f"cannot read the version of {pg_bin / 'postgres'}", _INSTALL_HINT)
    return match.group()


def _folder(pg_bin: Path, option: str) -> Path:
    return Path(_output(pg_bin / "pg_config", option).strip())


def _output(program: Path, *arguments: str) -> str:
    try:
        return subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SandboxError(f"cannot run {program}: {error}", _INSTALL_HINT) from error


def _default_version(share_dir: Path, extension: str) -> str | None:
    control = share_dir / "extension" / f"{extension}.control"
    if not control.is_file():
        return None
    match = re.search(r"^default_version\s*=\s*'([^']+)'", control.read_text(), re.MULTILINE)
    return match.group(1) if match else None
