"""How long the health check takes where there are many tables."""

from __future__ import annotations

import time

from bench.filling import SMALL_TABLES
from bench.report import Report
from support.calls import call, load_zodan
from zodan_sql.sandbox import Cluster

_FILL_MANY = """
DO $$ BEGIN
    FOR i IN 1 .. {tables} LOOP
        EXECUTE format('CREATE TABLE many_%s (id int PRIMARY KEY, a int, b text)', i);
        PERFORM spock.repset_add_table('default', format('many_%s', i));
        IF i % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$
"""


def measure(cluster: Cluster, report: Report) -> None:
    """Measure it on five nodes, four of which have thousands of tables, and a query of one's catalog."""
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute("SELECT set_config('spock.enable_ddl_replication', 'off', false)")
            connection.execute(_FILL_MANY.replace("{tables}", str(SMALL_TABLES)).encode())
    n1, n5 = cluster["n1"], cluster["n5"]
    load_zodan(n5)
    given = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n5", "new_node_dsn": n5.dsn()}
    began = time.monotonic()
    call(n5, "spock.health_check", **given)
    took = time.monotonic() - began
    began = time.monotonic()
    n1.execute("SELECT attrelid::regclass, attname FROM pg_attribute")
    bare = time.monotonic() - began
    report.add(
        "the health check",
        f"five nodes, {SMALL_TABLES} tables",
        {"s": took, "reads of pg_attribute": took / bare},
    )
