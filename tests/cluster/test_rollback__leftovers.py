"""Nothing of a copy is left by a rollback, whatever kind of object the members have."""

from __future__ import annotations

from support.calls import add_node, call, load_zodan
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.joins import planned
from support.objects import at, everything
from support.tables import TABLES, assert_rows_equal, create_tables, wait_level

#: One of every kind that a structure copy carries.
_OBJECTS = """
CREATE ROLE grantee
CREATE SCHEMA extra
CREATE FOREIGN DATA WRAPPER nowhere
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere
CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere
CREATE FOREIGN TABLE far (id int) SERVER elsewhere
CREATE ACCESS METHOD pile TYPE TABLE HANDLER heap_tableam_handler
CREATE TEXT SEARCH TEMPLATE plain (LEXIZE = dsimple_lexize, INIT = dsimple_init)
CREATE TEXT SEARCH PARSER cut (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype)
CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple)
CREATE TEXT SEARCH CONFIGURATION tongue (COPY = simple)
CREATE FUNCTION to_nothing(internal) RETURNS internal LANGUAGE internal IMMUTABLE AS 'varchar_support'
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION varchar_support(internal))
CREATE TYPE pair AS (a int, b int)
CREATE TYPE mood AS ENUM ('good', 'bad')
CREATE TYPE span AS RANGE (SUBTYPE = int)
CREATE TYPE shell
CREATE DOMAIN positive AS int CHECK (VALUE > 0)
CREATE FUNCTION same(int, mood) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true'
CREATE OPERATOR === (FUNCTION = same, LEFTARG = int, RIGHTARG = mood)
CREATE FUNCTION to_mood(int) RETURNS mood LANGUAGE sql IMMUTABLE AS 'SELECT ''good''::mood'
CREATE CAST (int AS mood) WITH FUNCTION to_mood(int)
CREATE OPERATOR FAMILY kin USING btree
CREATE OPERATOR CLASS like_int FOR TYPE int USING btree FAMILY kin AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int, int)
CREATE COLLATION swedish (LOCALE = 'C')
CREATE CONVERSION from_latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1'
CREATE TABLE seen (id serial PRIMARY KEY, a int, b int)
CREATE STATISTICS seen_stats ON a, b FROM seen
CREATE VIEW looking AS SELECT * FROM seen
CREATE MATERIALIZED VIEW looked AS SELECT * FROM seen
CREATE RULE quiet AS ON DELETE TO seen DO INSTEAD NOTHING
CREATE POLICY all_of_them ON seen USING (true)
CREATE SEQUENCE counts
CREATE PUBLICATION news FOR TABLE seen
CREATE SUBSCRIPTION feed CONNECTION 'dbname=nowhere' PUBLICATION news WITH (connect = false, slot_name = 'feed')
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO grantee
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO grantee
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no drops here''; END'
CREATE EVENT TRIGGER no_drops ON sql_drop EXECUTE FUNCTION forbid()
ALTER EVENT TRIGGER no_drops ENABLE ALWAYS
"""
#: Whose rows are parts of other objects, or of no database.
_PARTS = {
    "pg_attrdef", "pg_constraint", "pg_trigger", "pg_rewrite", "pg_policy", "pg_amop", "pg_amproc", "pg_enum",
    "pg_publication_rel", "pg_publication_namespace", "pg_largeobject_metadata",
}  # fmt: skip


def test_a_rollback_leaves_nothing_of_any_kind(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    create_tables(cluster)
    for node in (n1, n2):
        at(node, *_OBJECTS.strip().split("\n"))
    wait_level(cluster.members)
    load_zodan(n3)
    at(n3, "CREATE ROLE grantee", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON SEQUENCES TO grantee")
    before = everything(n3)
    arguments, plan = planned(n1, n3)
    HeldCall(n3, f"before {plan.at('pause', 'n1')}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    assert len(everything(n3) - before) > 40
    call(n3, "zodan.rollback", p_operation=1)
    left = everything(n3) ^ before
    assert {row for row in left if row[0] not in {"pg_toast"}} == set()
    # And the second join works.
    add_node(cluster, "n1", "n3")
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert n3.execute("SELECT count(*) FROM pg_event_trigger WHERE evtname = 'no_drops'") == [(1,)]


def test_no_catalog_is_left_out(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=0)
    (n1,) = cluster.nodes
    load_zodan(n1)
    ((listed,),) = n1.execute("SELECT zodan.list_user_objects()")
    catalogs = n1.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid WHERE a.attname = 'oid'"
        " AND c.relkind = 'r' AND c.relnamespace = 'pg_catalog'::regnamespace AND NOT c.relisshared"
    )
    assert {name for (name,) in catalogs if f"pg_catalog.{name} " not in listed} <= _PARTS
