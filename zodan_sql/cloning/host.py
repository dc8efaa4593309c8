"""The machine of the new node: its server's programs, its data directory, and the user that owns both."""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodan_sql.errors import ZodanError, caller_error, precondition_error

_PROGRAMS = ("postgres", "pg_ctl", "pg_basebackup", "pg_controldata")
_DEBIAN = "/usr/lib/postgresql/{major}/bin"
_STOP_S = 600
_NEVER = re.compile(r"[\x00-\x08\x0a-\x1f]")
_SETTING = re.compile(r"[a-z_][\w$]*(\.[a-z_][\w$]*)?", re.IGNORECASE | re.ASCII)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Host:
    """The programs of one PostgreSQL, and who runs them: nobody else, unless the caller is root."""

    pg_bin: Path
    user: pwd.struct_passwd | None

    def command(self, name: str, *arguments: str) -> list[str]:
        """Return the words that call a program."""
        return [str(self.pg_bin / name), *arguments]

    def options(self) -> dict[str, Any]:
        """Return what subprocess needs to start a program as the servers' user."""
        if self.user is None:
            return {"cwd": "/"}
        groups = os.getgrouplist(self.user.pw_name, self.user.pw_gid)
        return {"cwd": "/", "user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": groups, "umask": 0o077}

    def run(self, name: str, *arguments: str, problem: str) -> str:
        """Return what a program prints. Raises ZodanError (ZD200) with its last words."""
        done = subprocess.run(
            self.command(name, *arguments),
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.options(),
        )
        if done.returncode != 0:
            raise ZodanError(problem, sqlstate="ZD200", detail=(done.stderr or done.stdout).strip()[-2000:])
        return str(done.stdout)

    def version(self) -> int:
        """Return the major version of the programs."""
        said = self.run("postgres", "--version", problem=f"{self.pg_bin / 'postgres'} does not run")
        found = re.search(r"\) (\d+)", said)
        return int(found[1]) if found else 0

    def compiled(self, name: str) -> str:
        """Return a setting that the programs were built with, such as block_size, as pg_settings has it."""
        # Any folder does: the server says it before it looks for its files there.
        words = ("-C", name, "-D", "/", "-c", "config_file=/dev/null")
        return self.run("postgres", *words, problem=f"{self.pg_bin / 'postgres'} does not tell {name}").strip()

    def refuses(self, name: str, value: str) -> str | None:
        """Return why a server could not start with a setting, None if it could."""
        if not _SETTING.fullmatch(name) or _NEVER.search(value):
            return f"{name} or its value has a character that no setting has"
        words = ("-C", name, "-D", "/", "-c", "config_file=/dev/null", "-c", f"{name}={value}")
        try:
            self.run("postgres", *words, problem=name)
        except ZodanError as error:
            return next((line.partition("FATAL:")[2].strip() for line in error.detail.splitlines()), name)
        return None

    def give(self, path: Path) -> None:
        """Make the servers' user the owner of a file or folder."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def control_data(self, pgdata: Path) -> dict[str, str]:
        """Return what pg_controldata says of a data directory, by its English names."""
        said = self.run("pg_controldata", "-D", str(pgdata), problem=f"pg_controldata cannot read {pgdata}")
        lines = (line.partition(":") for line in said.splitlines())
        return {name.strip(): value.strip() for name, _, value in lines}

    def is_running(self, pgdata: Path) -> bool:
        """Return whether a server runs in a data directory.

        pg_ctl would believe the lock file of a snapshot, which has the process of the source, and may stop that.
        """
        try:
            pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
            return Path(f"/proc/{pid}/cwd").resolve(strict=True) == pgdata.resolve()
        except (OSError, ValueError):
            return False

    def started(self, pgdata: Path) -> int:
        """Return when the server in a data directory started, in seconds; 0 if none runs there."""
        try:
            return int((pgdata / "postmaster.pid").read_text().splitlines()[2])
        except (OSError, ValueError, IndexError):
            return 0

    def stop(self, pgdata: Path) -> None:
        """Stop the server in a data directory, if one runs there. Raises ZodanError (ZD200)."""
        if self.is_running(pgdata):
            self.run(
                "pg_ctl",
                "stop",
                "-D",
                str(pgdata),
                "-m",
                "fast",
                "-t",
                str(_STOP_S),
                problem="the server does not stop",
            )


def find_host(pg_bin: Path | None, os_user: str | None, pgdata: Path, major: int) -> Host:
    """Return the host with the programs of a major version. Raises ZodanError: ZD001, or ZD100 if one is missing."""
    # The programs run in a folder of their own.
    folder = (pg_bin or _default_folder(major)).absolute()
    missing = [name for name in _PROGRAMS if not os.access(folder / name, os.X_OK)]
    if missing:
        raise precondition_error(
            f"{', '.join(missing)} not found in {folder}",
            f"Install PostgreSQL {major}'s server and client programs, or give their folder as --pg-bin.",
        )
    return Host(folder, _find_user(os_user, pgdata))


def read_major(pgdata: Path) -> int:
    """Return the major version of a data directory; 0 if it has none yet."""
    try:
        return int((pgdata / "PG_VERSION").read_text())
    except (OSError, ValueError):
        return 0


def _default_folder(major: int) -> Path:
    debian = Path(_DEBIAN.format(major=major))
    found = shutil.which("pg_ctl")
    return debian if debian.is_dir() or found is None else Path(found).resolve().parent


def _find_user(os_user: str | None, pgdata: Path) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        if os_user is not None and os_user != pwd.getpwuid(os.geteuid()).pw_name:
            raise caller_error("--os-user needs root", f"Run this command as {os_user}, or as root.")
        return None
    if os_user is None and pgdata.exists() and pgdata.stat().st_uid != 0:
        return pwd.getpwuid(pgdata.stat().st_uid)
    try:
        found = pwd.getpwnam(os_user or "postgres")
    except KeyError:
        raise caller_error(
            f"there is no operating system user {os_user or 'postgres'}",
            "Name the one that owns the server: --os-user.",
        ) from None
    if found.pw_uid == 0:
        raise caller_error("PostgreSQL's servers do not run as root", "Give another user as --os-user.")
    return found


def end_with_parent(by: signal.Signals) -> None:
    """Have the kernel end this process when the one that started it is gone, where the kernel can do that."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)


def is_empty(folder: Path) -> bool:
    """Return whether a folder does not exist or has nothing in it, but what a file system has of its own."""
    return not folder.exists() or not any(entry.name != "lost+found" for entry in folder.iterdir())


def empty(folder: Path) -> None:
    """Delete what is in a folder, and keep the folder, which may be where a file system is mounted."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=entry.name == "lost+found")
        else:
            entry.unlink()


def run_shell(command: str, problem: str, log: Path, host: Host) -> None:
    """Run a command that the caller gave. Raises ZodanError (ZD200) with its last words.

    What it says goes to ``log``, as does what a server says that it leaves behind: that has no end to wait for.
    """
    if not log.exists():
        write(log, "", host)
    with log.open("ab") as said:
        began = said.tell()
        words = ["/bin/sh", "-c", command]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
    if done.returncode != 0:
        last = log.read_bytes()[began:].decode(errors="replace").strip()[-2000:]
        raise ZodanError(problem, sqlstate="ZD200", detail=f"{command}: {last}")


def write(path: Path, text: str, host: Host) -> None:
    """Write a file of the servers' user that others cannot read; a file that is there keeps its owner and mode."""
    is_new = not path.exists()
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        path.chmod(0o600)
        host.give(path)


def settings_lines(settings: Mapping[str, str]) -> Sequence[str]:
    """Return the lines of a configuration file."""
    quoted = {name: value.replace("\\", "\\\\").replace("'", "''") for name, value in settings.items()}
    return [f"{name} = '{value}'" for name, value in quoted.items()]
