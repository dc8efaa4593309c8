"""A server that hangs: its processes are there, and none does anything."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zodan_sql.sandbox import Node


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """Hold all processes of a server, as the moment of a snapshot does."""
    first = int((node.data_dir / "postmaster.pid").read_text().split()[0])
    children = [int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    for pid in (first, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in (first, *children):
            os.kill(pid, signal.SIGCONT)
