"""How much memory of its own a backend takes while a table is copied, a large one and a small one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from bench.copies import by_spock, by_zodan
from bench.filling import Data
from bench.report import Report
from zodan_sql.sandbox import Cluster, Node

_REST_S = 0.02
_KIND = "memory of its own that one backend has, at most, while rows are copied"
#: Processes of the server that copy nothing.
_OTHERS = ("autovacuum", "checkpointer", "background writer", "walwriter", "io worker", "launcher")
_ZODAN_COPIES = "SELECT EXISTS (SELECT FROM zodan.step WHERE phase_name = 'copied' AND state = 'running')"
_SPOCK_COPIES = "SELECT EXISTS (SELECT FROM pg_stat_progress_copy)"


def measure(cluster: Cluster, data: Data, report: Report) -> None:
    """Copy it in both ways, and watch every backend of the source and of the new node."""
    source = cluster["n1"]
    samplers: dict[str, _Sampler] = {}

    def sampling(who: str, query: str, new: Node) -> _Sampler:
        return samplers.setdefault(who, _Sampler(source, new, query))

    by_spock(cluster, data, meanwhile=lambda new: sampling("Spock", _SPOCK_COPIES, new))
    by_zodan(cluster, data, meanwhile=lambda new: sampling("Zodan", _ZODAN_COPIES, new))
    values = {
        f"{who}, {place} MB": (size / 1e6 if size else None)
        for who, sampler in samplers.items()
        for place, size in sampler.most.items()
    }
    megabytes = sum(data.large.values()) / 1e6
    report.add(_KIND, f"{data.name}, {megabytes:.0f} MB", values)


class _Sampler:
    """Looks at all backends again and again, as long as ``query`` says on the new node that rows are being copied."""

    def __init__(self, source: Node, new: Node, query: str) -> None:
        self._nodes = {"source": source, "new node": new}
        self._new = new
        self._query = query
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        #: Bytes, by place.
        self.most = dict.fromkeys(self._nodes, 0)

    def __enter__(self) -> _Sampler:
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
