"""Measure joins and removals on a sandbox, beside what Spock itself needs.

python -m bench                     all of it; ZODAN_BENCH_REPEAT times, and the medians
python -m bench copying waiting     these kinds only
ZODAN_BENCH_MB=100 python -m bench  with so much to copy; 1100 without it
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import breaking, cloning, copying, health, joins, memory, verifying, waiting
from bench.filling import BYTES, FOUR, LITTLE, MANY, ONE, Data, filled, sizes
from bench.report import Report
from zodan_sql.sandbox import Cluster, Engine, detect_engine

_REPEAT = int(os.environ.get("ZODAN_BENCH_REPEAT", "1"))
_WIDTH = 160
_KINDS = ("joins", "health", "copying", "waiting", "breaking", "memory", "cloning", "verifying")


def main() -> None:
    """Measure what the command line says, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"what to measure: {', '.join(_KINDS)}")
    kinds = parser.parse_args().kinds or _KINDS
    if unknown := set(kinds) - set(_KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    engine = detect_engine()
    console = Console(width=_WIDTH)
    console.print(engine.description)
    report = Report(console)
    with tempfile.TemporaryDirectory(prefix="zodan-") as folder:
        Path(folder).chmod(0o755)
        for number in range(_REPEAT):
            _measure_joins(Path(folder) / f"joins-{number}", kinds, engine, report)
        for number, data in enumerate((FOUR, ONE, LITTLE, MANY)):
            _measure_copies(Path(folder) / f"copies-{number}", data, kinds, engine, report)
    report.show()


def _measure_joins(folder: Path, kinds: list[str], engine: Engine, report: Report) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    if "joins" in kinds:
        with Cluster.create(folder / "idle", ["n1", "n2"], ["n3", "n4", "n5", "n6"], engine) as cluster:
            bare = joins.measure_idle(cluster, report)
        with Cluster.create(folder / "busy", ["n1", "n2"], ["n3", "n4", "n5"], engine) as cluster:
            joins.measure_busy(cluster, bare, report)
    if "health" in kinds:
        with Cluster.create(folder / "many", ["n1", "n2", "n3", "n4"], ["n5"], engine) as cluster:
            health.measure(cluster, report)
    if "verifying" in kinds:
        with Cluster.create(folder / "compared", ["n1", "n2", "n3"], [], engine) as cluster:
            verifying.measure(cluster, BYTES, report)


def _measure_copies(folder: Path, data: Data, kinds: list[str], engine: Engine, report: Report) -> None:
    """Measure everything that one filled cluster is needed for."""
    measurements = [measure for kind, measure in _list_copies(data, report) if kind in kinds]
    if not measurements:
        return
    with filled(folder, data, engine) as cluster:
        report.note(f"{data.name}: {sizes(cluster['n1'])}")
        for measure in measurements:
            for _ in range(_REPEAT):
                measure(cluster)


def _list_copies(data: Data, report: Report) -> list[tuple[str, Callable[[Cluster], None]]]:
    """List what is measured on a cluster with this data, with its kind."""
    every: list[tuple[str, Callable[[Cluster], None]]] = [
        ("copying", lambda cluster, variant=variant: copying.measure(cluster, variant, report))  # type: ignore[misc]
        for variant in copying.VARIANTS
        if variant.data is data
    ]
    if data is FOUR:
        every.append(("cloning", lambda cluster: cloning.measure(cluster, data, report)))
        every.append(("waiting", lambda cluster: waiting.measure(cluster, data, report)))
    if data in (FOUR, ONE):
        every.append(("breaking", lambda cluster: breaking.measure(cluster, data, report)))
    if data in (ONE, LITTLE):
        every.append(("memory", lambda cluster: memory.measure(cluster, data, report)))
    return every


if __name__ == "__main__":
    main()
