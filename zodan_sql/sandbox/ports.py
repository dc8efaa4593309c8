"""Ports that no other sandbox on this machine uses at the same time."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from zodan_sql.sandbox.errors import SandboxError

# Below the range from which the kernel takes ports for clients.
_FIRST, _LAST = 20000, 32000


class PortLease:
    """A port reserved until ``release`` or the end of the process."""

    def __init__(self, port: int, handle: int) -> None:
        self.port = port
        self._handle = handle

    def release(self) -> None:
        """Let others use the port."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def lease_port() -> PortLease:
    """Reserve a free port. Raises SandboxError if there is none."""
    candidates = list(range(_FIRST, _LAST))
    random.shuffle(candidates)
    for port in candidates:
        lease = _try(port)
        if lease is not None:
            return lease
    raise SandboxError(f"found no free port between {_FIRST} and {_LAST}")


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _try(port: int) -> PortLease | None:
    handle = os.open(_lock_folder() / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    if is_free(port):
        return PortLease(port, handle)
    os.close(handle)
    return None


def _lock_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"zodan-sandbox-ports-{os.geteuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
