"""How long a copy takes: the whole ``CALL spock.add_node``, and what Spock needs to copy the same database."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from bench.copies import by_spock, by_zodan
from bench.filling import FOUR, MANY, ONE, Data
from bench.proxy import Line, Proxy
from bench.report import Report
from zodan_sql.sandbox import Cluster

#: What one connection brings over a long way, or from a busy disk: more of them bring more.
LIMITED = Line(rate=10e6)
#: Another region.
FAR = Line(delay=0.02)
_KIND = "copies: the whole CALL, and Spock's own copy"


@dataclass(frozen=True)
class Variant:
    """What is copied, over which line, in how many sessions."""

    data: Data
    what: str
    line: Line | None = None
    jobs: int | None = None
    copy: str = "rows"


VARIANTS = (
    Variant(FOUR, "direct"),
    Variant(FOUR, "10 MB/s a connection", LIMITED, 4),
    Variant(FOUR, "20 ms each way", FAR, 4),
    Variant(FOUR, "direct", copy="psql"),
    Variant(FOUR, "10 MB/s a connection", LIMITED, 4, "psql"),
    Variant(FOUR, "20 ms each way", FAR, 4, "psql"),
    Variant(ONE, "10 MB/s a connection", LIMITED, 4),
    Variant(MANY, "direct"),
)


def measure(cluster: Cluster, variant: Variant, report: Report) -> None:
    """Copy it in both ways, one after the other."""
    with ExitStack() as stack:
        port = stack.enter_context(Proxy(cluster["n1"].port, variant.line)).port if variant.line else None
        spock = by_spock(cluster, variant.data, port)
        zodan = by_zodan(cluster, variant.data, port, variant.jobs, copy=variant.copy)
    report.add(
        _KIND,
        f"{variant.data.name}, {variant.what}, {zodan.jobs} jobs, {variant.copy}",
        {
            "Spock s": spock.seconds,
            "Zodan s": zodan.seconds,
            "Zodan / Spock": zodan.seconds / spock.seconds,
            "rows s": zodan.phases.get("copied"),
            "indexes s": zodan.phases.get("indexes"),
        },
    )
