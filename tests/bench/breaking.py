"""How much is copied again when a call is killed at nine tenths of the copy, and called again."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg

from bench.copies import end_join, join_arguments, new_server
from bench.copying import LIMITED
from bench.filling import Data
from bench.proxy import Proxy
from bench.report import Report
from support.calls import call
from zodan_sql.sandbox import Cluster, Node

_KIND = "copies killed at 90 % and called again, at 10 MB/s a connection"
_SHARE = 0.9
_REST_S = 0.02
_BUDGET_S = 60.0
# The file of a table grows before anybody else sees the rows.
_BYTES = """
SELECT coalesce(sum(pg_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
 WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""
# What the journal counts, whole units: of a unit that was broken off, not all had come.
_AGAIN = """
SELECT (sum((attempts - 1) * bytes) / sum(bytes))::float, (max(bytes) / 1e6)::float
  FROM zodan.unit WHERE phase_name = 'copied'
"""
# What was written: it counts rows of transactions that were broken off, and those that were emptied again.
_WRITTEN = """
SELECT (sum(s.n_tup_ins) / sum(c.reltuples) - 1)::float
  FROM pg_stat_user_tables AS s JOIN pg_class AS c ON c.oid = s.relid
 WHERE s.schemaname = 'public' AND c.reltuples > 0
"""


def measure(cluster: Cluster, data: Data, report: Report) -> None:
    """Kill the caller's session, call again, and see in the journal and the tables what was copied more than once."""
    source = cluster["n1"]
    with Proxy(source.port, LIMITED) as proxy, new_server(cluster) as new:
        arguments = join_arguments(source, new, proxy.port, 4)
        began = time.monotonic()
        came = _call_and_kill(new, arguments, source.execute(_BYTES)[0][0])
        killed_after = time.monotonic() - began
        began = time.monotonic()
        call(new, "spock.add_node", **arguments)
        took = time.monotonic() - began
        again, largest = new.execute(_AGAIN)[0]
        written = new.execute(_WRITTEN)[0][0]
        end_join(cluster, new, data)
    report.add(
        _KIND,
        data.name,
        {
            "there when killed %": 100 * came,
            "copied again %": 100 * again,
            "rows written again %": 100 * written,
            "largest unit MB": largest,
            "first call s": killed_after,
            "second call s": took,
        },
    )


def _call_and_kill(new: Node, arguments: dict[str, Any], size: int) -> float:
    """Call, kill the caller when so much of ``size`` bytes has come, and return how much has."""
    connection = new.connect()
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    errors: list[psycopg.Error] = []

    def run() -> None:
        try:
            connection.execute(f"CALL spock.add_node({names})".encode(), arguments)
        except psycopg.Error as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with new.connect() as watching:
        came = 0
        while came < _SHARE * size:
            assert thread.is_alive(), f"the call ended before it was killed: {errors}"
            time.sleep(_REST_S)
            (came,) = watching.execute(_BYTES.encode()).fetchone() or (0,)
        watching.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    thread.join(_BUDGET_S)
    assert errors, "the call ended before it was killed"
    connection.close()
    return came / size
