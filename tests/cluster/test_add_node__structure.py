"""What would have a copy fail late: refused before anything is changed, and harmless neighbours that are not."""

from __future__ import annotations

import pytest

from support.calls import add_node, load_zodan
from support.clusters import MakeCluster
from support.joins import make_filled, refused
from support.objects import at, everywhere
from support.tables import TABLES, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node

_ADD = "SELECT spock.repset_add_table('default', '{}')"
_REMOVE = "SELECT spock.repset_remove_table('default', '{}')"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members and a blank; whatever a test makes on them it takes away again."""
    return make_filled(make_module_cluster, 100)


#: Made on n3 as on the members: kind of object, statement, and what takes it away.
_SAME = {
    "type": ("CREATE TYPE mood AS ENUM ('good')", "DROP TYPE mood"),
    "domain": ("CREATE DOMAIN positive AS int", "DROP DOMAIN positive"),
    "operator": (
        "CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int)",
        "DROP OPERATOR === (int, int)",
    ),
    "function": ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DROP FUNCTION f()"),
    "schema": ("CREATE SCHEMA extra", "DROP SCHEMA extra"),
    "collation": ("CREATE COLLATION swedish (LOCALE = 'C')", "DROP COLLATION swedish"),
    "publication": ("CREATE PUBLICATION news", "DROP PUBLICATION news"),
    "foreign-data wrapper": ("CREATE FOREIGN DATA WRAPPER nowhere", "DROP FOREIGN DATA WRAPPER nowhere"),
    "access method": (
        "CREATE ACCESS METHOD pile TYPE TABLE HANDLER heap_tableam_handler",
        "DROP ACCESS METHOD pile",
    ),
    "text search dictionary": (
        "CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple)",
        "DROP TEXT SEARCH DICTIONARY words",
    ),
    "cast": ("CREATE CAST (point AS text) WITH INOUT", "DROP CAST (point AS text)"),
}


@pytest.mark.parametrize("kind", _SAME)
def test_an_object_of_the_same_name(cluster: Cluster, kind: str) -> None:
    make, drop = _SAME[kind]
    at(cluster["n3"], make)
    everywhere(cluster, make)
    refused(cluster, "same-names", "type" if kind == "domain" else kind)
    everywhere(cluster, drop)
    at(cluster["n3"], drop)


def test_an_event_trigger_that_forbids(cluster: Cluster) -> None:
    at(
        cluster["n3"],
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF tg_tag = 'CREATE TABLE' THEN RAISE EXCEPTION 'no tables here'; END IF; END$$",
        "CREATE EVENT TRIGGER no_tables ON ddl_command_start EXECUTE FUNCTION forbid()",
    )
    refused(cluster, "creatable-objects", "no tables here")
    at(cluster["n3"], "DROP EVENT TRIGGER no_tables", "DROP FUNCTION forbid()")


def test_no_schema_public(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    at(n3, "CREATE SCHEMA ext", "ALTER EXTENSION dblink SET SCHEMA ext", "ALTER SCHEMA public RENAME TO other")
    load_zodan(n3)
    refused(cluster, "schema-public", "missing")
    at(n3, "ALTER SCHEMA other RENAME TO public", "ALTER EXTENSION dblink SET SCHEMA public", "DROP SCHEMA ext")
    load_zodan(n3)


def test_an_extension_that_others_need_in_its_schema(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE SCHEMA ext",
        "ALTER EXTENSION dblink SET SCHEMA ext",
        "CREATE VIEW looks AS SELECT * FROM ext.dblink('', '') AS t(a int)",
    )
    refused(cluster, "extension-schemas", "dblink: in public, on the source in ext")
    everywhere(cluster, "DROP VIEW looks", "ALTER EXTENSION dblink SET SCHEMA public", "DROP SCHEMA ext")


def test_an_extension_that_cannot_be_created(cluster: Cluster) -> None:
    everywhere(cluster, "CREATE EXTENSION pg_trgm")
    at(cluster["n3"], "CREATE FUNCTION similarity(text, text) RETURNS real LANGUAGE sql AS 'SELECT 1::real'")
    refused(cluster, "creatable-extensions", "pg_trgm: ")
    at(cluster["n3"], "DROP FUNCTION similarity")
    everywhere(cluster, "DROP EXTENSION pg_trgm")


def test_a_table_that_an_extension_fills(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    make = ("CREATE TABLE seeded (id int PRIMARY KEY)", "INSERT INTO seeded VALUES (1)")
    for node in cluster.nodes:
        at(node, *make, "ALTER EXTENSION dblink ADD TABLE seeded")
    everywhere(cluster, _ADD.format("seeded"))
    refused(cluster, "extension-tables", "public.seeded")
    everywhere(cluster, _REMOVE.format("seeded"))
    # In no set, and only the members have rows: that is said.
    at(n3, "DELETE FROM seeded")
    rows = checks(cluster, "extension-rows")
    assert [(severity, passed, observed) for severity, passed, observed in rows] == [("warn", False, "public.seeded")]
    for node in cluster.nodes:
        at(node, "ALTER EXTENSION dblink DROP TABLE seeded", "DROP TABLE seeded")


def checks(cluster: Cluster, key: str) -> list[tuple[object, ...]]:
    """Return severity, passed and observed of a check, before a join of n3."""
    n1, n3 = cluster["n1"], cluster["n3"]
    return n3.execute(
        "SELECT severity, passed, observed FROM zodan.checks('pre', 'n1', %(source)s, 'n3', %(new)s)"
        " WHERE key = %(key)s",
        {"source": n1.dsn(), "new": n3.dsn(), "key": key},
    )


@pytest.mark.parametrize(
    ("check", "statement"),
    [
        ("table-reading-checks", "ALTER TABLE holder ADD CHECK (looks_up(id))"),
        ("table-reading-checks", "ALTER TABLE holder ADD CHECK (looks_into(id))"),
        ("search-paths", "CREATE INDEX holder_calls ON holder (calls(id))"),
    ],
)
def test_functions_that_may_fail_in_a_copy_are_named(cluster: Cluster, check: str, statement: str) -> None:
    everywhere(
        cluster,
        "CREATE TABLE holder (id int PRIMARY KEY)",
        "CREATE FUNCTION looks_up(int) RETURNS boolean LANGUAGE sql SET search_path = public"
        " AS 'SELECT EXISTS (SELECT FROM app_keyed) OR true'",
        "CREATE FUNCTION looks_into(int) RETURNS boolean LANGUAGE sql SET search_path = public"
        " BEGIN ATOMIC SELECT EXISTS (SELECT FROM app_keyed) OR true; END",
        "CREATE FUNCTION helper(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
        "CREATE FUNCTION calls(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN helper($1); END'",
        statement,
    )
    ((severity, passed, observed),) = checks(cluster, check)
    assert (severity, passed) == ("warn", False)
    assert "(integer)" in str(observed)
    everywhere(cluster, "DROP TABLE holder", "DROP FUNCTION looks_up, looks_into, calls, helper")
    ((_, passed, _),) = checks(cluster, check)
    assert passed


def test_a_function_that_only_says_from_is_not_named(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE holder (id int PRIMARY KEY, t timestamp, v text)",
        "CREATE FUNCTION weekday(timestamp, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS"
        " $$SELECT extract(isodow FROM $1) < 6 -- from Monday on\n AND $2 IS DISTINCT FROM substring($2 FROM 3)$$",
        "ALTER TABLE holder ADD CHECK (weekday(t, v))",
        "CREATE INDEX holder_weekdays ON holder (weekday(t, v))",
    )
    found = {key: checks(cluster, key)[0][1] for key in ("table-reading-checks", "search-paths")}
    everywhere(cluster, "DROP TABLE holder", "DROP FUNCTION weekday")
    assert found == {"table-reading-checks": True, "search-paths": True}


def test_a_reference_to_what_is_not_copied(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE ref (id int PRIMARY KEY)",
        "CREATE TABLE fact (id int PRIMARY KEY, r int REFERENCES ref)",
        "INSERT INTO ref VALUES (1), (2)",
        "INSERT INTO fact VALUES (1, 1), (2, NULL)",
        _ADD.format("fact"),
    )
    refused(cluster, "foreign-keys", "fact_r_fkey on public.fact, to public.ref")
    # Nor where the row that is referred to is left out.
    everywhere(cluster, "SELECT spock.repset_add_table('default', 'ref', row_filter := 'id > 1')")
    refused(cluster, "foreign-keys", "fact_r_fkey")
    everywhere(cluster, _REMOVE.format("ref"), _REMOVE.format("fact"), "DROP TABLE fact, ref")


def test_a_source_that_violates_its_own_key(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE ref (id int PRIMARY KEY)",
        "CREATE TABLE fact (id int PRIMARY KEY, r int REFERENCES ref)",
        "INSERT INTO ref VALUES (1)",
        "INSERT INTO fact VALUES (1, 1)",
        "SET session_replication_role = replica",
        "DELETE FROM ref",
        _ADD.format("ref"),
        _ADD.format("fact"),
    )
    refused(cluster, "foreign-keys", "fact_r_fkey")
    everywhere(cluster, _REMOVE.format("ref"), _REMOVE.format("fact"), "DROP TABLE fact, ref")


@pytest.mark.parametrize("enabled", ["ALWAYS", "REPLICA"])
def test_a_rule_on_what_is_copied(cluster: Cluster, enabled: str) -> None:
    everywhere(
        cluster,
        "CREATE TABLE ruled (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE ruled1 PARTITION OF ruled FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE noted (id int)",
        "CREATE RULE notes AS ON INSERT TO ruled1 DO ALSO INSERT INTO noted VALUES (NEW.id)",
        "CREATE RULE keeps AS ON DELETE TO ruled1 DO INSTEAD NOTHING",
        f"ALTER TABLE ruled1 ENABLE {enabled} RULE notes",
        f"ALTER TABLE ruled1 ENABLE {enabled} RULE keeps",
        "SELECT spock.repset_add_table('default', 'ruled')",
    )
    refused(cluster, "rules", "public.ruled1 (notes)")
    unpublish(cluster, "ruled", "ruled1")
    # Nor does it matter on a table that is not copied.
    assert checks(cluster, "rules") == [("fail", True, "as needed")]
    everywhere(cluster, "ALTER TABLE ruled1 ENABLE RULE notes", _ADD.format("ruled"))
    assert checks(cluster, "rules") == [("fail", True, "as needed")]
    unpublish(cluster, "ruled", "ruled1")
    everywhere(cluster, "DROP TABLE ruled, noted")


def test_old_rows_that_violate_a_constraint(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE TABLE old (id int PRIMARY KEY, v int)",
        "INSERT INTO old VALUES (1, -1)",
        "ALTER TABLE old ADD CONSTRAINT old_v CHECK (v > 0) NOT VALID",
        _ADD.format("old"),
    )
    refused(cluster, "unvalidated-constraints", "old_v on public.old")
    everywhere(cluster, "UPDATE old SET v = 1")
    assert checks(cluster, "unvalidated-constraints") == [("fail", True, "as needed")]
    everywhere(cluster, _REMOVE.format("old"), "DROP TABLE old")


def test_event_triggers_that_fire_for_a_copy_are_named(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    make = "CREATE EVENT TRIGGER {} ON {} EXECUTE FUNCTION notes()"
    at(
        n1,
        "CREATE FUNCTION notes() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        *(make.format(name, "ddl_command_end") for name in ("plain", "always", "replica")),
        "ALTER EVENT TRIGGER always ENABLE ALWAYS",
        "ALTER EVENT TRIGGER replica ENABLE REPLICA",
    )
    ((on_login,),) = n1.execute("SELECT current_setting('server_version_num')::int >= 170000")
    if on_login:
        at(n1, make.format("enters", "login"), make.format("entered", "login"), "ALTER EVENT TRIGGER entered DISABLE")
    ((severity, passed, observed),) = checks(cluster, "event-triggers")
    assert (severity, passed) == ("warn", False)
    named = {"always (ddl_command_end)", "replica (ddl_command_end)"} | ({"enters (login)"} if on_login else set())
    assert set(str(observed).split(", ")) == named
    at(n1, "DROP FUNCTION notes CASCADE")
    assert checks(cluster, "event-triggers") == [("warn", True, "none")]


def test_a_generated_column(cluster: Cluster) -> None:
    ((old,),) = cluster["n3"].execute("SELECT extversion LIKE '5.%%' FROM pg_extension WHERE extname = 'spock'")
    everywhere(
        cluster,
        "CREATE TABLE inv (id int PRIMARY KEY, net numeric, gross numeric GENERATED ALWAYS AS (net * 2) STORED)",
        _ADD.format("inv"),
    )
    if old:
        refused(cluster, "generated-columns", "public.inv (gross)")
    else:
        # Spock 6 copies them, as test_neighbours_that_do_no_harm shows.
        assert checks(cluster, "generated-columns") == [("fail", True, "as needed")]
    everywhere(cluster, _REMOVE.format("inv"), "DROP TABLE inv")


def unpublish(cluster: Cluster, *tables: str) -> None:
    """Take tables of schema public out of their sets: a partition may have left its table's set with it, or not."""
    for table in tables:
        everywhere(
            cluster,
            "SELECT spock.repset_remove_table(set_name, format('%I.%I', nspname, relname)::regclass)"
            f" FROM spock.tables WHERE relname = '{table}' AND set_name IS NOT NULL",
        )


@pytest.mark.parametrize(
    "key", ["kind", "kinds", "span", "spans", "pair", "feeling", "place", "(coalesce(kind, 'good'::mood))"]
)
def test_partitions_by_the_hash_of_an_oid(cluster: Cluster, key: str) -> None:
    everywhere(
        cluster,
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE TYPE moods AS RANGE (SUBTYPE = mood, MULTIRANGE_TYPE_NAME = multimoods)",
        "CREATE TYPE pair AS (left_one mood, right_one int)",
        "CREATE DOMAIN feeling AS mood",
        "CREATE TABLE parted (id int, kind mood, kinds mood[], span moods, spans multimoods, pair pair,"
        " feeling feeling, place regclass) PARTITION BY LIST (id)",
        f"CREATE TABLE hashed PARTITION OF parted DEFAULT PARTITION BY HASH ({key})",
        "CREATE TABLE leaf PARTITION OF hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "SELECT spock.repset_add_table('default_insert_only', 'parted')",
    )
    refused(cluster, "partitions-by-hash", "public.hashed")
    unpublish(cluster, "parted", "hashed", "leaf")
    assert checks(cluster, "partitions-by-hash") == [("fail", True, "as needed")]
    everywhere(cluster, "DROP TABLE parted", "DROP DOMAIN feeling", "DROP TYPE pair, moods, mood")


def test_a_foreign_table_as_a_partition(cluster: Cluster) -> None:
    everywhere(
        cluster,
        "CREATE EXTENSION postgres_fdw",
        "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'far.invalid')",
        "CREATE TABLE parted (id int, at int) PARTITION BY LIST (at)",
        "CREATE TABLE near PARTITION OF parted FOR VALUES IN (1)",
        "CREATE FOREIGN TABLE far PARTITION OF parted FOR VALUES IN (2) SERVER far",
    )
    # Nobody copies it: no harm.
    assert checks(cluster, "foreign-partitions") == [("fail", True, "as needed")]
    everywhere(cluster, "SELECT spock.repset_add_table('default_insert_only', 'parted')")
    refused(cluster, "foreign-partitions", "public.far")
    everywhere(cluster, "ALTER TABLE parted DETACH PARTITION far")
    assert checks(cluster, "foreign-partitions") == [("fail", True, "as needed")]
    unpublish(cluster, "parted", "near", "far")
    everywhere(cluster, "DROP TABLE parted", "DROP EXTENSION postgres_fdw CASCADE")


def test_neighbours_that_do_no_harm(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    ((old,),) = n3.execute("SELECT extversion LIKE '5.%%' FROM pg_extension WHERE extname = 'spock'")
    net = "columns := '{id,net}'" if old else "columns := NULL"
    # What only n3 has; an event trigger that only notes; dblink in a schema of its own, everywhere.
    at(
        n3,
        "CREATE TYPE mine AS ENUM ('x')",
        "CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE LOG 'ddl: %', tg_tag; END$$",
        "CREATE EVENT TRIGGER notes ON ddl_command_end EXECUTE FUNCTION note()",
    )
    for node in cluster.nodes:
        at(node, "CREATE SCHEMA ext", "ALTER EXTENSION dblink SET SCHEMA ext")
    load_zodan(n3)
    everywhere(
        cluster,
        "CREATE VIEW looks AS SELECT * FROM ext.dblink('', '') AS t(a int)",
        # No row refers to what is not copied; a key that is not valid.
        "CREATE TABLE ref (id int PRIMARY KEY)",
        "CREATE TABLE fact (id int PRIMARY KEY, r int REFERENCES ref)",
        "CREATE TABLE loose (id int PRIMARY KEY, r int)",
        "INSERT INTO fact VALUES (1, NULL)",
        "INSERT INTO loose VALUES (1, 7)",
        "ALTER TABLE loose ADD FOREIGN KEY (r) REFERENCES ref NOT VALID",
        "ALTER TABLE loose ADD CHECK (r > 0) NOT VALID",
        "CREATE TABLE inv (id int PRIMARY KEY, net numeric, gross numeric GENERATED ALWAYS AS (net * 2) STORED)",
        "INSERT INTO inv VALUES (1, 2)",
        _ADD.format("fact"),
        _ADD.format("loose"),
        f"SELECT spock.repset_add_table('default', 'inv', {net})",
        # Materialized views, one made of the other, and one that nobody has filled.
        "CREATE MATERIALIZED VIEW first AS SELECT id FROM loose",
        'CREATE MATERIALIZED VIEW "Second one" AS SELECT count(*) FROM first',
        "CREATE MATERIALIZED VIEW never AS SELECT id FROM loose WITH NO DATA",
        # Partitions by an enum, but not by its hash, and by the hash of its text; rows of a table and of its child.
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE TABLE listed (id int, kind mood, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind)",
        "CREATE TABLE bad PARTITION OF listed FOR VALUES IN ('bad') PARTITION BY HASH (id)",
        "CREATE TABLE bads PARTITION OF bad FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
        "INSERT INTO listed VALUES (1, 'bad')",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (2)",
        *(_ADD.format(table) for table in ("listed", "parent", "child")),
        # Functions that say where they look.
        "CREATE FUNCTION pinned(int) RETURNS int LANGUAGE sql IMMUTABLE SET search_path = public AS 'SELECT $1'",
        "CREATE INDEX fact_pinned ON fact (pinned(id))",
    )
    told = add_node(cluster, "n1", "n3")
    assert [line for line in told if line.startswith(("functions with", "checks that"))] == []
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, "fact", "loose", "listed", "parent", "child"])
    assert n3.execute("SELECT gross FROM inv") == [(4,)]
    assert n3.execute('SELECT * FROM first, "Second one"') == [(1, 1)]
    assert n3.execute("SELECT relispopulated FROM pg_class WHERE relname = 'never'") == [(False,)]
    assert _failover_marks(cluster) == {node.name: 1 for node in cluster.nodes}
    assert [_extension_schema(node) for node in cluster.nodes] == ["ext"] * 3


def _failover_marks(cluster: Cluster) -> dict[str, int]:
    """Count, per node, how differently its slots are marked for failover."""
    query = (
        "SELECT count(DISTINCT coalesce(to_jsonb(s) ->> 'failover', 'unknown')) FROM pg_replication_slots AS s"
        " WHERE plugin <> ''"
    )
    return {node.name: node.execute(query)[0][0] for node in cluster.nodes}


def test_slots_are_marked_for_failover_as_spock_marks_its_own(make_cluster: MakeCluster) -> None:
    # Spock 5 has this setting on PostgreSQL 18; of Spock 6 nobody reads it.
    cluster = make_cluster(members=2, blanks=1, extra_conf={"spock.use_native_failover_slots": "off"})
    add_node(cluster, "n1", "n3")
    assert _failover_marks(cluster) == {node.name: 1 for node in cluster.nodes}


def _extension_schema(node: Node) -> str:
    ((schema,),) = node.execute("SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'dblink'")
    return str(schema)
