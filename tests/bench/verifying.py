"""How fast rows are compared, on one core and side by side, and what that does to the commits of writers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from psycopg.types.json import Jsonb

from bench.report import Report
from support.calls import load_zodan
from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Node

_KIND = "comparing the rows of three nodes with zodan.verify"
_BYTES = 200
_TABLE = "bench_rows"
_DDL = f"""
CREATE TABLE {_TABLE} (
    id bigint PRIMARY KEY, customer int, amount numeric(12, 2), at timestamptz, name text, filler text)
"""
_FILL = f"""
INSERT INTO {_TABLE} SELECT i, i %% 1000, i / 7.0, '2020-01-01'::timestamptz + i * interval '1 s', 'customer ' || i,
       repeat(md5(i::text), 4) FROM generate_series(1, %(rows)s) AS i
"""
_WRITE = f"UPDATE {_TABLE} SET customer = customer + 1 WHERE id = %s"
#: How often commits are timed with a comparison and without.
_ROUNDS = 6
_PAUSE_S = 0.005


def measure(cluster: Cluster, size: int, report: Report) -> None:
    """Measure the hash alone, the comparison of tables at rest, and the commits of a writer without it and with it."""
    rows = size // _BYTES
    for node in cluster.members:
        node.execute(_DDL)
        node.execute(f"SELECT spock.repset_add_table('default', '{_TABLE}')")
    n1 = cluster["n1"]
    n1.execute(_FILL, {"rows": rows})
    wait_level(cluster.members, 600.0)
    for node in cluster.members:
        node.execute(f"VACUUM ANALYZE {_TABLE}")
    load_zodan(n1)
    _measure_hash(n1, rows, report)
    for jobs in (1, 2):
        began = time.monotonic()
        _compare(n1, jobs)
        took = time.monotonic() - began
        report.add(_KIND, f"{rows} rows at rest, jobs {jobs}", {"s": took, "rows a second on each node": rows / took})
    _measure_commits(n1, report)


def _measure_commits(node: Node, report: Report) -> None:
    """Measure the slowest commit while rows are compared, and as long without; the medians of some rounds."""
    busy, calm = [], []
    for _ in range(_ROUNDS):
        began = time.monotonic()
        busy.append(_slowest(node, partial(_compare, node, 1)))
        took = time.monotonic() - began
        calm.append(_slowest(node, partial(time.sleep, took)))
    report.add(
        _KIND,
        f"slowest commit of a writer, median of {_ROUNDS}",
        {"ms without": median(calm) * 1000, "ms": median(busy) * 1000, "times": median(busy) / median(calm)},
    )


def _measure_hash(node: Node, rows: int, report: Report) -> None:
    """Measure the processor time of the statement that hashes a chunk, over the whole table."""
    with node.connect() as connection:
        for statement in ("SELECT zodan.set_session()", "SELECT zodan.set_reader()"):
            row = connection.execute(statement.encode()).fetchone()
            assert row is not None
            connection.execute(row[0])
        facts = connection.execute("SELECT zodan.describe_tables(ARRAY[%s])", [f"public.{_TABLE}"]).fetchone()
        assert facts is not None
        described = connection.execute(facts[0]).fetchone()
        assert described is not None
        columns = sorted(described[0][f"public.{_TABLE}"]["columns"], key=lambda one: str(one["name"]))
        for exact in (False, True):
            row = connection.execute(
                "SELECT zodan.hash_range(p_place => '1', p_digest => zodan.write_digest(%s, %s), p_source => %s,"
                " p_condition => 'true', p_most => %s)",
                [Jsonb(columns), exact, f"ONLY public.{_TABLE}", str(10 * rows)],
            ).fetchone()
            assert row is not None
            began = _processor_s(connection.info.backend_pid)
            connection.execute(row[0])
            took = _processor_s(connection.info.backend_pid) - began
            what = "md5" if exact else "hashtextextended"
            report.add(
                _KIND, f"the hash of {rows} rows alone, {what}", {"s": took, "rows a second and core": rows / took}
            )


def _processor_s(pid: int) -> float:
    """Return the processor time that a process of this machine has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _compare(node: Node, jobs: int) -> None:
    rows = node.execute(
        "SELECT result FROM zodan.verify(%(dsn)s, jobs => %(jobs)s) WHERE row_key IS NULL",
        {"dsn": node.dsn(), "jobs": jobs},
    )
    assert {row[0] for row in rows} <= {"equal", "undecided"}, rows


def _slowest(node: Node, meanwhile: Callable[[], None]) -> float:
    """Return the seconds of the slowest commit of a writer while something goes on."""
    ended = threading.Event()
    slowest = [0.0]

    def write() -> None:
        with node.connect() as connection:
            key = 0
            while not ended.wait(_PAUSE_S):
                key += 1
                began = time.monotonic()
                connection.execute(_WRITE, [key])
                slowest[0] = max(slowest[0], time.monotonic() - began)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        meanwhile()
    finally:
        ended.set()
        thread.join()
    return slowest[0]
