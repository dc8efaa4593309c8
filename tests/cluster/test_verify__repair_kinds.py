"""Rows that are hard to repair: keys that are equal and print differently, unique values that move, and large rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.clusters import MakeCluster
from support.documents import parse
from support.objects import at
from support.planting import plant
from support.scripts import psql
from support.secrets import find
from support.shell import run
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.cli import documents
from zodan_sql.cli.documents import VerifyDocument
from zodan_sql.sandbox import Cluster, Node

_DDL = """
CREATE EXTENSION citext SCHEMA public;
CREATE TABLE pairs (a text, b text, v text, PRIMARY KEY (a, b));
CREATE TABLE cased (k citext PRIMARY KEY, v text);
CREATE TABLE scaled (k numeric PRIMARY KEY, v text);
CREATE TABLE documents (k jsonb PRIMARY KEY, v text);
CREATE TABLE moved (k int PRIMARY KEY, u text UNIQUE);
CREATE TABLE swapped (k int PRIMARY KEY, u int UNIQUE,
    own text DEFAULT '');
CREATE TABLE "Odd {dsn:n1}" (n int GENERATED ALWAYS AS IDENTITY UNIQUE, k int PRIMARY KEY, "r r" int4range,
    EXCLUDE USING gist ("r r" WITH &&));
CREATE TABLE stamped (k int PRIMARY KEY, v text);
CREATE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / 2';
CREATE TABLE halves (k int PRIMARY KEY, h int GENERATED ALWAYS AS (half(k)) STORED);
CREATE TABLE counted (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, h int GENERATED ALWAYS AS (half(k)) STORED);
CREATE TABLE large (k int PRIMARY KEY, v text, filler text);
CREATE TYPE shade AS ENUM ('red', 'rose', 'blue');
CREATE FUNCTION name_shade(shade) RETURNS text IMMUTABLE LANGUAGE sql
    AS 'SELECT CASE WHEN $1 < ''blue''::shade THEN ''reddish'' ELSE ''blue'' END';
CREATE CAST (shade AS text) WITH FUNCTION name_shade(shade);
CREATE TABLE shades (k shade PRIMARY KEY, s shade, v text);
CREATE TABLE padded (k bpchar PRIMARY KEY, v bpchar);
CREATE FUNCTION is_positive(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0';
CREATE FUNCTION is_checked(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN is_positive($1); END';
CREATE DOMAIN checked AS int CHECK (is_checked(VALUE));
CREATE TABLE checks (k checked PRIMARY KEY, v checked);
CREATE FUNCTION name_place(point) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT ''here''';
CREATE CAST (point AS text) WITH FUNCTION name_place(point);
CREATE TABLE placed (zodan_place int PRIMARY KEY, t int, p point);
CREATE TABLE columnless ();
CREATE FUNCTION day_of(timestamptz) RETURNS date IMMUTABLE LANGUAGE sql AS 'SELECT $1::date';
CREATE TABLE dated (k int PRIMARY KEY, u int UNIQUE, d timestamptz);
CREATE INDEX dated_day ON dated (day_of(d));
"""
_TABLES = {
    **dict.fromkeys(("pairs", "scaled", "documents", "moved", '"Odd {dsn:n1}"', "stamped", "halves"), "default"),
    **dict.fromkeys(("counted", "large", "cased", "shades", "padded", "checks", "placed", "dated"), "default"),
    "columnless": "default_insert_only",
}
_ROWS = """
INSERT INTO pairs SELECT a, b, 'v' FROM generate_series(1, 18) AS a, generate_series(1, 18) AS b;
INSERT INTO cased VALUES ('Word', 'v'), ('other', 'v');
INSERT INTO scaled VALUES (1.00, 'v'), (2, 'v');
INSERT INTO documents VALUES ('{"a": 1}', 'v'), ('[2.0]', 'v');
INSERT INTO moved SELECT i, 'u' || i FROM generate_series(1, 150) AS i;
INSERT INTO swapped SELECT i, i FROM generate_series(1, 20) AS i;
INSERT INTO "Odd {dsn:n1}" (k, "r r") SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 5) AS i;
INSERT INTO stamped SELECT i, 'v' FROM generate_series(1, 20) AS i;
INSERT INTO halves SELECT i FROM generate_series(1, 5) AS i;
INSERT INTO counted (k) OVERRIDING SYSTEM VALUE SELECT i FROM generate_series(1, 5) AS i;
INSERT INTO shades VALUES ('red', 'red', 'v'), ('rose', 'red', 'v'), ('blue', 'blue', 'v');
INSERT INTO padded SELECT i || ' ', 'v ' FROM generate_series(1, 5) AS i;
INSERT INTO checks SELECT i, i FROM generate_series(1, 1200) AS i;
INSERT INTO placed SELECT i, i, point(i, 0) FROM generate_series(1, 3000) AS i;
INSERT INTO columnless SELECT FROM generate_series(1, 3);
INSERT INTO dated SELECT i, i, timestamptz '2026-01-01 00:30+09' + i * interval '1 hour' FROM generate_series(0, 23) i;
"""


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return two nodes with the same rows."""
    made = make_module_cluster(members=2, blanks=0, extra_conf={"timezone": "Asia/Tokyo"})
    for node in made.members:
        at(node, _DDL)
        add_to_sets(node, _TABLES)
        node.execute("SELECT spock.repset_add_table('default', 'swapped', columns := '{k,u}')")
    at(made["n1"], _ROWS)
    wait_level(made.members)
    return made


def verify(cluster: Cluster, *arguments: str, code: int = 0) -> VerifyDocument:
    """Run zodan-sql verify through n2, and return its document."""
    ended = run("verify", "--dsn", cluster["n2"].dsn(), "--json", *arguments)
    assert list(find(ended.out + ended.err)) == []
    assert ended.code == code, ended.err + ended.out
    return parse(ended.out, documents.VerifyDocument)


def repair(cluster: Cluster, *arguments: str, code: int = 0) -> VerifyDocument:
    """Make n2 as n1, and return the document."""
    return verify(cluster, "--repair", "plan", "--like", "n1", "--apply", *arguments, code=code)


def outcomes(document: VerifyDocument) -> set[str | None]:
    """Return what became of the repairs."""
    return {each["outcome"] for each in document["repairs"]}


def check_equal(cluster: Cluster) -> None:
    """Check that all rows are equal, and that nothing is left of a repair."""
    assert_rows_equal(cluster.members, [*_TABLES])
    verify(cluster)
    origins = "SELECT roname FROM pg_replication_origin WHERE roname LIKE 'zodan repair%%'"
    assert [node.execute(origins) for node in cluster.members] == [[], []]


def test_rows_of_other_batches_are_no_rows_of_this_one(cluster: Cluster) -> None:
    surplus = "INSERT INTO pairs SELECT 'x', i, '' FROM generate_series(1, 5) AS i"
    plant(cluster["n2"], "UPDATE pairs SET v = 'other'", surplus)
    document = repair(cluster)
    assert outcomes(document) == {"repaired"}
    keys = [(each["key"]["a"], each["key"]["b"]) for each in document["repairs"]]
    assert len(keys) == len(set(keys)) == 18 * 18 + 5
    check_equal(cluster)


#: What is changed on n2 alone: keys that are equal and print differently, and unique values of other rows.
_MOVED = (
    "UPDATE cased SET k = 'WORD' WHERE k = 'word'",
    "UPDATE cased SET v = 'other' WHERE k = 'other'",
    "UPDATE scaled SET k = 1 WHERE k = 1",
    "UPDATE scaled SET k = 2.000 WHERE k = 2",
    """UPDATE documents SET k = '{"a": 1.0}' WHERE k = '{"a": 1}'""",
    "UPDATE documents SET k = '[2]' WHERE k = '[2]'",
    # More rows than one call repairs; each value is in a row that is to be deleted.
    "UPDATE moved SET k = k + 1000",
)


def run_file(cluster: Cluster, folder: Path) -> str:
    """Make n2 as n1 by psql, which stops at an error if the file lets it, and return what it said."""
    verify(cluster, "--repair", "plan", "--like", "n1", "--output", str(folder), code=1)
    return psql(cluster.engine, cluster["n2"].dsn(), "-f", str(folder / "n2.sql")).stderr


@pytest.mark.parametrize("way", ["apply", "file"])
def test_what_is_surplus_goes_before_what_is_missing_comes(cluster: Cluster, tmp_path: Path, way: str) -> None:
    plant(cluster["n2"], *_MOVED)
    if way == "apply":
        assert outcomes(repair(cluster)) == {"repaired"}
    else:
        said = run_file(cluster, tmp_path)
        assert "ERROR" not in said, said
    check_equal(cluster)


#: Two rows that have each other's value, three of a ring, a chain up and one down, and ranges that overlap.
_SWAPPED = (
    "UPDATE swapped SET u = -u WHERE k < 20",
    "UPDATE swapped SET u = CASE k WHEN 1 THEN 2 WHEN 2 THEN 1 WHEN 3 THEN 4 WHEN 4 THEN 5 WHEN 5 THEN 3"
    " WHEN 6 THEN 7 WHEN 7 THEN 8 WHEN 8 THEN 9 WHEN 9 THEN 106"
    " WHEN 10 THEN 110 WHEN 11 THEN 10 WHEN 12 THEN 11 WHEN 13 THEN 12 ELSE k END WHERE k < 20",
    "DELETE FROM swapped WHERE k = 20",
    "UPDATE swapped SET u = 20 WHERE k = 19",
    'UPDATE "Odd {dsn:n1}" SET "r r" = int4range(1000 + k * 10, 1010 + k * 10)',
    'UPDATE "Odd {dsn:n1}" SET "r r" = int4range((6 - k) * 10, (6 - k) * 10 + 10)',
)


@pytest.mark.parametrize("way", ["apply", "file"])
def test_rows_that_have_the_unique_values_of_each_other(cluster: Cluster, tmp_path: Path, way: str) -> None:
    n1, n2 = cluster.members
    # Rows of the ring have other times; the first is that of row 4.
    for key in (4, 3, 5, 1, 2):
        n1.execute("UPDATE swapped SET u = u WHERE k = %(k)s", {"k": key})
    wait_level(cluster.members)
    plant(n2, "UPDATE swapped SET own = 'mine'", *_SWAPPED)
    before = n1.execute("SELECT t.xmin::text, t.ctid::text FROM swapped AS t ORDER BY k")
    if way == "apply":
        document = repair(cluster)
        assert outcomes(document) == {"repaired"}
        assert {table["result"] for table in document["again"] or []} == {"equal"}
    else:
        said = run_file(cluster, tmp_path)
        assert "ERROR" not in said, said
        assert "WARNING" not in said, said
    rows = "SELECT k, u FROM swapped ORDER BY k"
    assert [node.execute(rows) for node in cluster.members] == [[(i, i) for i in range(1, 21)]] * 2
    # What is not published stays, and n1 has sent nothing.
    assert n2.execute("SELECT DISTINCT own FROM swapped WHERE k < 20") == [("mine",)]
    assert n1.execute("SELECT t.xmin::text, t.ctid::text FROM swapped AS t ORDER BY k") == before
    times = "SELECT k, pg_xact_commit_timestamp(xmin) FROM swapped ORDER BY k"
    there, here = dict(n1.execute(times)), dict(n2.execute(times))
    together = [1, 2, 3, 4, 5]
    assert {here[key] for key in together} == {min(there[key] for key in together)}
    assert [here[key] for key in range(6, 14)] == [there[key] for key in range(6, 14)]
    check_equal(cluster)


def test_rows_that_go_together_are_left_alone_together(cluster: Cluster, tmp_path: Path) -> None:
    n2 = cluster["n2"]
    plant(n2, *_SWAPPED[:2])
    verify(cluster, "--repair", "plan", "--like", "n1", "--output", str(tmp_path), code=1)
    # A row of the ring is no longer the version that was proven different.
    plant(n2, "UPDATE swapped SET u = u WHERE k = 4")
    versions = "SELECT t.xmin::text, t.ctid::text, k, u FROM swapped AS t WHERE k < 6 ORDER BY k"
    before = n2.execute(versions)
    said = psql(cluster.engine, n2.dsn(), "-v", "ON_ERROR_STOP=0", "-f", str(tmp_path / "n2.sql")).stderr
    assert said.count("it was left alone") == 1, said
    assert said.count("WARNING") == 4, said
    assert n2.execute(versions) == before
    repair(cluster)
    check_equal(cluster)


#: How many rows have the time of a row that no change loses against.
_EPOCH = "SELECT count(*) FROM stamped WHERE pg_xact_commit_timestamp(xmin) = '1970-01-01 00:00+00'"


def test_a_row_of_an_unknown_time_loses_against_each_change(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    at(n1, "CREATE EXTENSION pg_surgery SCHEMA public")
    ((places,),) = n1.execute("SELECT array_agg(ctid)::text FROM stamped WHERE k < 4")
    n1.execute("SELECT heap_force_freeze('stamped'::regclass, %(places)s::tid[])", {"places": places})
    assert n1.execute("SELECT count(*) FROM stamped WHERE pg_xact_commit_timestamp(xmin) IS NULL") == [(3,)]
    plant(n2, "DELETE FROM stamped WHERE k = 1", "UPDATE stamped SET v = 'w' WHERE k = 2")
    assert outcomes(repair(cluster)) == {"repaired"}
    assert n2.execute(_EPOCH) == [(2,)]
    check_equal(cluster)


def _committed(node: Node, statement: str, origin: str, at: str | None = None) -> None:
    """Run a statement as a change of an origin."""
    with node.connect() as connection:
        connection.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
        with connection.transaction():
            if at is not None:
                connection.execute("SELECT pg_replication_origin_xact_setup('0/0', %s)", [at])
            connection.execute(statement.encode())


def _origins(document: VerifyDocument, node: str) -> dict[Any, str]:
    rows = [row for table in document["tables"] for row in table["rows"]]
    return {row["key"]["k"]: row["nodes"][node]["origin"] for row in rows if row["nodes"][node] is not None}


@pytest.mark.slow
def test_the_node_that_a_row_came_from(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    n1.execute("UPDATE stamped SET v = 'from n1' WHERE k = 10")
    n2.execute("UPDATE stamped SET v = 'from n2' WHERE k = 11")
    wait_level(cluster.members)
    plant(n2, "UPDATE stamped SET v = 'planted' WHERE k IN (10, 11, 12, 13, 14, 15)")
    plant(n1)
    names = {"zodan repair 10112 n2": None, "given again": "SELECT node_id FROM spock.node WHERE node_name = 'n2'"}
    for name, number in names.items():
        if number is None:
            n1.execute("SELECT pg_replication_origin_create(%(name)s)", {"name": name})
        else:
            n1.execute(
                f"INSERT INTO pg_replication_origin (roident, roname) SELECT ({number})::bigint::text::oid, %(name)s",
                {"name": name},
            )
    try:
        _committed(n1, "UPDATE stamped SET v = 'as repaired' WHERE k = 12", "zodan repair 10112 n2")
        _committed(n1, "UPDATE stamped SET v = 'as copied' WHERE k = 13", "planted", "1970-01-01 00:00+00")
        _committed(n1, "UPDATE stamped SET v = 'again' WHERE k = 14", "given again")
        seen = _origins(verify(cluster, code=1), "n1")
        assert seen == {"10": "n1", "11": "n2", "12": "n2", "13": "unknown", "14": "n2", "15": "n1"}
    finally:
        for name in names:
            n1.execute("SELECT pg_replication_origin_drop(%(name)s)", {"name": name})
    repair(cluster)
    check_equal(cluster)


@pytest.mark.slow
def test_a_file_drops_its_origins_whatever_fails(cluster: Cluster, tmp_path: Path) -> None:
    n2 = cluster["n2"]
    plant(n2, "UPDATE stamped SET v = 'other' WHERE k IN (5, 6)")
    verify(cluster, "--repair", "plan", "--like", "n1", "--output", str(tmp_path), code=1)
    plant(n2, "UPDATE stamped SET v = 'changed' WHERE k = 5")
    # psql is told to stop at an error.
    assert "it was left alone" in psql(cluster.engine, n2.dsn(), "-f", str(tmp_path / "n2.sql")).stderr
    assert n2.execute("SELECT v FROM stamped WHERE k IN (5, 6) ORDER BY k") == [("changed",), ("v",)]
    assert n2.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'zodan repair%%'") == []
    repair(cluster)
    check_equal(cluster)


def test_only_a_generated_column_differs(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    body = "CREATE OR REPLACE FUNCTION half(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 / {}'"
    at(n2, body.format(3))
    plant(
        n2,
        "UPDATE halves SET k = k WHERE k > 2",
        "DELETE FROM counted WHERE k > 2",
        "INSERT INTO counted (k) OVERRIDING SYSTEM VALUE SELECT i FROM generate_series(3, 5) AS i",
    )
    # The expression gives another value there.
    document = repair(cluster, code=1)
    assert outcomes(document) == {"repaired"}
    at(n2, body.format(2))
    document = repair(cluster)
    assert {each["action"] for each in document["repairs"]} == {"update"}
    check_equal(cluster)


#: What is changed on n2 alone: values that a cast does not tell apart, or that a check reads which needs a search_path.
_ALIKE = {
    "shades": ("UPDATE shades SET s = 'rose' WHERE k = 'red'", "UPDATE shades SET v = 'w' WHERE k = 'rose'"),
    "padded": ("UPDATE padded SET v = 'v' WHERE k = '1'", "UPDATE padded SET k = '2' WHERE k = '2'"),
    "checks": ("DELETE FROM checks WHERE k = 7", "UPDATE checks SET v = 9 WHERE k = 8"),
    "placed": (
        "UPDATE placed SET t = 0 WHERE zodan_place = 17",
        "UPDATE placed SET p = point(0, 1) WHERE zodan_place = 18",
    ),
    "columnless": ("DELETE FROM columnless WHERE ctid = '(0,1)'",),
}


def test_values_that_a_cast_does_not_tell_apart(cluster: Cluster) -> None:
    for statements in _ALIKE.values():
        plant(cluster["n2"], *statements)
    document = repair(cluster)
    found = {table["table"]: len(table["rows"]) for table in document["tables"] if table["result"] != "equal"}
    assert found == {"public.shades": 2, "public.padded": 3, "public.checks": 2, "public.placed": 2} | {
        "public.columnless": 1
    }
    assert outcomes(document) == {"repaired"}
    check_equal(cluster)
    plant(cluster["n2"], "INSERT INTO columnless SELECT FROM generate_series(1, 2)")
    assert [each["action"] for each in repair(cluster)["repairs"]] == ["delete"]
    check_equal(cluster)


_KEEPS_OUT = (
    "CREATE FUNCTION keeps_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TRIGGER keeps_out BEFORE UPDATE ON scaled FOR EACH ROW EXECUTE FUNCTION keeps_out()",
    "ALTER TABLE scaled ENABLE ALWAYS TRIGGER keeps_out",
)


def test_what_rows_compute_by_the_settings_of_a_database(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    later = "UPDATE dated SET d = d + interval '1 day' WHERE k"
    # Rows that are missing, that are different, and that have the unique values of each other as well; in Greenwich
    # each of them would be one of the day before.
    plant(
        n2,
        "DELETE FROM dated WHERE k < 3",
        f"{later} BETWEEN 3 AND 8",
        "UPDATE dated SET u = -u WHERE k BETWEEN 6 AND 8",
        "UPDATE dated SET u = 14 + u WHERE k BETWEEN 6 AND 8",
    )
    assert outcomes(repair(cluster)) == {"repaired"}
    check_equal(cluster)
    for node in (n1, n2):
        with node.connect() as connection:
            connection.execute("SET enable_seqscan = off")
            assert connection.execute("SELECT count(*) FROM dated WHERE day_of(d) = '2026-01-01'").fetchone() == (24,)


def test_a_row_that_a_trigger_keeps_out_is_left_alone_and_why(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    plant(n2, "UPDATE scaled SET v = v || 'w' WHERE k = (SELECT min(k) FROM scaled)")
    at(n2, *_KEEPS_OUT)
    (outcome,) = outcomes(repair(cluster, code=1))
    assert str(outcome).startswith("a trigger or a rule kept the row from being written")
    at(n2, "DROP FUNCTION keeps_out CASCADE")
    assert outcomes(repair(cluster)) == {"repaired"}
    check_equal(cluster)


@pytest.mark.slow
def test_more_rows_are_repaired_than_one_array_holds(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    fill = "INSERT INTO large SELECT i, 'v', repeat(md5(i::text), 40000) FROM generate_series(1, %(rows)s) AS i"
    n1.execute(fill, {"rows": 240})
    wait_level(cluster.members)
    plant(n2, "DELETE FROM large WHERE k > 3", "UPDATE large SET v = 'other'")
    document = repair(cluster, "--table", "large")
    assert outcomes(document) == {"repaired"}
    assert_rows_equal(cluster.members, ["large"])
    for node in cluster.members:
        node.execute("TRUNCATE large")
