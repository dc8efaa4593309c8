"""Run the server's programs as an unprivileged user, because PostgreSQL refuses to run as root."""

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
    """Return the user to run servers as, or None unless we are root: ``ZODAN_OS_USER``, else postgres, else nobody.

    Raises SandboxError if there is no such user.
    """
    if os.geteuid() != 0:
        return None
    wanted = os.environ.get("ZODAN_OS_USER")
    for name in (wanted,) if wanted else _CANDIDATES:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SandboxError(
        f"found no operating system user to run PostgreSQL: {wanted or ', '.join(_CANDIDATES)}",
        "Set ZODAN_OS_USER to an unprivileged user.",
    )


def command_prefix() -> list[str]:
    """Return the words to put before a server's program; none unless we are root."""
    user = server_user()
    if user is None:
        return []
    identity = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups"]
    # libpq reads files in HOME, which is root's and unreadable for others.
    return [*identity, "--", "env", "HOME=/nonexistent"]


def give(path: Path) -> None:
    """Make the servers' user the owner of ``path``."""
    user = server_user()
    if user is not None:
        os.chown(path, user.pw_uid, user.pw_gid)


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """Create a folder that the servers' user owns."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    give(path)
    return path


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of the servers with owners and modes."""
    run(["cp", "-a", "--reflink=auto", str(source), str(target)])


def remove_folder(path: Path) -> None:
    """Delete a folder, whoever owns its contents."""
    shutil.rmtree(path, ignore_errors=True)


def run(command: Sequence[str]) -> str:
    """Run a program as the servers' user and return its output. Raises SandboxError if the program fails."""
    done = subprocess.run([*command_prefix(), *command], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        raise SandboxError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


class ServerOperations(_LocalOperations):  # type: ignore[misc, unused-ignore]
    """The operations of testgres, run as the servers' user."""

    def exec_command(self, cmd: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run a program and wait for its end (older versions of testgres)."""
        return super().exec_command(_prefixed(cmd), *arguments, **_in_root(options))

    def popen(self, cmd: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        """Start a program."""
        return super().popen(_prefixed(cmd), *arguments, **_in_root(options))


def _prefixed(command: Any) -> Any:  # noqa: ANN401
    if isinstance(command, str):
        raise TypeError("a command to run as another user must be a list")
    return [*command_prefix(), *command]


def _in_root(options: dict[str, Any]) -> dict[str, Any]:
    # The servers' user may not be able to enter our working directory.
    return {**options, "cwd": "/"}
