"""What is copied is what was there, of every kind of table and value, whether in one piece or in parts."""

from __future__ import annotations

import psycopg
import pytest

from support.calls import add_node, call, exceptions, load_zodan, state
from support.clusters import MakeCluster
from support.joins import planned
from support.memory import COPYING, MemorySampler
from support.parameters import some_slow
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node

_LARGE_VALUES = ["blobs", "texts", "documents", "drafts"]
_ALL = """
CREATE SCHEMA "Odd ""1"" s";
CREATE TYPE mood AS ENUM ('sad', 'o''k', 'happy "x"');
CREATE DOMAIN short AS varchar(10) CHECK (length(VALUE) < 9);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "Odd ""1"" s"."Tab le {dsn:n1} $do$ %s" ("Id ""x"" y" int PRIMARY KEY, "select" text, "{result:1.x}" int);
INSERT INTO "Odd ""1"" s"."Tab le {dsn:n1} $do$ %s" SELECT i, 'v' || i, -i FROM generate_series(1, 50) i;
CREATE TABLE kinds (id int PRIMARY KEY, f4 real, f8 double precision, n numeric, m money, d date, ts timestamp,
    tz timestamptz, iv interval, b bytea, j json, jb jsonb, x xml, u uuid, bits bit(5), vb varbit, r int4range,
  mr int8multirange,
    ip inet, mac macaddr, p point, pol polygon, a int[], aa text[][], e mood, ea mood[], sh short, c pair,
  ca pair[],
    t text, ch char(5), one "char", na name, reg regclass, ts_ tsvector, o oid);
INSERT INTO kinds VALUES
 (1, 'NaN', '-Infinity', 'NaN', '-1.23', 'infinity', '-infinity', '2026-01-01 00:00+05',
  '1 mon -2 days 03:04:05.678', '\\x00ff5c27',
  '{"a":  1, "a": 2}', '{"k": [1, null, "x\\\\y"]}', '<a>&amp;</a>', '00000000-0000-0000-0000-000000000001',
  B'10101', B'1', '[1,5)',
  '{[1,2),[5,7)}', '10.0.0.1/8', '08:00:2b:01:02:03', '(1.1,2.2)', '((0,0),(1,1),(1,0))', '{1,NULL,3}',
  '{{a,"b,c"},{"d\\"e",NULL}}',
  'happy "x"', '{sad,"o''k"}', 'abc', '(1,"x,\\"y\\"")', ARRAY['(1,a)', NULL]::pair[],
  E'tab\\tnewline\\n\\\\N back\\\\slash', 'ab', 'z', 'nn',
  'pg_class', 'a:1 b:2', 4294967295),
 (2, 1.1, 0.1, 123456789012345678901234567890.123456789, '1', '4713-01-01 BC', '294276-12-31 23:59:59.999999',
  '1999-12-31 23:59:59.999999+00',
  '-1 year', '', 'null', 'null', NULL, NULL, B'00000', B'', 'empty', '{}', '::1', NULL, NULL, NULL, '{}', '{}',
  NULL, '{}', '', NULL, '{}',
  '', '', '', '', NULL, '', 0);
INSERT INTO kinds (id) VALUES (3);
INSERT INTO kinds (id, x) VALUES (4, '<?xml version="1.0" encoding="ISO-8859-1"?><a>ü</a>');
CREATE TABLE made (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int
    GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO made (a) SELECT i FROM generate_series(1, 30) i;
DELETE FROM made WHERE id % 3 = 0;
CREATE TABLE dropped (a int, id int PRIMARY KEY, b text, c int);
ALTER TABLE dropped DROP COLUMN b;
INSERT INTO dropped SELECT i, i, i FROM generate_series(1, 10) i;
ALTER TABLE dropped ADD COLUMN d text DEFAULT 'later';
CREATE TABLE keyless (v text);
INSERT INTO keyless SELECT 'same' FROM generate_series(1, 40);
CREATE TABLE empty (id int PRIMARY KEY);
CREATE TABLE bare ();
INSERT INTO bare DEFAULT VALUES;
INSERT INTO bare DEFAULT VALUES;
CREATE TABLE bared (a int);
INSERT INTO bared SELECT i FROM generate_series(1, 60000) i;
ALTER TABLE bared DROP COLUMN a;
CREATE TABLE parted (id int, k text, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a') PARTITION BY RANGE (id);
CREATE TABLE parted_a1 PARTITION OF parted_a FOR VALUES FROM (0) TO (50);
CREATE TABLE parted_a2 PARTITION OF parted_a FOR VALUES FROM (50) TO (1000);
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
INSERT INTO parted SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, repeat('x', i) FROM generate_series(1, 200) i;
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
INSERT INTO parent SELECT i FROM generate_series(1, 10) i;
INSERT INTO child SELECT i, i FROM generate_series(1, 10) i;
CREATE TABLE ruled (id int PRIMARY KEY, v text);
INSERT INTO ruled SELECT i, 'v' FROM generate_series(1, 10) i;
CREATE RULE no_more AS ON INSERT TO ruled DO INSTEAD NOTHING;
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TABLE triggered (id int PRIMARY KEY, v text);
INSERT INTO triggered SELECT i, 'quiet' FROM generate_series(1, 10) i;
CREATE TRIGGER shout BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION shout();
CREATE TABLE wide (id int PRIMARY KEY, v text);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, repeat(md5(i::text), 30000) FROM generate_series(1, 24) i;
CREATE TABLE large (id bigint PRIMARY KEY, a int, v text);
CREATE INDEX large_a ON large (a) WHERE a > 3;
CREATE UNIQUE INDEX large_v ON large (lower(v), id) INCLUDE (a);
ALTER INDEX large_v ALTER COLUMN 1 SET STATISTICS 500;
ALTER TABLE large CLUSTER ON large_pkey;
COMMENT ON INDEX large_a IS 'kept';
INSERT INTO large SELECT i, i % 10, repeat('x', 400) FROM generate_series(1, 60000) i;
DELETE FROM large WHERE id % 7 = 0;
"""
_TABLES = (
    '"Odd ""1"" s"."Tab le {dsn:n1} $do$ %s"',
    "kinds",
    "made",
    "dropped",
    "keyless",
    "empty",
    "bare",
    "bared",
    "parted",
    "parted_a1",
    "parted_a2",
    "parted_rest",
    "parent",
    "child",
    "ruled",
    "triggered",
    "wide",
    "large",
)
_INDEXES = (
    "SELECT c.oid::regclass::text, pg_get_indexdef(c.oid), i.indisvalid, i.indisready, i.indisprimary,"
    " i.indisclustered,"
    " i.indisreplident, obj_description(c.oid), (SELECT array_agg(a.attstattarget ORDER BY attnum) FROM pg_attribute a"
    " WHERE attrelid = c.oid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname !~ '^(pg_|information_schema|spock|pglogical|zodan)' ORDER BY 1"
)
_NONSENSE: list[dict[str, object]] = [
    *({"jobs": number} for number in (0, -1, 65)),
    *({"max_rate": rate} for rate in (0, -1, 65535)),
    *({"max_lag": lag} for lag in ("0 s", "-1 min")),
    *({"copy": way} for way in ("fast", "", None)),
]


def _make(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=1, blanks=1)
    with cluster["n1"].connect() as connection:
        for statement in _ALL.strip().split(";\n"):
            connection.execute(statement.encode())
        if not _generates(cluster["n1"]):
            connection.execute("ALTER TABLE made ALTER twice DROP EXPRESSION")
    for table in _TABLES:
        set_name = "default_insert_only" if table in {"keyless", "bare", "bared"} else "default"
        cluster["n1"].execute(
            "SELECT spock.repset_add_table(%(set)s, %(table)s) WHERE NOT EXISTS"
            " (SELECT FROM spock.tables WHERE relid = %(table)s::regclass AND set_name = %(set)s)",
            {"set": set_name, "table": table},
        )
    return cluster


def _generates(node: Node) -> bool:
    """Return whether Spock replicates tables with generated columns."""
    return bool(node.execute("SELECT spock.spock_version_num() >= 60000")[0][0])


def _analyzed(node: Node) -> list[str]:
    """Return the tables with rows, and the roots of partitions, that have no statistics."""
    return [
        str(name)
        for (name,) in node.execute(
            "SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|information_schema|spock|pglogical|zodan)'"
            " AND c.relname <> 'empty' AND (c.reltuples <= 0 OR NOT EXISTS (SELECT FROM pg_statistic s"
            " WHERE s.starelid = c.oid) AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid"
            " AND a.attnum > 0 AND NOT a.attisdropped)) ORDER BY 1"
        )
    ]


def _units(node: Node) -> list[tuple[str, int, int]]:
    return node.execute(
        "SELECT phase_name, count(*), max(attempts) FROM zodan.unit WHERE state = 'done' GROUP BY 1 ORDER BY 1"
    )


@pytest.mark.parametrize(("jobs", "copy"), [pytest.param(1, "rows", marks=pytest.mark.slow), (3, "rows"), (2, "psql")])
def test_every_kind(make_cluster: MakeCluster, jobs: int, copy: str) -> None:
    cluster = _make(make_cluster)
    n1, n2 = cluster.nodes
    indexes = n1.execute(_INDEXES)
    add_node(cluster, "n1", "n2", jobs=jobs, copy=copy)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, _TABLES)
    assert not exceptions(cluster.members)
    assert n2.execute(_INDEXES) == indexes
    # The large table came in parts, under one snapshot; each unit once.
    parts = n2.execute("SELECT count(*), count(DISTINCT lsn) FROM zodan.unit WHERE title LIKE 'public.large, part%'")
    assert parts[0][0] > 1
    assert parts[0][1] == 1
    assert [(phase, attempts) for phase, _, attempts in _units(n2)] == [("analyzed", 1), ("copied", 1), ("indexes", 1)]
    assert _analyzed(n2) == []
    copied = n2.execute("SELECT sum(rows) FROM zodan.unit WHERE phase_name = 'copied'")[0][0]
    assert copied == sum(n1.execute(f"SELECT count(*) FROM ONLY {table}")[0][0] for table in _TABLES)
    # What xml prints lacks the encoding that it declares; the value as a text has it.
    declared = "SELECT x::text FROM kinds WHERE id = 4"
    assert n2.execute(declared) == n1.execute(declared) == [('<?xml version="1.0" encoding="ISO-8859-1"?><a>ü</a>',)]
    found = n2.execute("SELECT table_name, result, why FROM zodan.verify(%(dsn)s)", {"dsn": n1.dsn()})
    assert [each for each in found if each[1] != "equal"] == []
    # What came keeps moving, in both directions, whatever key it has.
    n1.execute("UPDATE large SET a = -1 WHERE id < 100")
    n2.execute("DELETE FROM parted WHERE id < 20")
    n1.execute("UPDATE kinds SET t = 'changed'")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, _TABLES)
    assert n2.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'zodan%'") == []
    assert n1.execute("SELECT slot_name FROM pg_replication_slots WHERE temporary OR slot_name LIKE '%zodan%'") == []


def test_filters_and_column_lists(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    with n1.connect() as connection:
        connection.execute("CREATE TABLE filtered (id int PRIMARY KEY, region text, secret text DEFAULT 'none')")
        connection.execute(
            "INSERT INTO filtered SELECT i, CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, 's'"
            " FROM generate_series(1, 100) i"
        )
        connection.execute(
            "SELECT spock.repset_remove_table(set_name, 'filtered') FROM spock.tables"
            " WHERE relname = 'filtered' AND set_name IS NOT NULL"
        )
        connection.execute(
            "SELECT spock.repset_add_table('default', 'filtered', false, '{id,region}', $$region = 'eu'$$)"
        )
    add_node(cluster, "n1", "n2")
    assert n2.execute("SELECT count(*), min(region), max(region), min(secret), max(secret) FROM filtered") == [
        (50, "eu", "eu", "none", "none")
    ]


def test_limits_that_make_no_sense(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    load_zodan(n2)
    arguments, _ = planned(n1, n2)
    before = state(cluster.nodes)
    for limit in _NONSENSE:
        with pytest.raises(psycopg.Error) as raised:
            call(n2, "spock.add_node", **arguments, **limit)
        assert raised.value.sqlstate == "ZD004", limit
    assert n2.execute("SELECT count(*) FROM zodan.operation") == [(0,)]
    assert state(cluster.nodes) == before


def test_no_piece_waits_for_its_turn_on_disk(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    n1.execute("CREATE TABLE large (id bigint PRIMARY KEY, v text NOT NULL)")
    n1.execute("INSERT INTO large SELECT i, repeat('x', 100) FROM generate_series(1, 150000) AS i")
    n1.execute("SELECT spock.repset_add_table('default', 'large')")
    load_zodan(n2)
    # Workers of one build share their rows by files.
    n2.execute("ALTER DATABASE app SET max_parallel_maintenance_workers = 0")
    add_node(cluster, "n1", "n2")
    wait_level(cluster.members)
    assert n2.execute("SELECT count(*) FROM large") == [(150000,)]
    assert n2.execute("SELECT temp_files FROM pg_stat_database WHERE datname = 'app'") == [(0,)]


@pytest.mark.parametrize("copy", some_slow(["rows", "psql"], quick=("rows",)))
def test_no_piece_is_larger_than_it_should_be_in_memory(make_cluster: MakeCluster, copy: str) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    with n1.connect() as connection:
        # A hundredth of that is stored: of one in a single block, of the other in every row.
        connection.execute("CREATE TABLE blobs (id int PRIMARY KEY, v text)")
        connection.execute("INSERT INTO blobs SELECT i, repeat(md5(i::text), 120000) FROM generate_series(1, 25) AS i")
        connection.execute("CREATE TABLE texts (id int PRIMARY KEY, v text)")
        connection.execute("INSERT INTO texts SELECT i, repeat('text ', 10000) FROM generate_series(1, 2000) AS i")
        # Behind many narrow rows, and behind those that are in the same block.
        for table, rows in (("documents", 20000), ("drafts", 100)):
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v bytea, j jsonb)".encode())
            connection.execute(f"INSERT INTO {table} SELECT i FROM generate_series(1, {rows}) AS i".encode())
            connection.execute(
                f"INSERT INTO {table} SELECT -i, CASE i % 2 WHEN 0 THEN convert_to(w.words, 'UTF8') END,"
                " CASE i % 2 WHEN 1 THEN to_jsonb(w.words) END FROM generate_series(1, 80) AS i"
                " CROSS JOIN LATERAL (SELECT repeat(md5(i::text), 30000)) AS w(words)".encode()
            )
    add_to_sets(n1, dict.fromkeys(_LARGE_VALUES, "default"))
    load_zodan(n2)
    with MemorySampler(n1, n2, COPYING) as sampler:
        add_node(cluster, "n1", "n2", copy=copy)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, _LARGE_VALUES)
    assert n1.execute("SELECT pg_table_size('blobs') < 20000000, pg_table_size('texts') < 20000000") == [(True, True)]
    assert 0 < sampler.most["new node"] < 150e6
