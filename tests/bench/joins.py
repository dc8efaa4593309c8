"""How long a join and a removal take where there is next to nothing to copy: idle, and under writers."""

from __future__ import annotations

import time

from bench.copies import bare_subscription, drop_bare_subscription
from bench.report import Report
from support.calls import add_node, exceptions, leftovers, load_zodan, remove_node
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster

_KIND = "joins of a nearly empty cluster of two, one after the other, and a removal"
#: From the first step to the end of those of a phase.
_MOMENTS = """
SELECT extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'switch') - o.started_at),
       extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'replicating') - o.started_at),
       extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'resume')
                        - max(s.started_at) FILTER (WHERE s.phase_name = 'pause'))
  FROM zodan.operation AS o JOIN zodan.step AS s USING (operation_id)
 WHERE o.node = %(node)s AND o.kind = 'add_node' GROUP BY o.operation_id
"""
_ROWS_BEFORE_REMOVAL = 300_000
_NEW = ("n3", "n4", "n5")


def measure_idle(cluster: Cluster, report: Report) -> float:
    """Join three nodes while nobody writes, remove the last; n6 stays a blank. Return what Spock needs for itself."""
    create_tables(cluster)
    fill(cluster["n1"], 1000)
    wait_level(cluster.members)
    bare = bare_subscription(cluster["n6"], cluster["n1"].dsn())
    drop_bare_subscription(cluster["n6"])
    report.add(_KIND, "a bare subscription", {"data level s": None, "all replicating s": None, "whole call s": bare})
    for name in _NEW:
        _join(cluster, name, f"{name}, idle", bare, report)
    assert_rows_equal(cluster.members, TABLES)
    _remove(cluster, _NEW[-1], report)
    return bare


def measure_busy(cluster: Cluster, bare: float, report: Report) -> None:
    """Join three nodes while others write on both first ones."""
    create_tables(cluster)
    fill(cluster["n1"], 20_000)
    wait_level(cluster.members)
    with Writers(cluster.members[:2]) as writers:
        for name in _NEW:
            _join(cluster, name, f"{name}, two writers", bare, report)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert not writers.failures, writers.failures[:3]
    assert not exceptions(cluster.members)
    report.note(f"writes during the busy joins: {writers.writes}, failed: {writers.failed}")


def _join(cluster: Cluster, name: str, what: str, bare: float, report: Report) -> None:
    load_zodan(cluster[name])
    began = time.monotonic()
    add_node(cluster, "n1", name)
    took = time.monotonic() - began
    level, replicating, flip = (float(value) for value in cluster[name].execute(_MOMENTS, {"node": name})[0])
    report.add(
        _KIND,
        f"join of {what}",
        {
            "data level s": level,
            "all replicating s": replicating,
            "whole call s": took,
            "flip s": flip,
            "ratio to a bare subscription": took / bare,
        },
    )


def _remove(cluster: Cluster, name: str, report: Report) -> None:
    leaving = cluster[name]
    leaving.execute(
        "INSERT INTO app_keyed SELECT 100 + i, 'leaving', 0 FROM generate_series(1, %(rows)s) i",
        {"rows": _ROWS_BEFORE_REMOVAL},
    )
    began = time.monotonic()
    remove_node(cluster, name)
    took = time.monotonic() - began
    assert_rows_equal(cluster.members, TABLES)
    assert not leftovers(cluster.nodes, name)
    report.add(_KIND, f"removal right after {_ROWS_BEFORE_REMOVAL} rows", {"whole call s": took})
