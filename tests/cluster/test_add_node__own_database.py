"""What a database does by itself while rows come into it, in one join: it computes, it triggers, it publishes."""

from __future__ import annotations

import pytest

from support.calls import add_node, exceptions
from support.clusters import MakeCluster
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster

# Found by the search_path alone: with pg_catalog only, another lower() is taken, and own_name() is not there.
_COMPUTED = """
CREATE FUNCTION public.lower(name) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'own ' || $1::text $$;
CREATE FUNCTION own_name(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN lower($1::name); END $$;
CREATE FUNCTION tag(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN own_name($1); END $$;
CREATE TABLE {table} (id int PRIMARY KEY, v text CHECK (tag(v) LIKE 'own %'), filler text{generated});
CREATE INDEX {table}_tag ON {table} (tag(v));
INSERT INTO {table} SELECT i, 'V' || i, repeat('x', 400) FROM generate_series(1, {rows}) AS i;
"""
_GENERATED = ", tagged text GENERATED ALWAYS AS (tag(v)) STORED"
# A leaf that is in no set, below two tables that are.
_NESTED = """
CREATE TABLE nested (a int, b int) PARTITION BY LIST (a);
CREATE TABLE nested_m PARTITION OF nested FOR VALUES IN (1) PARTITION BY RANGE (b);
CREATE TABLE nested_1 PARTITION OF nested_m FOR VALUES FROM (0) TO (100);
"""
_LEAF = """
CREATE TABLE nested_2 PARTITION OF nested_m FOR VALUES FROM (100) TO (200);
INSERT INTO nested SELECT 1, i FROM generate_series(1, 199) AS i;
"""
_LOGGED = """
CREATE TABLE ddl_log (id serial PRIMARY KEY, tag text);
CREATE FUNCTION log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.ddl_log (tag) VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER log_ddl ON ddl_command_end EXECUTE FUNCTION log_ddl();
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM computed;
"""
# One that had rows once, and cannot have them again; and one that reads it.
_STALE = """
CREATE TABLE divisors (d int PRIMARY KEY);
INSERT INTO divisors VALUES (1);
CREATE MATERIALIZED VIEW stale AS SELECT 1 / d AS v FROM divisors;
CREATE MATERIALIZED VIEW behind AS SELECT v FROM stale;
UPDATE divisors SET d = 0;
"""
_FEW = 200
_MANY = 20000
_BY_INDEX = "SELECT count(*) FROM {table} WHERE tag(v) = 'own V7'"


@pytest.fixture(scope="module")
def joined(make_module_cluster: MakeCluster) -> tuple[Cluster, list[str]]:
    """Return a cluster that a node has joined, and what was said of it."""
    cluster = make_module_cluster(members=1, blanks=1)
    n1 = cluster["n1"]
    # Spock 5 replicates no table with a generated column.
    generated = _GENERATED if n1.execute("SELECT spock.spock_version_num() >= 60000")[0][0] else ""
    with n1.connect() as connection:
        connection.execute(_COMPUTED.format(table="computed", rows=_FEW, generated=generated).encode())
        large = _COMPUTED.format(table="computed_large", rows=_MANY, generated=generated)
        connection.execute(large[large.index("CREATE TABLE") :].encode())
        connection.execute(_NESTED.encode())
    add_to_sets(n1, dict.fromkeys(("computed", "computed_large"), "default"))
    nested = dict.fromkeys(("nested", "nested_m", "nested_1"), "default_insert_only")
    add_to_sets(n1, nested, partitions=False)
    with n1.connect() as connection:
        connection.execute(_LEAF.encode())
        connection.execute(_LOGGED.encode())
        connection.execute(_STALE.encode())
    add_to_sets(n1, {"ddl_log": "default", "divisors": "default"})
    n1.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    notices = add_node(cluster, "n1", "n2", jobs=2)
    wait_level(cluster.members)
    return cluster, notices


@pytest.fixture(scope="module")
def cluster(joined: tuple[Cluster, list[str]]) -> Cluster:
    """Return that cluster alone."""
    return joined[0]


@pytest.mark.parametrize("table", ["computed", "computed_large"])
def test_functions_of_a_table_find_what_they_find_elsewhere(cluster: Cluster, table: str) -> None:
    assert_rows_equal(cluster.members, [table])
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute("SET enable_seqscan = off")
            assert connection.execute(_BY_INDEX.format(table=table).encode()).fetchone() == (1,)


def test_a_leaf_below_two_published_tables_comes_once(cluster: Cluster) -> None:
    assert [node.execute("SELECT count(*) FROM nested")[0][0] for node in cluster.members] == [199, 199]


def test_no_event_trigger_writes_here(cluster: Cluster) -> None:
    assert_rows_equal(cluster.members, ["ddl_log"])


def test_a_publication_of_all_tables_stops_no_join(cluster: Cluster) -> None:
    n1, n2 = cluster.members
    assert n2.execute("SELECT count(*) FROM pg_publication WHERE puballtables") == [(1,)]
    n1.execute("INSERT INTO computed (id, v) VALUES (0, 'later')")
    n2.execute("INSERT INTO computed (id, v) VALUES (-1, 'later')")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["computed"])
    assert not exceptions(cluster.members)


def test_a_view_that_cannot_be_filled_is_told_and_stops_no_join(joined: tuple[Cluster, list[str]]) -> None:
    cluster, notices = joined
    told = [notice for notice in notices if notice.startswith('on node "n2", passed over: ')]
    assert [notice.split("passed over: ")[1] for notice in told] == [
        "public.stale: division by zero",
        'public.behind: materialized view "stale" has not been populated',
    ]
    (n2,) = cluster.members[1:]
    filled = "SELECT relname::text FROM pg_class WHERE relkind = 'm' AND relispopulated"
    assert n2.execute(filled) == [("seen",)]
    assert n2.execute("SELECT state FROM zodan.operation") == [("done",)]
