"""How much memory of its own a backend takes while a table is copied, a large one and a small one."""

from __future__ import annotations

from bench.copies import by_spock, by_zodan
from bench.filling import Data
from bench.report import Report
from support.memory import COPYING, MemorySampler
from zodan_sql.sandbox import Cluster, Node

_KIND = "memory of its own that one backend has, at most, while rows are copied"
_SPOCK_COPIES = "SELECT EXISTS (SELECT FROM pg_stat_progress_copy)"


def measure(cluster: Cluster, data: Data, report: Report) -> None:
    """Copy it in both ways, and watch every backend of the source and of the new node."""
    source = cluster["n1"]
    samplers: dict[str, MemorySampler] = {}

    def sampling(who: str, query: str, new: Node) -> MemorySampler:
        return samplers.setdefault(who, MemorySampler(source, new, query))

    by_spock(cluster, data, meanwhile=lambda new: sampling("Spock", _SPOCK_COPIES, new))
    by_zodan(cluster, data, meanwhile=lambda new: sampling("Zodan", COPYING, new))
    values = {
        f"{who}, {place} MB": (size / 1e6 if size else None)
        for who, sampler in samplers.items()
        for place, size in sampler.most.items()
    }
    megabytes = sum(data.large.values()) / 1e6
    report.add(_KIND, f"{data.name}, {megabytes:.0f} MB", values)
