"""What nodes compute from copied rows, and what is copied of them, is what it is where rows come by the stream."""

from __future__ import annotations

import pytest

from support.calls import add_node, exceptions, load_zodan
from support.clusters import MakeCluster
from support.joins import refused
from support.memory import COPYING, MemorySampler
from support.parameters import some_slow
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.sandbox import Cluster, Node

_ZONE = "Asia/Tokyo"
_HOURS = "SELECT i, '2026-01-01 00:30+09'::timestamptz + i * interval '1 hour' AS at FROM generate_series(0, 47) AS i"
_COMPUTED = """
CREATE FUNCTION day_of(timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS 'SELECT $1::date';
CREATE FUNCTION read(text) RETURNS date LANGUAGE sql IMMUTABLE AS 'SELECT $1::date';
CREATE TABLE indexed (id int PRIMARY KEY, at timestamptz);
CREATE INDEX indexed_day ON indexed (day_of(at));
CREATE TABLE checked (id int PRIMARY KEY, at timestamptz, day date, spelt text,
    CHECK (day_of(at) = day AND read(spelt) = day));
CREATE TABLE parted (id int, at timestamptz) PARTITION BY RANGE (day_of(at));
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-01-02') TO ('2026-01-03');
"""
_DAYS = "SELECT day::text, count FROM days ORDER BY 1"


@pytest.mark.parametrize("copy", some_slow(["rows", "psql"], {"rows"}))
def test_functions_that_rely_on_settings(make_cluster: MakeCluster, copy: str) -> None:
    cluster = make_cluster(members=1, blanks=1, extra_conf={"timezone": _ZONE, "datestyle": "iso, dmy"})
    n1, n2 = cluster.nodes
    with n1.connect() as connection:
        connection.execute(_COMPUTED)
        generates = bool(connection.execute("SELECT spock.spock_version_num() >= 60000").fetchall()[0][0])
        if generates:
            connection.execute("ALTER TABLE indexed ADD day date GENERATED ALWAYS AS (day_of(at)) STORED")
        connection.execute(f"INSERT INTO indexed (id, at) {_HOURS}".encode())
        connection.execute(
            f"INSERT INTO checked SELECT i, at, at::date, to_char(at, 'DD/MM/YYYY') FROM ({_HOURS}) AS h".encode()
        )
        connection.execute(f"INSERT INTO parted {_HOURS}".encode())
        connection.execute(
            "CREATE MATERIALIZED VIEW days AS SELECT day_of(at) AS day, count(*) FROM indexed GROUP BY 1"
        )
    add_to_sets(n1, {"indexed": "default", "checked": "default", "parted": "default_insert_only"})
    add_node(cluster, "n1", "n2", copy=copy)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["indexed", "checked", "parted_1", "parted_2"])
    assert n2.execute(_DAYS) == n1.execute(_DAYS) == [("2026-01-01", 24), ("2026-01-02", 24)]
    with n2.connect() as connection:
        connection.execute("SET enable_seqscan = off")
        assert connection.execute("SELECT count(*) FROM indexed WHERE day_of(at) = '2026-01-02'").fetchall() == [(24,)]
    assert not exceptions(cluster.members)


_FILTERED = """
CREATE FUNCTION is_even(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2 = 0';
CREATE FUNCTION wanted(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN is_even($1); END';
CREATE TABLE twice (id int PRIMARY KEY, a int, b int DEFAULT -1);
CREATE TABLE called (id int PRIMARY KEY, filler text);
CREATE TABLE timed (id int PRIMARY KEY, at timestamptz);
SELECT spock.repset_remove_table(t.set_name, t.relid) FROM spock.tables AS t
 WHERE t.relname IN ('twice', 'called', 'timed') AND t.set_name IS NOT NULL;
SELECT spock.repset_add_table('default', 'twice', false, '{id,a}', 'a < 10');
SELECT spock.repset_add_table('default_insert_only', 'twice', false, NULL, 'id > 5');
SELECT spock.repset_add_table('default', 'called', false, NULL, 'id > 100');
SELECT spock.repset_add_table('default', 'timed', false, NULL, 'at < ''2026-01-02 00:00+09''');
"""


@pytest.mark.parametrize("copy", some_slow(["rows", "psql"], {"rows"}))
def test_filters_and_lists_are_what_the_stream_makes_of_them(make_cluster: MakeCluster, copy: str) -> None:
    cluster = make_cluster(members=2, blanks=1, extra_conf={"timezone": _ZONE})
    n1, n2, n3 = cluster.nodes
    tables = ["twice", "called", "timed"]
    for node in (n1, n2):
        node.execute(_FILTERED)
        _filter_by_functions(node)
    _write(cluster)
    add_node(cluster, "n1", "n3", copy=copy)
    wait_level(cluster.members)
    assert_rows_equal([n2, n3], tables)
    assert n3.execute("SELECT count(*), min(b), max(b) FROM twice") == [(4, -1, -1)]
    found = n3.execute("SELECT result FROM zodan.verify(%(dsn)s) WHERE table_name = 'public.twice'", {"dsn": n2.dsn()})
    assert {each[0] for each in found} <= {"equal"}


def _filter_by_functions(node: Node) -> None:
    """Have filters rely on settings, where Spock takes such: on PostgreSQL 18 it refuses them."""
    if node.execute("SELECT current_setting('server_version_num')::int < 180000")[0][0]:
        node.execute("SELECT spock.repset_remove_table('default', t) FROM unnest('{called,timed}'::regclass[]) AS t")
        node.execute("SELECT spock.repset_add_table('default', 'called', false, NULL, 'wanted(id)')")
        node.execute("SELECT spock.repset_add_table('default', 'timed', false, NULL, 'extract(hour from at) < 12')")


def _write(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    n1.execute("INSERT INTO twice SELECT i, i, i FROM generate_series(1, 20) AS i")
    # More than one piece.
    n1.execute("INSERT INTO called SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) AS i")
    n1.execute(f"INSERT INTO timed {_HOURS}")
    wait_level(cluster.members)


def test_sequences_that_were_set_and_not_called(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    n1.execute("CREATE TABLE counted (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)")
    n1.execute("INSERT INTO counted SELECT generate_series(1, 100)")
    n1.execute("ALTER TABLE counted ALTER id RESTART WITH 101")
    n1.execute("CREATE SEQUENCE untouched START 7")
    add_to_sets(n1, {"counted": "default"})
    add_node(cluster, "n1", "n2")
    (key,) = n2.execute("INSERT INTO counted DEFAULT VALUES RETURNING id")[0]
    assert key > 100
    assert n2.execute("SELECT nextval('untouched')") == [(7,)]


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            (
                "CREATE TABLE long (id int PRIMARY KEY, t int, v text)",
                "INSERT INTO long SELECT i, 1, repeat(md5(i::text), 120000) FROM generate_series(1, 50) AS i",
            ),
            id="a column with the name of an alias",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "CREATE TABLE long (id int PRIMARY KEY, v text)",
                "INSERT INTO long SELECT i, repeat('text ', 10000) FROM generate_series(1, 6000) AS i",
                "DELETE FROM long WHERE ctid < '(5,0)'",
            ),
            id="the first blocks are empty",
        ),
    ],
)
def test_pieces_are_small_whatever_the_table(make_cluster: MakeCluster, statements: tuple[str, ...]) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    for statement in statements:
        n1.execute(statement)
    add_to_sets(n1, {"long": "default"})
    load_zodan(n2)
    with MemorySampler(n1, n2, COPYING) as sampler:
        add_node(cluster, "n1", "n2")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["long"])
    assert 0 < sampler.most["new node"] < 150e6


def test_an_index_whose_operator_needs_a_search_path(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    for statement in (
        "CREATE FUNCTION ends(int, int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 10 = $2'",
        "CREATE FUNCTION does_end(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE "
        "AS 'BEGIN RETURN ends($1, $2); END'",
        "CREATE OPERATOR ==> (LEFTARG = int, RIGHTARG = int, FUNCTION = does_end)",
        "CREATE TABLE large (id int PRIMARY KEY, a int, filler text)",
        "CREATE INDEX large_a ON large (a) WHERE a ==> 3",
        "INSERT INTO large SELECT i, i, repeat('x', 300) FROM generate_series(1, 30000) AS i",
    ):
        n1.execute(statement)
    add_to_sets(n1, {"large": "default"})
    add_node(cluster, "n1", "n2")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["large"])
    whole = n2.execute("SELECT bool_and(indisvalid AND indisready) FROM pg_index WHERE indrelid = 'large'::regclass")
    assert whole == [(True,)]


def test_a_check_that_time_has_made_false(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute("CREATE TABLE due (id int PRIMARY KEY, at date)")
            connection.execute("INSERT INTO due VALUES (1, current_date - 9)")
            connection.execute("ALTER TABLE due ADD CHECK (at > current_date - 3) NOT VALID")
            # Nobody can wait for so long.
            connection.execute("UPDATE pg_constraint SET convalidated = true WHERE conname = 'due_at_check'")
        add_to_sets(node, {"due": "default"})
    load_zodan(cluster["n3"])
    refused(cluster, "unvalidated-constraints", "due_at_check on public.due")
