"""The tables that cluster tests write to, and the comparison of every row on every node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zodan_sql.sandbox import Cluster, Node, wait_until

#: Rows with a primary key: inserted, updated, deleted.
KEYED = "app_keyed"
#: Rows without any key: inserted only, so that a change delivered twice shows.
KEYLESS = "app_keyless"
#: Rows inserted on one node and updated on another a second later.
CHAIN = "app_chain"
TABLES = (KEYED, KEYLESS, CHAIN)

_DDL = f"""
CREATE TABLE {KEYED} (id bigint PRIMARY KEY, node text NOT NULL, value integer NOT NULL, filler text);
CREATE TABLE {KEYLESS} (node text NOT NULL, number bigint NOT NULL, filler text);
CREATE TABLE {CHAIN} (id bigint PRIMARY KEY, inserted_by text NOT NULL, updated_by text);
"""
_SETS = {KEYED: "default", KEYLESS: "default_insert_only", CHAIN: "default"}
_LEVEL_BUDGET_S = 60.0


def create_tables(cluster: Cluster) -> None:
    """Create the tables on every member and see that each is in its replication set."""
    for node in cluster.members:
        create_on(node)
    for node in cluster.members:
        add_to_sets(node, _SETS)


def create_on(node: Node) -> None:
    """Create the tables on one server, and add them to no set."""
    with node.connect() as connection:
        connection.execute(_DDL)


def add_to_sets(node: Node, sets: dict[str, str], *, partitions: bool = True) -> None:
    """Add tables to replication sets of a node, those that are not there yet, with or without their partitions."""
    with node.connect() as connection:
        for table, set_name in sets.items():
            connection.execute(
                "SELECT spock.repset_add_table(%(set)s, to_regclass(%(table)s), include_partitions => %(all)s)"
                " WHERE NOT EXISTS (SELECT FROM spock.tables"
                " WHERE relid = to_regclass(%(table)s) AND set_name = %(set)s)",
                {"set": set_name, "table": table, "all": partitions},
            )


def fill(node: Node, rows: int, filler_bytes: int = 200) -> None:
    """Insert ``rows`` rows with negative keys, which no writer uses."""
    node.execute(
        f"INSERT INTO {KEYED} SELECT -i, %(name)s, 0, repeat('x', %(size)s) FROM generate_series(1, %(rows)s) i",
        {"name": node.name, "size": filler_bytes, "rows": rows},
    )


def wait_level(nodes: Sequence[Node], budget_s: float = _LEVEL_BUDGET_S) -> None:
    """Wait until every node has applied what each other one has committed up to now."""
    reached = {node.name: node.execute("SELECT spock.sync_event(true)")[0][0] for node in nodes}
    wait_until(lambda: _behind(nodes, reached), budget_s, "all nodes to be level")


def checksum(node: Node, table: str) -> tuple[int, str]:
    """Return the number of rows of a table and a digest of them; equal rows count, order does not."""
    (row,) = node.execute(
        f"SELECT count(*), coalesce(md5(string_agg(h, '' ORDER BY h)), '') FROM"
        f" (SELECT md5(t::text) AS h FROM {table} t) AS rows"
    )
    return int(row[0]), str(row[1])


def assert_rows_equal(nodes: Sequence[Node], tables: Iterable[str] = TABLES) -> None:
    """Compare every row of ``tables`` on all ``nodes``."""
    differences = []
    for table in tables:
        sums = {node.name: checksum(node, table) for node in nodes}
        if len(set(sums.values())) != 1:
            differences.append(f"{table}: {sums} {_example(nodes, table)}")
    assert not differences, "; ".join(differences)


def _behind(nodes: Sequence[Node], reached: dict[str, str]) -> str:
    behind = []
    for node in nodes:
        progress = node.execute(
            "SELECT n.node_name, o.remote_lsn FROM spock.subscription s"
            " JOIN spock.node n ON n.node_id = s.sub_origin"
            " LEFT JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name"
        )
        for provider, lsn in progress:
            if provider in reached and (lsn is None or _number(lsn) < _number(reached[provider])):
                behind.append(f"{node.name} has {provider} up to {lsn} of {reached[provider]}")
    return ", ".join(behind)


def _number(lsn: str) -> int:
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _example(nodes: Sequence[Node], table: str) -> str:
    """Show a few rows that are on one node and not on the first, for the message of a failed test."""
    rows = {node.name: {str(row[0]) for row in node.execute(f"SELECT t::text FROM {table} t")} for node in nodes}
    first = nodes[0].name
    shown = []
    for node in nodes[1:]:
        missing, extra = rows[first] - rows[node.name], rows[node.name] - rows[first]
        shown.append(
            f"{node.name} lacks {len(missing)} {sorted(missing)[:3]}, has {len(extra)} more {sorted(extra)[:3]}"
        )
    return "; ".join(shown)
