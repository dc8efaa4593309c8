"""Runs the server's programs as an unprivileged user, since PostgreSQL refuses root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodan_sql.sandbox.errors import SandboxError

if TYPE_CHECKING:
    _LocalOperations = Any
else:
    try:
        from testgres.operations.local_ops import LocalOperations as _LocalOperations
    except ImportError as error:
        raise SandboxError("the sandbox needs testgres", "Run pip install 'zodan-sql[sandbox]'.") from error

_CANDIDATES = ("postgres", "nobody")


@cache
def server_user() -> pwd.struct_passwd | None:
    """Return the user servers run as when we are root: ``ZODAN_OS_USER``, else postgres, else nobody."""
    if os.geteuid() != 0:
        return None
    wanted = os.environ.get("ZODAN_OS_USER")
    for name in (wanted,) if wanted else _CANDIDATES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SandboxError(
        f"no user to run PostgreSQL as: {wanted or ', '.join(_CANDIDATES)}",
        "Set ZODAN_OS_USER to an unprivileged user.",
    )


def command_prefix() -> list[str]:
    """Return what to put in front of a server's program."""
    user = server_user()
    if user is None:
        return []
    identity = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    # libpq looks into HOME, which is root's and unreadable.
    return [*identity, "--", "env", "HOME=/nonexistent"]


def give(path: Path) -> None:
    """Make the user of the servers the owner of ``path``."""
    user = server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """Make a folder that the servers own."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    give(path)
    return path


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of the servers, owner and modes with it."""
    run(["cp", "-a", "--reflink=auto", str(source), str(target)])


def remove_folder(path: Path) -> None:
    """Remove a folder, whoever owns what is in it."""
    shutil.rmtree(path, ignore_errors=True)


def run(command: Sequence[str]) -> str:
    """Run a program as the user of the servers and return what it printed."""
    done = subprocess.run([*command_prefix(), *command], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise SandboxError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


class ServerOperations(_LocalOperations):  # type: ignore[misc, unused-ignore]
    """testgres' way of running programs, with the user of the servers put in front."""

    def exec_command(self, cmd: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run a program and wait (older testgres)."""
        return super().exec_command(_prefixed(cmd), *arguments, **_in_root(options))

    def popen(self, cmd: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Start a program."""
        return super().popen(_prefixed(cmd), *arguments, **_in_root(options))


def _prefixed(command: Any) -> Any:  # noqa: ANN401
    if isinstance(command, str):
        raise TypeError("a program to run as another user has to be a list")
    return [*command_prefix(), *command]


def _in_root(options: dict[str, Any]) -> dict[str, Any]:
    # The folder we were started in may be closed to the user of the servers.
    return {**options, "cwd": "/"}
