"""Every planted difference is found and named by its key, every row that is equal is not, and nothing is changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from support.calls import load_zodan, state
from support.clusters import MakeCluster
from support.documents import parse
from support.objects import at
from support.planting import plant
from support.secrets import find
from support.shell import Ended, run
from support.tables import add_to_sets, wait_level
from zodan_sql.cli import documents
from zodan_sql.sandbox import Cluster

#: Tables that are equal, of whatever is hard to compare. n2 has other columns before, n3 another order of them.
_KINDS = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
CREATE TABLE kinds (id int PRIMARY KEY, {columns});
CREATE TABLE composite (a text, b timestamptz, c numeric, v text, PRIMARY KEY (a, b, c));
CREATE SCHEMA "Odd {{dsn:n1}}";
CREATE TABLE "Odd {{dsn:n1}}"."T $x$" ("K""k" mood PRIMARY KEY, "a b" int);
CREATE TABLE texts (k text COLLATE {collation} PRIMARY KEY, v text);
CREATE TABLE domains (k positive PRIMARY KEY, v int);
CREATE TABLE identities (k bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int,
    twice int GENERATED ALWAYS AS (v * 2) STORED);
CREATE TABLE no_rows (k int PRIMARY KEY);
CREATE TABLE no_key (a int, b text);
CREATE TABLE big (k int PRIMARY KEY, v int, filler text);
CREATE TABLE parts (k int, region int, v text, PRIMARY KEY (k, region)) PARTITION BY LIST (region);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (2);
CREATE TABLE deep (k int, region int, v text, PRIMARY KEY (k, region)) PARTITION BY LIST (region);
CREATE TABLE deep_1 PARTITION OF deep FOR VALUES IN (1) PARTITION BY RANGE (k);
CREATE TABLE deep_1_low PARTITION OF deep_1 FOR VALUES FROM (0) TO (30);
CREATE TABLE deep_1_high PARTITION OF deep_1 FOR VALUES FROM (30) TO (100);
CREATE TABLE deep_2 PARTITION OF deep FOR VALUES IN (2);
CREATE TABLE filtered (k int PRIMARY KEY, region int, shared text, own text);
CREATE TABLE hidden (k int PRIMARY KEY, v text, own int);
CREATE TABLE apart (k int PRIMARY KEY);
"""
_COLUMNS = (
    "b bytea",
    "j jsonb",
    "f float8",
    "t timestamptz",
    "n numeric",
    "a text[]",
    "x text",
    "m mood",
    "i interval",
    "d date",
)
_SET = [
    "kinds",
    "composite",
    '"Odd {dsn:n1}"."T $x$"',
    "texts",
    "domains",
    "identities",
    "no_rows",
    "big",
    "parts",
    "deep",
]
_ROWS = """
INSERT INTO kinds SELECT i, '\\xdeadbeef', '{"b": 1.0, "a": [1, null]}', i / 3.0, '2020-02-03 04:05:06.789+05', i,
    ARRAY['x', NULL, 'a,b"c'], 'text', 'ok', '1 mon 2 days 03:04:05', '2020-01-31' FROM generate_series(1, 20) AS i;
UPDATE kinds SET f = 'Infinity', n = 'NaN', t = 'infinity', x = '' WHERE id = 1;
UPDATE kinds SET f = 1e-308, n = 1e100, t = '4000-01-01 BC', x = NULL WHERE id = 2;
UPDATE kinds SET f = 0.1::float8 + 0.2::float8, x = repeat('long ', 4000) WHERE id = 3;
INSERT INTO composite SELECT 'x' || i % 3, '2020-01-01'::timestamptz + i * interval '1 h', i, 'v'
  FROM generate_series(1, 300) AS i;
INSERT INTO "Odd {dsn:n1}"."T $x$" VALUES ('sad', 1), ('ok', 2);
INSERT INTO texts SELECT chr(65 + i % 60) || i, 'v' FROM generate_series(1, 2500) AS i;
INSERT INTO domains SELECT i, i FROM generate_series(1, 10) AS i;
INSERT INTO identities (v) SELECT i FROM generate_series(1, 10) AS i;
INSERT INTO no_key SELECT i % 50, 'row ' || i % 50 FROM generate_series(1, 400) AS i;
INSERT INTO big SELECT i, i, repeat('x', 50) FROM generate_series(1, 30000) AS i;
INSERT INTO parts SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 50) AS i;
INSERT INTO deep SELECT i, 1 + i % 2, 'v' FROM generate_series(1, 50) AS i;
INSERT INTO filtered SELECT i, i % 2, 'shared', 'own' FROM generate_series(1, 20) AS i;
INSERT INTO hidden SELECT i, 'v', i FROM generate_series(1, 20) AS i;
"""


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Iterator[Cluster]:
    """Return three nodes with the same rows, which store and print them differently."""
    made = make_module_cluster(members=3, blanks=0)
    for node, columns, collation, zone in zip(
        made.members,
        (_COLUMNS, ("gone text", *_COLUMNS), _COLUMNS[::-1]),
        ('"C"', '"C"', '"POSIX"'),
        ("UTC", "Asia/Kolkata", "America/New_York"),
        strict=True,
    ):
        at(node, _KINDS.format(columns=", ".join(columns), collation=collation))
        at(node, "ALTER TABLE kinds DROP COLUMN IF EXISTS gone")
        for setting in (f"timezone = '{zone}'", "datestyle = 'German'", "extra_float_digits = -5"):
            at(node, f"ALTER DATABASE {node.dbname} SET {setting}")
        add_to_sets(node, dict.fromkeys(_SET, "default") | {"no_key": "default_insert_only"})
        node.execute(
            "SELECT spock.repset_add_table('default', 'filtered', columns := '{k,region,shared}',"
            " row_filter := 'region = 1')"
        )
        # Its filter keeps no row where what it reads does not come.
        node.execute("SELECT spock.repset_add_table('default', 'hidden', columns := '{k,v}', row_filter := 'own > 5')")
    at(made["n1"], _ROWS)
    wait_level(made.members)
    # What the filter and the column list leave out is each node's own.
    plant(
        made["n2"],
        "INSERT INTO filtered VALUES (100, 0, 'mine', 'mine')",
        "UPDATE filtered SET own = 'mine' WHERE k > 10",
    )
    load_zodan(made["n2"])
    yield made


def verify(cluster: Cluster, *tables: str, **given: Any) -> list[tuple[Any, ...]]:
    """Call zodan.verify on n2, through n1, and return what is not equal: table, key, result and nodes."""
    names = ", ".join(f"{name} => %({name})s" for name in given)
    rows = cluster["n2"].execute(
        "SELECT table_name, row_key, result, nodes, compared, equal, different, undecided, why FROM zodan.verify("
        f"%(dsn)s, tables => %(tables)s{', ' + names if names else ''})",
        {"dsn": cluster["n1"].dsn(), "tables": list(tables) or None} | given,
    )
    of_tables = [row for row in rows if row[1] is None]
    assert all(row[4] == row[5] + row[6] + row[7] for row in of_tables), of_tables
    assert list(find(str(rows))) == []
    return [row[:4] for row in rows if row[2] != "equal"]


def test_rows_that_are_equal_are_equal_however_they_are_stored(cluster: Cluster) -> None:
    before = state(cluster.members)
    assert verify(cluster) == []
    assert state(cluster.members) == before
    compared = cluster["n3"].execute("SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'zodan verify'")
    assert compared == [(0,)]


#: A statement on one node alone; table, key, and what differs on whom.
_PLANTED = {
    "changed value": ("n2", "UPDATE big SET v = 0 WHERE k = 17171", "big", {"k": "17171"}, ("v", "17171", "0")),
    "missing row": ("n3", "DELETE FROM big WHERE k = 29999", "big", {"k": "29999"}, None),
    "extra row": ("n1", "INSERT INTO big VALUES (40000, 1, '')", "big", {"k": "40000"}, None),
    "NULL against empty": ("n2", "UPDATE kinds SET x = NULL WHERE id = 1", "kinds", {"id": "1"}, ("x", "", None)),
    "empty against NULL": ("n2", "UPDATE kinds SET x = '' WHERE id = 2", "kinds", {"id": "2"}, ("x", None, "")),
    "minus zero": ("n3", "UPDATE kinds SET f = '-0' WHERE id = 4", "kinds", {"id": "4"}, ("f", "0", "-0")),
    "NaN": ("n1", "UPDATE kinds SET f = 'NaN' WHERE id = 5", "kinds", {"id": "5"}, ("f", "1.6666666666666667", "NaN")),
    "trailing space": ("n2", "UPDATE kinds SET x = 'text ' WHERE id = 6", "kinds", {"id": "6"}, ("x", "text", "text ")),
    "scale": ("n2", "UPDATE kinds SET n = 7.0 WHERE id = 7", "kinds", {"id": "7"}, ("n", "7", "7.0")),
    "element": (
        "n3",
        "UPDATE kinds SET a[2] = 'NULL' WHERE id = 8",
        "kinds",
        {"id": "8"},
        ("a", '{x,NULL,"a,b\\"c"}', '{x,"NULL","a,b\\"c"}'),
    ),
    "column of another": ("n2", "UPDATE kinds SET m = 'sad' WHERE id = 9", "kinds", {"id": "9"}, ("m", "ok", "sad")),
    "partition": (
        "n2",
        "UPDATE parts SET v = 'w' WHERE k = 10",
        "parts_1",
        {"k": "10", "region": "1"},
        ("v", "v", "w"),
    ),
    "filtered": ("n3", "UPDATE filtered SET shared = '' WHERE k = 3", "filtered", {"k": "3"}, ("shared", "shared", "")),
    "hidden by a filter": ("n3", "UPDATE hidden SET v = 'w' WHERE k = 10", "hidden", {"k": "10"}, ("v", "v", "w")),
    "odd names": (
        "n3",
        'UPDATE "Odd {dsn:n1}"."T $x$" SET "a b" = 3 WHERE "K""k" = \'ok\'',
        '"Odd {dsn:n1}"."T $x$"',
        {'K"k': "ok"},
        ("a b", "2", "3"),
    ),
    "composite key": (
        "n3",
        "DELETE FROM composite WHERE c = 150",
        "composite",
        {"a": "x0", "b": "2020-01-07 06:00:00+00", "c": "150"},
        None,
    ),
    "domain": ("n3", "UPDATE domains SET v = 0 WHERE k = 5", "domains", {"k": "5"}, ("v", "5", "0")),
}


def test_each_planted_difference_is_found_and_named(cluster: Cluster) -> None:
    at(cluster["n1"], "UPDATE kinds SET f = 0 WHERE id = 4")
    wait_level(cluster.members)
    for node, statement, *_ in _PLANTED.values():
        plant(cluster[node], statement)
    plant(cluster["n2"], "UPDATE kinds SET x = overlay(x PLACING 'L' FROM 15001) WHERE id = 3")
    found = {(table, json.dumps(key, sort_keys=True)): nodes for table, key, result, nodes in verify(cluster) if key}
    for name, (planted, _, table, key, differs) in _PLANTED.items():
        full = table if "." in table else f"public.{table}"
        nodes = found.pop((full, json.dumps(key, sort_keys=True)), None)
        assert nodes is not None, f"{name} was not found"
        assert set(nodes) == {"n1", "n2", "n3"}
        if differs is None:
            has = {node for node in nodes if nodes[node] is not None}
            assert has == ({planted} if name == "extra row" else set(nodes) - {planted})
            continue
        column, was, now = differs
        for node in nodes:
            assert nodes[node]["row"] == {column: now if node == planted else was}, name
            assert nodes[node]["committed"] is not None
            assert nodes[node]["origin"] == ("planted" if node == planted else "n1"), name
    ((table, key), nodes), *more = found.items()
    assert (table, key, more) == ("public.kinds", '{"id": "3"}', [])
    toasted = {node: has["row"]["x"] for node, has in nodes.items()}
    assert toasted["n1"] == toasted["n3"] != toasted["n2"]
    assert toasted["n1"][:100] == toasted["n2"][:100]


def test_a_table_without_a_key_is_a_multiset(cluster: Cluster) -> None:
    assert verify(cluster, "no_key") == []
    plant(
        cluster["n2"],
        "INSERT INTO no_key VALUES (7, 'row 7')",
        "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 9)",
    )
    plant(cluster["n3"], "INSERT INTO no_key VALUES (7, '')")
    (_, _, result, _), *rows = verify(cluster, "public.no_key")
    assert result == "different"
    counts = {
        (nodes[node]["row"]["b"], node): nodes[node]["rows"] for _, _, _, nodes in rows for node in nodes if nodes[node]
    }
    assert counts == {
        ("row 7", "n1"): 8,
        ("row 7", "n2"): 9,
        ("row 7", "n3"): 8,
        ("row 9", "n1"): 8,
        ("row 9", "n2"): 7,
        ("row 9", "n3"): 8,
        ("", "n3"): 1,
    }


def test_some_tables_and_some_nodes(cluster: Cluster) -> None:
    plant(cluster["n3"], "UPDATE texts SET v = '' WHERE k = 'A60'")
    assert verify(cluster, "texts", nodes=["n1", "n2"]) == []
    ((_, _, result, _), (_, key, _, nodes)) = verify(cluster, "texts", nodes=["n1", "n3"], jobs=1)
    assert (result, key, set(nodes)) == ("different", {"k": "A60"}, {"n1", "n3"})


@pytest.mark.parametrize(
    ("names", "compared"),
    [
        (["parts", "parts_1"], {"parts_1", "parts_2"}),
        (["texts", "public.texts"], {"texts"}),
        (["deep"], {"deep_1_low", "deep_1_high", "deep_2"}),
        (["deep_1"], {"deep_1_low", "deep_1_high"}),
        (["public.deep_1", "DEEP", "deep_1_low"], {"deep_1_low", "deep_1_high", "deep_2"}),
    ],
)
def test_each_name_counts_whatever_else_is_named(cluster: Cluster, names: list[str], compared: set[str]) -> None:
    found = cluster["n2"].execute(
        "SELECT DISTINCT table_name FROM zodan.verify(%(dsn)s, tables => %(tables)s)",
        {"dsn": cluster["n1"].dsn(), "tables": names},
    )
    assert {name for (name,) in found} == {f"public.{name}" for name in compared}


def test_a_table_that_differs_throughout_is_compared_no_further(cluster: Cluster) -> None:
    plant(cluster["n3"], "UPDATE identities SET v = 0", "DELETE FROM composite")
    rows = verify(cluster, "identities", "composite", most=50, jobs=2)
    results = {table: result for table, key, result, _ in rows if key is None}
    assert results == {"public.identities": "different", "public.composite": "different"}
    assert sum(key is not None for _, key, *_ in rows) < 310


@pytest.mark.parametrize(
    ("given", "sqlstate", "words"),
    [
        ({"tables": ["apart"]}, "ZD120", 'no table "apart"'),
        ({"tables": ["nowhere.at_all"]}, "ZD120", 'no table "nowhere.at_all"'),
        ({"nodes": ["n1"]}, "ZD004", "no two nodes"),
        ({"nodes": ["n1", "n9"]}, "ZD004", '"n9" is not a member'),
        ({"jobs": 0}, "ZD004", "jobs is 0"),
        ({"most": 0}, "ZD004", "most is 0"),
        ({"nodes": ["n1", None]}, "ZD004", "a name of nodes is null"),
        ({"tables": [""]}, "ZD004", '"" is no name of a table'),
        ({"tables": ["texts", None]}, "ZD004", '"" is no name of a table'),
        ({"tables": ["public.texts.k.v)"]}, "ZD004", '"public.texts.k.v)" is no name of a table'),
    ],
)
def test_what_makes_no_sense_is_refused(cluster: Cluster, given: dict[str, Any], sqlstate: str, words: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        verify(cluster, *given.pop("tables", ()), **given)
    assert raised.value.sqlstate == sqlstate
    assert words in str(raised.value.diag.message_primary)
    assert raised.value.diag.message_hint


def test_tables_that_are_not_alike_are_named(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    at(n3, "ALTER TABLE apart ADD only_here int; ALTER TABLE no_rows RENAME TO elsewhere")
    at(n1, "SELECT spock.repset_add_table('default', 'apart')")
    try:
        with pytest.raises(psycopg.Error) as raised:
            verify(cluster, "apart", "no_rows")
        assert raised.value.sqlstate == "ZD121"
        detail = str(raised.value.diag.message_detail)
        assert 'public.apart: column "only_here" is missing on n1, n2.' in detail
        assert "public.no_rows: it is missing on n3." in detail
    finally:
        at(n3, "ALTER TABLE apart DROP only_here; ALTER TABLE elsewhere RENAME TO no_rows")
        at(n1, "SELECT spock.repset_remove_table('default', 'apart')")


def shell(cluster: Cluster, *arguments: str) -> Ended:
    """Run zodan-sql verify through n3, which has no Zodan."""
    ended = run("verify", "--dsn", cluster["n3"].dsn(), *arguments)
    assert list(find(ended.out + ended.err)) == []
    return ended


def test_the_shell_needs_nothing_installed_and_exits_with_what_it_found(cluster: Cluster) -> None:
    before = state(cluster.members)
    plant(cluster["n1"], "UPDATE parts SET v = 'z' WHERE k = 11")
    different = shell(cluster, "--table", "parts")
    assert different.code == 1, different.err
    assert 'public.parts_2 {"k": "11", "region": "2"}: different' in different.out
    assert '    n1  {"v": "z"}, committed ' in different.out
    ended = shell(cluster, "--table", "parts_2", "--nodes", "n1,n2", "--json")
    document = parse(ended.out, documents.VerifyDocument)
    (table,) = document["tables"]
    assert (ended.code, document["different"], table["different"], table["compared"]) == (1, 1, 1, 25)
    assert [(row["key"], row["result"]) for row in table["rows"]] == [({"k": "11", "region": "2"}, "different")]
    wrong = shell(cluster, "--table", "apart", "--json")
    assert wrong.code == 3
    assert '"sqlstate": "ZD120"' in wrong.out
    assert state(cluster.members) == before


def test_a_stream_that_stands_leaves_rows_undecided(cluster: Cluster) -> None:
    cluster["n3"].execute("SELECT spock.sub_disable('sub_n1_n3', true)")
    try:
        cluster["n1"].execute("INSERT INTO no_rows VALUES (1)")
        ended = shell(cluster, "--table", "no_rows")
        assert ended.code == 2, ended.out + ended.err
        assert "the subscription of node n3 from node n1 is disabled" in ended.out
        equal = shell(cluster, "--table", "no_rows", "--table", "domains", "--nodes", "n1,n2", "--jobs", "1")
        assert (equal.code, "2 tables, 11 rows: 2 equal, 0 different" in equal.out) == (0, True), equal.out + equal.err
    finally:
        cluster["n3"].execute("SELECT spock.sub_enable('sub_n1_n3', true)")


def test_a_node_that_is_down_is_named(cluster: Cluster) -> None:
    """The last test of this cluster: it stops a node."""
    cluster["n3"].stop()
    with pytest.raises(psycopg.Error) as raised:
        verify(cluster)
    assert raised.value.sqlstate == "ZD101"
    assert 'node "n3" cannot be reached' in str(raised.value.diag.message_primary)
    assert verify(cluster, "domains", nodes=["n1", "n2"]) == []
