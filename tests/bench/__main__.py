"""Measure joins and removals on a sandbox, and print them with their ratios to what Spock itself needs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from support.calls import add_node, call, exceptions, leftovers, load_zodan, remove_node
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, detect_engine

#: From the first step to the end of those of a phase.
_MOMENTS = """
SELECT extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'switch') - o.started_at),
       extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'replicating') - o.started_at),
       extract(epoch FROM o.finished_at - o.started_at),
       extract(epoch FROM max(s.finished_at) FILTER (WHERE s.phase_name = 'resume')
                        - max(s.started_at) FILTER (WHERE s.phase_name = 'pause'))
  FROM zodan.operation AS o JOIN zodan.step AS s USING (operation_id)
 WHERE o.node = %(node)s AND o.kind = 'add_node' GROUP BY o.operation_id
"""
_ROWS_BEFORE_REMOVAL = 300_000
_MANY_TABLES = 5000
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


def main() -> None:
    """Run every measurement once and print a table."""
    engine = detect_engine()
    console = Console(width=160)
    console.print(engine.description)
    table = Table("what", "data level s", "all replicating s", "whole call s", "flip s", "ratio to a bare subscription")
    with tempfile.TemporaryDirectory(prefix="zodan-") as folder:
        Path(folder).chmod(0o755)
        with Cluster.create(Path(folder) / "idle", ["n1", "n2"], ["n3", "n4", "n5", "n6"], engine) as cluster:
            create_tables(cluster)
            fill(cluster["n1"], 1000)
            wait_level(cluster.members)
            bare = _bare_subscription(cluster["n1"], cluster["n6"])
            for name in ("n3", "n4", "n5"):
                _join(cluster, name, f"{name}, idle", bare, table)
            assert_rows_equal(cluster.members, TABLES)
            _remove(cluster, table)
        with Cluster.create(Path(folder) / "busy", ["n1", "n2"], ["n3", "n4", "n5"], engine) as cluster:
            create_tables(cluster)
            fill(cluster["n1"], 20_000)
            wait_level(cluster.members)
            with Writers(cluster.members[:2]) as writers:
                for name in ("n3", "n4", "n5"):
                    _join(cluster, name, f"{name}, two writers", bare, table)
            wait_level(cluster.members)
            assert_rows_equal(cluster.members, TABLES)
            assert not writers.failures, writers.failures[:3]
            assert not exceptions(cluster.members)
        with Cluster.create(Path(folder) / "many", ["n1", "n2", "n3", "n4"], ["n5"], engine) as cluster:
            _examine_many(cluster, console)
    console.print(table)
    console.print(f"writes during the busy joins: {writers.writes}, failed: {writers.failed}")


def _bare_subscription(provider: Node, subscriber: Node) -> float:
    """Measure what Spock needs to copy to one subscriber and start replicating, without Zodan."""
    began = time.monotonic()
    subscriber.execute("SELECT spock.node_create('bare', %(dsn)s)", {"dsn": subscriber.dsn()})
    subscriber.execute(
        "SELECT spock.sub_create('sub_bare', %(dsn)s, synchronize_structure := true, synchronize_data := true)",
        {"dsn": provider.dsn()},
    )
    while subscriber.execute("SELECT status FROM spock.sub_show_status('sub_bare')")[0][0] != "replicating":
        time.sleep(0.01)
    took = time.monotonic() - began
    subscriber.execute("SELECT spock.sub_drop('sub_bare')")
    subscriber.execute("SELECT spock.node_drop('bare')")
    return took


def _join(cluster: Cluster, name: str, what: str, bare: float, table: Table) -> None:
    load_zodan(cluster[name])
    began = time.monotonic()
    add_node(cluster, "n1", name)
    took = time.monotonic() - began
    level, replicating, _, flip = (float(value) for value in cluster[name].execute(_MOMENTS, {"node": name})[0])
    table.add_row(f"join of {what}", *(f"{s:.2f}" for s in (level, replicating, took, flip)), f"{took / bare:.1f}")


def _remove(cluster: Cluster, table: Table) -> None:
    leaving = cluster["n5"]
    leaving.execute(
        "INSERT INTO app_keyed SELECT 100 + i, 'leaving', 0 FROM generate_series(1, %(rows)s) i",
        {"rows": _ROWS_BEFORE_REMOVAL},
    )
    began = time.monotonic()
    remove_node(cluster, "n5")
    took = time.monotonic() - began
    counts = {node.name: node.execute("SELECT count(*) FROM app_keyed")[0][0] for node in cluster.members}
    table.add_row(f"removal right after {_ROWS_BEFORE_REMOVAL} rows: {counts}", "", "", f"{took:.2f}", "", "")
    assert not leftovers(cluster.nodes, "n5")


def _examine_many(cluster: Cluster, console: Console) -> None:
    """Measure the health check of five nodes, four of which have thousands of tables, and a query of one's catalog."""
    for node in cluster.members:
        with node.connect() as connection:
            connection.autocommit = True
            connection.execute("SELECT set_config('spock.enable_ddl_replication', 'off', false)")
            connection.execute(_FILL_MANY.replace("{tables}", str(_MANY_TABLES)).encode())
    n1, n5 = cluster["n1"], cluster["n5"]
    load_zodan(n5)
    given = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n5", "new_node_dsn": n5.dsn()}
    began = time.monotonic()
    call(n5, "spock.health_check", **given)
    took = time.monotonic() - began
    began = time.monotonic()
    n1.execute("SELECT attrelid::regclass, attname FROM pg_attribute")
    bare = time.monotonic() - began
    console.print(
        f"health check, five nodes, {_MANY_TABLES} tables: {took:.1f} s, {took / bare:.0f} reads of pg_attribute"
    )


if __name__ == "__main__":
    main()
