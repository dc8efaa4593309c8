"""A join to a database that has the structure already: compared before a row is copied, and kept by a rollback."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import call, load_zodan, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.crash import HeldCall
from support.joins import make_filled
from support.objects import at
from support.tables import TABLES, add_to_sets, assert_rows_equal, create_on, wait_level
from zodan_sql.sandbox import Cluster

_LARGE = 60000
_STRUCTURE = """
CREATE TYPE mood AS ENUM ('sad', 'o''k');
CREATE DOMAIN short AS varchar(10) CHECK (length(VALUE) < 9);
CREATE TYPE pair AS (a int, b text);
CREATE SEQUENCE loose INCREMENT BY 3;
CREATE FUNCTION twice(a int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a * 2';
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TABLE "Odd t" (id int PRIMARY KEY, v text COLLATE "C", m mood DEFAULT 'sad', s short, p pair,
    k bigint GENERATED ALWAYS AS IDENTITY, d int DEFAULT twice(3), CONSTRAINT high CHECK (d > 0));
CREATE INDEX odd_v ON "Odd t" (lower(v)) WHERE id > 3;
CREATE TRIGGER shout BEFORE INSERT ON "Odd t" FOR EACH ROW EXECUTE FUNCTION shout();
CREATE TABLE parted (id int, k text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
CREATE TABLE child (id int PRIMARY KEY, odd int REFERENCES "Odd t");
CREATE VIEW seen AS SELECT id, v FROM "Odd t" WHERE id > 1;
CREATE MATERIALIZED VIEW kept AS SELECT count(*) AS n FROM child;
CREATE TABLE large (id int PRIMARY KEY, v text);
CREATE INDEX large_v ON large (v);
CREATE TABLE boxed (a int, b int);
CREATE TABLE boxes (id int PRIMARY KEY, c boxed[]);
CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TEXT SEARCH CONFIGURATION words (COPY = english);
"""
_ROWS = f"""
INSERT INTO "Odd t" (id, v, m, s, p) SELECT i, 'v' || i, 'o''k', 'x', '(1,y)' FROM generate_series(1, 50) i;
INSERT INTO parted SELECT i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END FROM generate_series(1, 40) i;
INSERT INTO child SELECT i, i FROM generate_series(1, 40) i;
INSERT INTO large SELECT i, repeat('x', 200) FROM generate_series(1, {_LARGE}) i;
REFRESH MATERIALIZED VIEW kept;
"""
_MORE = ['public."Odd t"', "public.parted", "public.parted_a", "public.parted_rest", "public.child", "public.large"]


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members with rows, and n3, which has their structure and no row."""
    cluster = make_filled(make_module_cluster, 500)
    for node in cluster.nodes:
        at(node, _STRUCTURE)
        # The order of columns makes no difference, unless rows of a table are values.
        at(node, f"CREATE TABLE turned (id int, {'b int, a int' if node.name == 'n3' else 'a int, b int'})")
    create_on(cluster["n3"])
    for node in cluster.members:
        add_to_sets(node, dict.fromkeys(_MORE, "default"))
    at(cluster["n1"], _ROWS)
    wait_level(cluster.members)
    load_zodan(cluster["n3"])
    return cluster


def _arguments(cluster: Cluster, structure: str = "present") -> dict[str, object]:
    n1, n3 = cluster["n1"], cluster["n3"]
    return {
        "src_node_name": "n1",
        "src_dsn": n1.dsn(),
        "new_node_name": "n3",
        "new_node_dsn": n3.dsn(),
        "structure": structure,
    }


#: What is different on n3: how it is made and undone, and the words that name it.
_DIFFERENT = {
    "missing index": ("DROP INDEX odd_v", 'CREATE INDEX odd_v ON "Odd t" (lower(v)) WHERE id > 3', "index odd_v on"),
    "default of a column": (
        "ALTER TABLE parted_rest ALTER id SET DEFAULT 5",
        "ALTER TABLE parted_rest ALTER id DROP DEFAULT",
        "table public.parted_rest is",
    ),
    "other type": ("ALTER TABLE child ALTER odd TYPE bigint", "ALTER TABLE child ALTER odd TYPE int", "odd bigint"),
    "extra table": ("CREATE TABLE beyond (id int)", "DROP TABLE beyond", "table public.beyond is missing on n1"),
    "missing table": (
        "DROP TABLE large",
        "CREATE TABLE large (id int PRIMARY KEY, v text); CREATE INDEX large_v ON large (v)",
        "table public.large is missing on n3",
    ),
    "view": (
        'CREATE OR REPLACE VIEW seen AS SELECT id, v FROM "Odd t" WHERE id > 2',
        'CREATE OR REPLACE VIEW seen AS SELECT id, v FROM "Odd t" WHERE id > 1',
        "query of public.seen",
    ),
    "function": (
        "CREATE OR REPLACE FUNCTION twice(a int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a * 3'",
        "CREATE OR REPLACE FUNCTION twice(a int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a * 2'",
        "function public.twice(a integer)",
    ),
    "trigger": (
        'ALTER TABLE "Odd t" DISABLE TRIGGER shout',
        'ALTER TABLE "Odd t" ENABLE TRIGGER shout',
        'trigger shout on public."Odd t"',
    ),
    "sequence": ("ALTER SEQUENCE loose INCREMENT BY 4", "ALTER SEQUENCE loose INCREMENT BY 3", "sequence public.loose"),
    "constraint": (
        'ALTER TABLE "Odd t" DROP CONSTRAINT high',
        'ALTER TABLE "Odd t" ADD CONSTRAINT high CHECK (d > 0)',
        'constraint high on public."Odd t" is missing on n3',
    ),
    "replica identity": (
        "ALTER TABLE child REPLICA IDENTITY FULL",
        "ALTER TABLE child REPLICA IDENTITY DEFAULT",
        "table public.child",
    ),
    "order of attributes": (
        "ALTER TYPE pair DROP ATTRIBUTE a, ADD ATTRIBUTE a int",
        "ALTER TYPE pair DROP ATTRIBUTE b, ADD ATTRIBUTE b text",
        "type public.pair is",
    ),
    "order of columns in values": (
        "ALTER TABLE boxed DROP COLUMN a, ADD COLUMN a int",
        "ALTER TABLE boxed DROP COLUMN b, ADD COLUMN b int",
        "table public.boxed is",
    ),
    "collation": (
        "DROP COLLATION folded; CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2')",
        "DROP COLLATION folded;"
        " CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "collation public.folded is",
    ),
    "text search configuration": (
        "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH simple",
        "ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH english_stem",
        "text search configuration public.words is",
    ),
    "schema": ("CREATE SCHEMA beyond", "DROP SCHEMA beyond", "schema beyond is missing on n1"),
}


@pytest.mark.parametrize("kind", _DIFFERENT)
def test_a_difference_is_refused_before_anything_changes(cluster: Cluster, kind: str) -> None:
    make, undo, words = _DIFFERENT[kind]
    at(cluster["n3"], make)
    _refused(cluster, "same-structure", words)
    at(cluster["n3"], undo)


def test_a_row_is_refused(cluster: Cluster) -> None:
    at(cluster["n3"], "INSERT INTO child VALUES (1, NULL)")
    _refused(cluster, "empty-tables", "public.child")
    at(cluster["n3"], "TRUNCATE child")


@pytest.mark.parametrize("structure", ["client", "", "Spock", None])
def test_another_word_is_refused(cluster: Cluster, structure: str | None) -> None:
    before = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as error:
        call(cluster["n3"], "spock.add_node", **_arguments(cluster) | {"structure": structure})
    assert error.value.sqlstate == "ZD004"
    assert (structure == "client") == ("--structure client" in (error.value.diag.message_hint or ""))
    assert state(cluster.nodes) == before


@pytest.mark.parametrize(
    ("version", "structure", "verdict"),
    [("99.0.1", "present", "PASS"), ("99.0.1", "spock", "FAIL"), ("4.0.9", "present", "FAIL")],
)
def test_a_newer_spock_needs_a_structure_that_is_there(
    cluster: Cluster, version: str, structure: str, verdict: str
) -> None:
    rows = cluster["n3"].execute(
        "SELECT CASE WHEN c.passed THEN 'PASS' ELSE 'FAIL' END, c.severity FROM zodan.check_versions("
        " jsonb_build_object('n1', jsonb_build_object('extensions', jsonb_build_object('spock', '5.0.11')),"
        " 'n3', jsonb_build_object('extensions', jsonb_build_object('spock', %(version)s::text))),"
        " jsonb_build_object('source', 'n1', 'new', 'n3', 'structure', %(structure)s::text)) AS c"
        " WHERE c.key = 'same-spock' AND c.scope = 'n3'",
        {"version": version, "structure": structure},
    )
    assert rows == [(verdict, "fail")]


def test_without_it_the_structure_is_in_the_way(cluster: Cluster) -> None:
    _refused(cluster, "empty", "", "spock")


def test_a_rollback_leaves_the_structure_and_the_join_then_ends(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    described = "SELECT zodan.describe_structure('false', 'true')"
    ((statement,),) = n3.execute(described)
    structure = n3.execute(statement)
    before = state(cluster.nodes)
    arguments = _arguments(cluster)
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    first = f"SELECT min(ordinal) FROM zodan.plan_add_node({names}) WHERE phase_name = 'sound'"
    held = HeldCall(n3, f"before {n3.execute(first, arguments)[0][0]}", "spock.add_node", arguments)
    held.kill()
    assert n3.execute("SELECT count(*) FROM large") == [(_LARGE,)]
    dsns = Jsonb({node.name: node.dsn() for node in cluster.members})
    call(n3, "zodan.rollback", p_operation=1, p_dsns=dsns)
    assert state(cluster.nodes) == before
    assert n3.execute(statement) == structure
    assert n3.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid OR NOT indisready") == [(0,)]
    for table in [*TABLES, *_MORE]:
        assert n3.execute(f"SELECT count(*) FROM {table}") == [(0,)]
    call(n3, "spock.add_node", **arguments)
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, *_MORE])


def _refused(cluster: Cluster, check: str, words: str, structure: str = "present") -> None:
    before = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as error:
        call(cluster["n3"], "spock.add_node", **_arguments(cluster, structure))
    assert error.value.sqlstate == "ZD100"
    lines = (error.value.diag.message_detail or "").splitlines()
    assert [line for line in lines if line.startswith(name_of(check)) and words in line], lines
    assert state(cluster.nodes) == before
