"""Clusters of two members, n1 and n2, with much to copy, and the comparison of all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Engine, Node, form_mesh

#: Of rows, without their indexes.
BYTES = int(os.environ.get("ZODAN_BENCH_MB", "1100")) << 20
SMALL_TABLES = 5000
#: Tables of a few rows, made before the large ones and after them.
BESIDE = tuple(f"beside_{number}" for number in range(1, 9))

T = TypeVar("T")

_ROW_BYTES = 221
_FEW_ROWS = 20
#: Spock copies all tables in one transaction, which locks every table and every index.
_CONF = {"max_locks_per_transaction": "256"}
_CREATE = """
CREATE TABLE {table} (id bigint PRIMARY KEY, customer int NOT NULL, made timestamptz NOT NULL, note text NOT NULL)
"""
# Equal on every node, and in no order but that of the primary key.
_INSERT = """
INSERT INTO {table}
SELECT i, hashint8(i) & 1048575, timestamptz '2024-01-01 00:00:00Z' + (hashint8(-i) & 16777215) * interval '1 s',
       md5(i::text) || md5((-i)::text) || md5('a' || i) || md5('b' || i) || md5('c' || i)
  FROM generate_series(1::bigint, {rows}) AS i
"""
_INDEX = "CREATE INDEX ON {table} (customer); CREATE INDEX ON {table} (made)"
_MANY = """
DO $$ BEGIN
    FOR i IN 1 .. {tables} LOOP
        EXECUTE format('CREATE TABLE small_%s (id int PRIMARY KEY, a int, b text)', i);
        EXECUTE format('INSERT INTO small_%s SELECT j, %s, md5(j::text) FROM generate_series(1, {rows}) AS j', i, i);
        IF i % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$
"""
_PUBLISH = """
DO $$ DECLARE
    t record;
BEGIN
    FOR t IN SELECT c.oid::regclass AS name, row_number() OVER (ORDER BY c.oid) AS i FROM pg_class AS c
              WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
                AND NOT EXISTS (SELECT FROM spock.tables AS s WHERE s.relid = c.oid AND s.set_name = 'default') LOOP
        PERFORM spock.repset_add_table('default', t.name);
        IF t.i % 100 = 0 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$
"""
# An index that cannot be used is not one.
_INDEXES = """
SELECT count(*) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
 WHERE c.relnamespace = 'public'::regnamespace AND i.indisvalid AND i.indisready
"""
_SIZES = """
SELECT sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint, count(*)
  FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Data:
    """What a cluster is filled with: the bytes of each large table, and how many small ones."""

    name: str
    large: dict[str, int] = field(default_factory=dict)
    has_beside: bool = False
    small: int = 0

    @property
    def beside(self) -> tuple[str, ...]:
        """The tables of a few rows that are there besides."""
        return BESIDE if self.has_beside else ()

    @property
    def tables(self) -> tuple[str, ...]:
        """The name of every table."""
        return (*self.large, *self.beside, *(f"small_{number}" for number in range(1, self.small + 1)))


FOUR = Data(
    "four tables",
    {
        "bench_items": int(BYTES * 0.4),
        "bench_orders": int(BYTES * 0.3),
        "bench_events": int(BYTES * 0.2),
        "bench_people": int(BYTES * 0.1),
    },
    has_beside=True,
)
ONE = Data("one table", {"bench_one": BYTES})
LITTLE = Data("one table, a twentieth", {"bench_one": BYTES // 20})
MANY = Data(f"{SMALL_TABLES} small tables", small=SMALL_TABLES)


@contextmanager
def filled(base: Path, data: Data, engine: Engine) -> Iterator[Cluster]:
    """Make the cluster. Each member fills itself before they replicate."""
    with Cluster.create(base, ["n1", "n2"], [], engine, mesh=False, extra_conf=_CONF) as cluster:
        at_once(lambda node: _fill(node, data), cluster.members)
        form_mesh(cluster.members)
        for node in cluster.members:
            node.execute(_PUBLISH)
        wait_level(cluster.members)
        yield cluster


def fill_beside(node: Node, tables: Iterable[str] = BESIDE) -> None:
    """Insert the few rows of the tables beside."""
    for table in tables:
        node.execute(_INSERT.format(table=table, rows=_FEW_ROWS))


def sizes(node: Node) -> str:
    """Say how much there is."""
    rows, indexes, tables = node.execute(_SIZES)[0]
    return f"{tables} tables, {rows / 1e6:.0f} MB, their indexes {indexes / 1e6:.0f} MB"


def assert_equal(nodes: Sequence[Node], data: Data) -> None:
    """Compare the number and the sum of all rows of every table on all ``nodes``, and their indexes."""
    first, *others = at_once(lambda node: _sums(node, data.tables), nodes)
    for node, sums in zip(nodes[1:], others, strict=True):
        different = {name: (first[name], sums[name]) for name in first if first[name] != sums[name]}
        assert not different, f"{nodes[0].name} and {node.name} differ: {different}"


def at_once(action: Callable[[Node], T], nodes: Sequence[Node]) -> list[T]:
    """Do it on all nodes at a time."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        return list(pool.map(action, nodes))


def _fill(node: Node, data: Data) -> None:
    half = len(data.beside) // 2
    with node.connect() as connection:
        for table in (*data.beside[:half], *data.large, *data.beside[half:]):
            connection.execute(_CREATE.format(table=table).encode())
            rows = data.large.get(table, _FEW_ROWS * _ROW_BYTES) // _ROW_BYTES
            connection.execute(_INSERT.format(table=table, rows=rows).encode())
        for table in data.large:
            connection.execute(_INDEX.format(table=table).encode())
        if data.small:
            connection.execute(_MANY.format(tables=data.small, rows=_FEW_ROWS).encode())
        connection.execute("VACUUM ANALYZE")


def _sums(node: Node, tables: Iterable[str]) -> dict[str, tuple[int, int]]:
    with node.connect() as connection:
        sums = {
            table: connection.execute(f"SELECT count(*), sum(hashtext(t::text)) FROM {table} AS t".encode()).fetchone()
            for table in tables
        }
        indexes = connection.execute(_INDEXES).fetchone()
    assert indexes is not None
    return {**sums, "usable indexes": (indexes[0], 0)}  # type: ignore[dict-item]
