"""Nodes that sort the texts of a key differently: each row is compared, is named once, and counts once."""

from __future__ import annotations

from typing import Any

import pytest

from support.calls import load_zodan
from support.clusters import MakeCluster
from support.parameters import some_slow
from support.planting import plant
from support.tables import add_to_sets, wait_level
from zodan_sql.sandbox import Cluster

#: The rows of each table: they are cut into chunks, and these into pieces.
_TABLES = {"single": 3000, "pairs": 3000}
#: Upper and lower case, digits and signs.
_KEY = "encode(decode(md5({}::text), 'hex'), 'base64')"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes, of which the second one sorts as people do, and Zodan on the first."""
    made = make_module_cluster(members=3, blanks=0)
    for node, collation in zip(made.members, ('"C"', '"und-x-icu"', '"C"'), strict=True):
        text = f"k text COLLATE {collation}"
        node.execute(f"CREATE TABLE single ({text} PRIMARY KEY, i int, v text)")
        node.execute(f"CREATE TABLE pairs ({text}, i int, v text, PRIMARY KEY (k, i))")
        add_to_sets(node, dict.fromkeys(_TABLES, "default"))
    for table, rows in _TABLES.items():
        key = _KEY.format("(i / 3)" if table == "pairs" else "i")
        made["n1"].execute(f"INSERT INTO {table} SELECT {key}, i, 'v' FROM generate_series(1, {rows}) AS i")
    wait_level(made.members)
    load_zodan(made["n1"])
    return made


def verify(cluster: Cluster, table: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Compare a table, and return what is said of it, and the number of each row that is not equal with its result."""
    of_table, *rows = cluster["n1"].execute(
        "SELECT table_name, row_key ->> 'k', result, compared, different, undecided, why FROM zodan.verify("
        "%(dsn)s, tables => %(tables)s)",
        {"dsn": cluster["n1"].dsn(), "tables": [table]},
    )
    return of_table[2:], [(row[1], row[2]) for row in rows]


@pytest.mark.parametrize("table", some_slow(_TABLES, quick=("single",)))
def test_rows_that_are_equal_are_compared_once(cluster: Cluster, table: str) -> None:
    assert verify(cluster, table) == (("equal", _TABLES[table], 0, 0, None), [])


@pytest.mark.parametrize("table", some_slow(_TABLES, quick=("single",)))
def test_each_row_that_differs_is_named_once(cluster: Cluster, table: str) -> None:
    plant(cluster["n2"], f"UPDATE {table} SET v = 'w' WHERE i = 1717", f"DELETE FROM {table} WHERE i = 2")
    plant(cluster["n1"], f"DELETE FROM {table} WHERE i = 3")
    plant(cluster["n3"], f"INSERT INTO {table} VALUES ('only here', 0, 'v')")
    expected = [
        (key, "different") for (key,) in cluster["n3"].execute(f"SELECT k FROM {table} WHERE i IN (0, 2, 3, 1717)")
    ]
    of_table, rows = verify(cluster, table)
    assert sorted(rows) == sorted(expected)
    assert of_table == ("different", _TABLES[table] + 1, 4, 0, None)
