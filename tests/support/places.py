"""Where the servers of tests lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

#: In memory: to copy a data directory and to delete it takes a disk longer than all else that makes a cluster.
_MEMORY = Path("/dev/shm")
#: What must be free there, and of the machine's memory: a cluster takes some hundred megabytes.
_ROOM = 6 << 30


def make_place() -> Path:
    """Make a folder for a cluster, in memory where there is room; the user of the servers can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="zodan-", dir=_MEMORY if _has_room() else None))
    folder.chmod(0o755)
    return folder


def _has_room() -> bool:
    if not os.access(_MEMORY, os.W_OK | os.X_OK) or psutil.virtual_memory().available < _ROOM:
        return False
    about = os.statvfs(_MEMORY)
    return about.f_bavail * about.f_frsize >= _ROOM and not about.f_flag & os.ST_NOEXEC
