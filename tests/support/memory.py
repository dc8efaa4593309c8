"""How much memory of its own the largest backend has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from zodan_sql.sandbox import Node

#: Says on a node that joins whether its rows are being copied.
COPYING = "SELECT EXISTS (SELECT FROM zodan.step WHERE phase_name = 'copied' AND state = 'running')"
_REST_S = 0.02
#: Processes of the server that copy nothing.
_OTHERS = ("autovacuum", "checkpointer", "background writer", "walwriter", "io worker", "launcher")


class MemorySampler:
    """Looks at all backends again and again, as long as ``query`` says on the new node that rows are being copied."""

    def __init__(self, source: Node, new: Node, query: str) -> None:
        self._nodes = {"source": source, "new node": new}
        self._new = new
        self._query = query
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        #: Bytes, by place.
        self.most = dict.fromkeys(self._nodes, 0)

    def __enter__(self) -> MemorySampler:
        self._run = self._pool.submit(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        self._run.result()

    def _look(self) -> None:
        with self._new.connect() as connection:
            while not self._over.wait(_REST_S):
                if connection.execute(self._query.encode()).fetchone() == (True,):
                    for place, node in self._nodes.items():
                        self.most[place] = max(self.most[place], _largest_backend(node))


def _largest_backend(node: Node) -> int:
    postmaster = psutil.Process(int(Path(node.data_dir, "postmaster.pid").read_text().splitlines()[0]))
    return max((_own_memory(process) for process in postmaster.children()), default=0)


def _own_memory(process: psutil.Process) -> int:
    """Return what a process has in memory that is neither a file nor shared memory; nothing if it has ended."""
    try:
        if any(word in " ".join(process.cmdline()) for word in _OTHERS):
            return 0
        memory = process.memory_info()
    except psutil.NoSuchProcess:
        return 0
    return int(memory.rss - memory.shared)
