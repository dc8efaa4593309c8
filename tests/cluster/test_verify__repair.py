"""Rows that are proven different are made as one node has them: with its origin and time, and on nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.calls import state
from support.clusters import MakeCluster
from support.documents import parse
from support.objects import at
from support.planting import plant
from support.scripts import psql
from support.secrets import find
from support.shell import Ended, run
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.cli import documents
from zodan_sql.sandbox import Cluster, Node

_DDL = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE SCHEMA "Odd {dsn:n1}";
CREATE TABLE kinds (id int PRIMARY KEY, b bytea, j jsonb, f float8, t timestamptz, n numeric(6, 2), a text[], x text,
    m mood, i interval, d date, c char(5), v bit(3), twice float8 GENERATED ALWAYS AS (f * 2) STORED);
CREATE TABLE "Odd {dsn:n1}"."T $do$" ("K""k" mood PRIMARY KEY, "a b" text);
CREATE TABLE identities (k bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int);
CREATE TABLE no_key (a int, b text);
CREATE TABLE numbered (k int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY UNIQUE, v text, own text DEFAULT 'mine');
CREATE TABLE child (k int PRIMARY KEY REFERENCES numbered ON DELETE CASCADE, n int REFERENCES numbered (n));
CREATE TABLE filtered (k int PRIMARY KEY, region int, shared text, own text);
CREATE TABLE watched (id int);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO watched VALUES (1); RETURN NULL; END';
CREATE TRIGGER watch AFTER INSERT OR UPDATE OR DELETE ON kinds FOR EACH STATEMENT EXECUTE FUNCTION watch();
"""
_ROWS = r"""
INSERT INTO kinds SELECT i, '\xdeadbeef', '{"b": 1.0, "a": [1, null]}', i / 3.0, '2020-02-03 04:05:06.789+05', i,
    ARRAY['x', NULL, 'a,b"c'], 'it''s \ $do$ {dsn:n1}', 'ok', '1 mon 2 days 03:04:05', '2020-01-31', 'ab', '101'
  FROM generate_series(1, 30) AS i;
UPDATE kinds SET x = repeat('long ', 4000) WHERE id = 3;
UPDATE kinds SET f = '-0', x = '', n = NULL WHERE id = 4;
UPDATE kinds SET f = 'NaN', t = 'infinity', x = NULL WHERE id = 5;
INSERT INTO "Odd {dsn:n1}"."T $do$" VALUES ('sad', '$do$'), ('ok', '{dsn:n1}');
INSERT INTO identities (v) SELECT i FROM generate_series(1, 10) AS i;
INSERT INTO no_key SELECT i % 5, 'row ' || i % 5 FROM generate_series(1, 40) AS i;
INSERT INTO filtered SELECT i, i % 2, 'shared', 'own' FROM generate_series(1, 20) AS i;
INSERT INTO numbered (k, v) SELECT i, 'v' FROM generate_series(1, 10) AS i;
INSERT INTO child SELECT i, i FROM generate_series(1, 10) AS i;
"""
_TABLES = ["kinds", '"Odd {dsn:n1}"."T $do$"', "identities", "no_key"]
#: What is changed on n2 alone, and on n3 alone, and how many rows that is.
_ON_N2 = (
    "UPDATE kinds SET b = NULL, j = '{}', f = 1, t = now(), n = 1, a = '{}', x = 'other ', m = 'sad', i = '1 s',"
    " d = '2000-01-01', c = 'x', v = '010' WHERE id = 1",
    "UPDATE kinds SET x = overlay(x PLACING 'L' FROM 15001) WHERE id = 3",
    "UPDATE kinds SET f = 0, x = NULL WHERE id = 4",
    "UPDATE kinds SET f = 1, x = '' WHERE id = 5",
    "DELETE FROM kinds WHERE id = 6",
    "INSERT INTO kinds (id, x) VALUES (99, 'extra')",
    'UPDATE "Odd {dsn:n1}"."T $do$" SET "a b" = NULL WHERE "K""k" = \'ok\'',
    "DELETE FROM identities WHERE k = 7",
    "UPDATE identities SET v = 0 WHERE k = 8",
    "INSERT INTO no_key VALUES (2, 'row 2'), (2, 'row 2')",
    "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 3)",
    "UPDATE filtered SET shared = 'x' WHERE k = 3",
)
_ON_N3 = ("UPDATE kinds SET x = 'third' WHERE id = 1", "DELETE FROM kinds WHERE id = 20")
_DIFFERENT = 13
_VERSION = """
SELECT c.timestamp, coalesce((SELECT n.node_name FROM spock.node AS n WHERE n.node_id = c.roident), c.roident::text)
  FROM kinds AS t CROSS JOIN pg_xact_commit_timestamp_origin(t.xmin) AS c WHERE t.id = %(id)s
"""


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes with the same rows."""
    made = make_module_cluster(members=3, blanks=0)
    for node in made.members:
        at(node, _DDL)
        sets = dict.fromkeys((*_TABLES[:3], "child"), "default")
        add_to_sets(node, sets | {"no_key": "default_insert_only"})
        node.execute("SELECT spock.repset_add_table('default', 'numbered', columns := '{k,n,v}')")
        node.execute(
            "SELECT spock.repset_add_table('default', 'filtered', columns := '{k,region,shared}',"
            " row_filter := 'region = 1')"
        )
    at(made["n1"], _ROWS)
    wait_level(made.members)
    return made


def verify(cluster: Cluster, *arguments: str) -> Ended:
    """Run zodan-sql verify through n3, where nothing is installed."""
    ended = run("verify", "--dsn", cluster["n3"].dsn(), *arguments)
    assert list(find(ended.out + ended.err)) == []
    return ended


def differ(cluster: Cluster) -> None:
    """Plant every kind of difference."""
    plant(cluster["n2"], *_ON_N2)
    plant(cluster["n3"], *_ON_N3)


def positions(cluster: Cluster) -> list[Any]:
    """Return every row of every table with the version that each node has of it."""
    return [
        node.execute(f"SELECT t.xmin::text, t.ctid::text, t::text FROM {table} AS t ORDER BY 1, 2, 3")
        for node in cluster.members
        for table in _TABLES
    ]


def _psql(node: Node, script: Path) -> str:
    """Run a file to its end, and return what psql said of errors."""
    return psql(node.engine, node.dsn(), "-v", "ON_ERROR_STOP=0", "-f", str(script)).stderr


def check_equal(cluster: Cluster) -> None:
    """Check that all rows are equal, and that nothing is left of a repair."""
    assert_rows_equal(cluster.members, _TABLES)
    shared = [
        node.execute("SELECT k, shared FROM filtered WHERE region = 1 ORDER BY k")
        + node.execute("SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'zodan repair%%'")
        for node in cluster.members
    ]
    assert shared == [shared[0]] * 3
    assert shared[0][-1] == (0,)


def test_the_plan_is_written_and_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    differ(cluster)
    before = positions(cluster), state(cluster.members)
    ended = verify(cluster, "--repair", "plan", "--like", "n1", "--output", str(tmp_path / "plan"))
    assert ended.code == 1, ended.err
    files = {path.name: path.read_text() for path in (tmp_path / "plan").iterdir()}
    assert set(files) == {"n2.sql", "n3.sql"}
    assert files["n2.sql"].count("\n-- insert ") == 3
    assert files["n2.sql"].count("\n-- delete ") == 2
    assert files["n2.sql"].count("\n-- update ") == 7
    assert (tmp_path / "plan" / "n2.sql").stat().st_mode & 0o077 == 0
    printed = verify(cluster, "--repair", "plan", "--like", "n1")
    assert printed.code == 1
    assert "public.kinds" not in printed.out.split("\n")[0]
    assert printed.out.startswith("-- Makes rows of node n2 as node n1 has them.")
    assert (positions(cluster), state(cluster.members)) == before


def test_applied_rows_have_the_origin_and_the_time_of_the_node_named(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    # A row of n3's, and one of n2's own, which n2 has lost.
    n3.execute("UPDATE kinds SET x = 'from n3' WHERE id = 10")
    n2.execute("UPDATE kinds SET x = 'from n2' WHERE id = 11")
    wait_level(cluster.members)
    plant(n2, "UPDATE kinds SET x = 'lost' WHERE id IN (10, 11)")
    watched = [node.execute("SELECT count(*) FROM watched") for node in cluster.members]
    on_n1 = n1.execute("SELECT t.xmin::text, t.ctid::text, t::text FROM kinds AS t ORDER BY t.id")
    ended = verify(cluster, "--repair", "plan", "--like", "n1", "--apply", "--json")
    assert ended.code == 0, ended.err + ended.out
    document = parse(ended.out, documents.VerifyDocument)
    assert {each["outcome"] for each in document["repairs"]} == {"repaired"}
    assert sum(table["different"] for table in document["tables"]) == _DIFFERENT + 2
    assert sum(table["compared"] for table in document["again"]) == _DIFFERENT + 2
    assert {table["result"] for table in document["again"]} == {"equal"}
    wait_level(cluster.members)
    check_equal(cluster)
    # Nobody else has written: no trigger fired, and n1 has every row in the version that it had.
    assert [node.execute("SELECT count(*) FROM watched") for node in cluster.members] == watched
    assert n1.execute("SELECT t.xmin::text, t.ctid::text, t::text FROM kinds AS t ORDER BY t.id") == on_n1
    for key, origin in ((1, "n1"), (6, "n1"), (10, "n3"), (11, "n2")):
        ((at, _),), ((time, from_node),) = (node.execute(_VERSION, {"id": key}) for node in (n1, n2))
        assert time == at, key
        if cluster.engine.is_real:
            assert from_node == origin, key
    # The streams go on, and take what is written from here on.
    n2.execute("UPDATE kinds SET x = 'later' WHERE id IN (1, 6, 10)")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, _TABLES)
    assert verify(cluster).code == 0


def test_the_files_do_the_same_in_psql(cluster: Cluster, tmp_path: Path) -> None:
    plant(cluster["n2"], "UPDATE kinds SET x = 'other' WHERE id = 12", "DELETE FROM kinds WHERE id = 13")
    plant(cluster["n2"], "DELETE FROM no_key WHERE ctid = (SELECT min(ctid) FROM no_key WHERE a = 1)")
    verify(cluster, "--repair", "plan", "--like", "n1", "--output", str(tmp_path))
    # A row that has changed meanwhile is left alone, and so is every row of another node.
    plant(cluster["n2"], "UPDATE kinds SET x = 'changed' WHERE id = 12")
    script = tmp_path / "n2.sql"
    n1 = cluster["n1"]
    before = n1.execute("SELECT t::text FROM kinds AS t ORDER BY id")
    assert "this is not node" in _psql(n1, script)
    assert n1.execute("SELECT t::text FROM kinds AS t ORDER BY id") == before
    said = _psql(cluster["n2"], script)
    assert said.count("it was left alone") == 1, said
    assert cluster["n2"].execute("SELECT x FROM kinds WHERE id = 12") == [("changed",)]
    rest = verify(cluster, "--json")
    document = parse(rest.out, documents.VerifyDocument)
    assert [row["key"] for table in document["tables"] for row in table["rows"]] == [{"id": "12"}]
    assert verify(cluster, "--repair", "plan", "--like", "n1", "--apply").code == 0
    check_equal(cluster)


def test_identity_columns_that_only_an_insert_writes(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    # This value differs without anybody's mistake: it is not published.
    for node in cluster.members:
        plant(node, f"UPDATE numbered SET own = 'of {node.name}'")
    versions = "SELECT t.xmin::text, t.ctid::text, t::text FROM numbered AS t ORDER BY k"
    children = "SELECT t.xmin::text, t.ctid::text, t::text FROM child AS t ORDER BY k"
    before = n1.execute(versions), [node.execute(children) for node in cluster.members]
    # One with another number, one with another value too, one with another value only.
    again = "INSERT INTO numbered (k, n, v, own) OVERRIDING SYSTEM VALUE VALUES "
    plant(n2, "DELETE FROM numbered WHERE k IN (2, 3)", f"{again} (2, 102, 'v', 'of n2'), (3, 103, 'w', 'of n2')")
    plant(n2, "UPDATE numbered SET v = 'x' WHERE k = 4")
    plant(n3, "DELETE FROM numbered WHERE k = 5", f"{again} (5, 105, '', 'of n3')")
    ended = verify(cluster, "--table", "numbered", "--repair", "plan", "--like", "n1", "--apply", "--json")
    assert ended.code == 0, ended.err + ended.out
    document = parse(ended.out, documents.VerifyDocument)
    done = [(each["node"], each["key"]["k"], each["action"], each["outcome"]) for each in document["repairs"]]
    assert sorted(done) == [
        *(("n2", key, "update", "repaired") for key in "234"),
        ("n3", "5", "update", "repaired"),
    ]
    wait_level(cluster.members)
    rows = "SELECT k, n, v FROM numbered ORDER BY k"
    assert [node.execute(rows) for node in cluster.members] == [[(i, i, "v") for i in range(1, 11)]] * 3
    for node in cluster.members:
        assert node.execute("SELECT DISTINCT own FROM numbered") == [(f"of {node.name}",)]
    # No foreign key has seen it, and no stream has sent it on.
    assert (n1.execute(versions), [node.execute(children) for node in cluster.members]) == before
    time = "SELECT pg_xact_commit_timestamp(xmin) FROM numbered WHERE k = 2"
    assert n2.execute(time) == n1.execute(time)
    # Both nodes go on.
    n2.execute("UPDATE numbered SET v = 'later' WHERE k IN (2, 5)")
    wait_level(cluster.members)
    assert verify(cluster, "--table", "numbered").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--apply",), 2, "--apply needs --repair plan"),
        (("--like", "n1"), 2, "--like needs --repair plan"),
        (("--repair", "plan"), 2, "--repair needs --like"),
        (("--repair", "plan", "--like", "n9"), 2, '"n9" is not one of the nodes compared'),
        (("--repair", "plan", "--like", "n3", "--nodes", "n1,n2"), 2, "They are n1, n2."),
        (("--repair", "plan", "--like", "n1", "--output", "/dev/null/x"), 2, "could not write"),
        (("--max-lag", "soon"), 2, '--max-lag is "soon"'),
    ],
)
def test_what_makes_no_sense_is_refused(cluster: Cluster, arguments: tuple[str, ...], code: int, words: str) -> None:
    if "--output" in arguments:
        plant(cluster["n2"], "UPDATE kinds SET x = 'a' WHERE id = 14")
    ended = verify(cluster, "--table", "kinds", *arguments)
    assert ended.code == code, ended.err
    assert words in ended.err


@pytest.mark.slow
def test_undecided_rows_are_not_repaired(cluster: Cluster) -> None:
    assert verify(cluster, "--repair", "plan", "--like", "n1", "--apply").code == 0
    plant(cluster["n3"], "UPDATE kinds SET x = 'b' WHERE id = 15")
    cluster["n3"].execute("SELECT spock.sub_disable('sub_n1_n3', true)")
    try:
        ended = verify(cluster, "--table", "kinds", "--repair", "plan", "--like", "n1", "--apply")
        assert ended.code == 2, ended.out + ended.err
        assert "0 of 0 repairs done" in ended.out
        assert cluster["n3"].execute("SELECT x FROM kinds WHERE id = 15") == [("b",)]
    finally:
        cluster["n3"].execute("SELECT spock.sub_enable('sub_n1_n3', true)")
        cluster.wait_replicating()
    assert verify(cluster, "--repair", "plan", "--like", "n1", "--apply").code == 0
    check_equal(cluster)
