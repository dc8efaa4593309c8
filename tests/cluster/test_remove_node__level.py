"""A dead node that not all members have followed equally far: ``level`` brings their rows level first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from support.calls import call, leftovers, load_zodan, remove_node
from support.clusters import MakeCluster
from support.crash import HeldCall
from support.tables import KEYED, KEYLESS, TABLES, add_to_sets, assert_rows_equal, create_tables, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 120.0


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    load_zodan(cluster["n1"])
    return cluster


@contextmanager
def behind(cluster: Cluster, *names: str, target: str = "n3") -> Iterator[None]:
    """What the target commits meanwhile does not come to the members ``names``; at the end it dies."""
    wait_level(cluster.members)
    for name in names:
        cluster[name].execute("SELECT spock.sub_disable(%(sub)s, true)", {"sub": f"sub_{target}_{name}"})
        wait_until(lambda name=name: _working(cluster[name], target), _BUDGET_S, f"{name} to stop")
    yield
    kill(cluster, target)


def _working(node: Node, provider: str) -> str:
    """Name the slot that is still read from."""
    return "".join(
        str(row[0])
        for row in node.execute(
            "SELECT o.external_id FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin"
            " JOIN pg_stat_activity a ON concat_ws(' ', a.backend_type, a.application_name)"
            " ~ ('apply .*:' || s.sub_id || '( |$)')"
            " JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name"
            " WHERE n.node_name = %(provider)s",
            {"provider": provider},
        )
    )


def kill(cluster: Cluster, target: str = "n3") -> None:
    """Wait until those who still follow the target have all that it committed, and stop it for good."""
    node = cluster[target]
    mark = node.execute("SELECT spock.sync_event(true)")[0][0]
    survivors = [member for member in cluster.members if member is not node]
    wait_until(lambda: _waiting(survivors, target, mark), _BUDGET_S, "somebody to have all of the target")
    node.stop("immediate")
    cluster.members.remove(node)


def _waiting(nodes: list[Node], provider: str, mark: str) -> str:
    found = [
        row[0]
        for node in nodes
        for row in node.execute(
            "SELECT o.remote_lsn >= %(mark)s::pg_lsn FROM spock.subscription s"
            " JOIN spock.node n ON n.node_id = s.sub_origin"
            " JOIN pg_replication_origin_status o ON o.external_id = s.sub_slot_name"
            " WHERE n.node_name = %(provider)s AND s.sub_enabled",
            {"mark": mark, "provider": provider},
        )
    ]
    return "" if found and all(found) else f"{found} at {mark}"


def remove(cluster: Cluster, at: str = "n1", target: str = "n3", **options: Any) -> list[str]:
    return call(cluster[at], "spock.remove_node", **(_arguments(target) | options))


def _arguments(target: str) -> dict[str, Any]:
    return {
        "target_node_name": target,
        "target_node_dsn": "host=127.0.0.1 port=1 dbname=app connect_timeout=1",
        "force": True,
        "level": True,
    }


def _levelling(cluster: Cluster, target: str) -> int:
    """Return the first step that writes rows."""
    query = "SELECT min(ordinal) FROM zodan.plan_remove_node(%(target)s, %(dsn)s, true, level => true)"
    arguments = _arguments(target)
    planned = cluster["n1"].execute(
        f"{query} WHERE phase_name = 'level'", {"target": target, "dsn": arguments["target_node_dsn"]}
    )
    return int(planned[0][0])


def same(cluster: Cluster, *tables: str) -> None:
    """Check that the survivors have the same rows, that nothing of the target is left, and that they go on."""
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, tables or TABLES)
    assert leftovers(cluster.members, "n3") == []
    for node in cluster.members:
        assert node.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'zodan%'") == []


def test_ten_thousand_rows_behind_under_writers(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'x' FROM generate_series(1, 2000) i")
    n1.execute(f"INSERT INTO {KEYED} SELECT i, 'n1', 0, 'x' FROM generate_series(10001, 12000) i")
    n2.execute(f"INSERT INTO {KEYED} SELECT i, 'n2', 0, 'x' FROM generate_series(20001, 22000) i")
    wait_level(cluster.members)
    with Writers([n1, n2]) as writers:
        with behind(cluster, "n2"):
            with n3.connect() as connection:
                for i in range(2000):
                    connection.execute(f"INSERT INTO {KEYED} VALUES (%s, 'n3', 0, repeat('y', 100))", [100_000 + i])
            n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'z' FROM generate_series(200001, 205000) i")
            n3.execute(f"INSERT INTO {KEYLESS} SELECT 'n3', i / 2, 'z' FROM generate_series(1, 3000) i")
            n3.execute(f"UPDATE {KEYED} SET value = 7 WHERE id BETWEEN 1001 AND 1500 OR id BETWEEN 11001 AND 11500")
            n3.execute(f"UPDATE {KEYED} SET value = 8 WHERE id BETWEEN 21001 AND 21500")
            n3.execute(f"DELETE FROM {KEYED} WHERE id BETWEEN 1501 AND 2000 OR id BETWEEN 11501 AND 12000")
            n3.execute(f"DELETE FROM {KEYED} WHERE id BETWEEN 21501 AND 22000")
        # Of what n2 lacks, some is changed on n1 meanwhile.
        n1.execute(f"UPDATE {KEYED} SET value = value + 1 WHERE id BETWEEN 100000 AND 100010")
        remove(cluster)
    assert writers.failures == []
    same(cluster)


_KINDS = """
CREATE TABLE wide (id bigint PRIMARY KEY, value integer, long text);
ALTER TABLE wide ALTER long SET STORAGE EXTERNAL;
CREATE TABLE parts (id bigint, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
CREATE TABLE odd ("a key" text, "B" uuid, twice integer GENERATED ALWAYS AS (n * 2) STORED, n integer,
    at timestamptz DEFAULT now(), PRIMARY KEY ("B", "a key"));
CREATE TABLE parents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text UNIQUE);
CREATE TABLE children (id bigint PRIMARY KEY, parent bigint NOT NULL REFERENCES parents);
CREATE TABLE listed (id bigint PRIMARY KEY, shown text, hidden text);
CREATE TABLE filtered (id bigint PRIMARY KEY, region text);
CREATE TABLE declared (id bigint PRIMARY KEY, x xml);
CREATE TABLE blind (id bigint PRIMARY KEY, shown text, hidden int);
"""
_KINDS_KEYED = ("wide", "parts", "odd", "parents", "children", "declared")


def test_every_kind_of_table_and_of_change(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute(_KINDS)
            for table in _KINDS_KEYED:
                connection.execute(
                    "SELECT spock.repset_add_table('default', %(table)s::regclass) WHERE NOT EXISTS"
                    " (SELECT FROM spock.tables WHERE relid = %(table)s::regclass AND set_name = 'default')",
                    {"table": table},
                )
            for table, more in (
                ("listed", "'{id,shown}'"),
                ("filtered", "NULL, 'region = ''eu'''"),
                ("blind", "'{id,shown}', 'hidden > 5'"),
            ):
                connection.execute(
                    f"SELECT spock.repset_remove_table(set_name, '{table}') FROM spock.tables"
                    f" WHERE relid = '{table}'::regclass AND set_name IS NOT NULL".encode()
                )
                connection.execute(f"SELECT spock.repset_add_table('default', '{table}', false, {more})".encode())
    wait_level(cluster.members)
    n3.execute("INSERT INTO wide SELECT i, 0, repeat('a', 5000) FROM generate_series(1, 20) i")
    n2.execute("INSERT INTO wide SELECT i, 0, repeat('b', 5000) FROM generate_series(21, 40) i")
    n3.execute("INSERT INTO parts SELECT i, '2020-05-05', 'x' FROM generate_series(1, 20) i")
    n3.execute("INSERT INTO parents (code) VALUES ('one'), ('two'), ('three')")
    n3.execute("INSERT INTO children VALUES (1, 3)")
    n1.execute("INSERT INTO filtered VALUES (4, 'eu'), (5, 'eu')")
    n3.execute("INSERT INTO blind VALUES (1, 'x', 9), (2, 'x', 9)")
    wait_level(cluster.members)
    # The filter of n1 keeps it no longer, so no other node hears of that.
    n1.execute("UPDATE filtered SET region = 'us' WHERE id = 4")
    with behind(cluster, "n2"):
        n3.execute("UPDATE wide SET long = repeat('c', 6000) WHERE id IN (1, 2, 3, 21, 22)")
        n3.execute("DELETE FROM wide WHERE id IN (5, 25)")
        n3.execute("INSERT INTO wide VALUES (50, 1, repeat('d', 7000)), (51, 1, NULL)")
        n3.execute("UPDATE parts SET day = '2021-05-05' WHERE id = 1")
        n3.execute("DELETE FROM parts WHERE id = 2")
        n3.execute("INSERT INTO parts VALUES (30, '2021-01-01', NULL)")
        n3.execute("""INSERT INTO odd VALUES ('it''s "a" \\ key', gen_random_uuid(), DEFAULT, 3)""")
        # A unique value moves to another row, to which others refer.
        n3.execute("DELETE FROM children")
        n3.execute("DELETE FROM parents WHERE code = 'three'")
        n3.execute("INSERT INTO parents (code) VALUES ('three')")
        n3.execute("INSERT INTO children SELECT 2, id FROM parents WHERE code = 'three'")
        n3.execute("INSERT INTO listed VALUES (1, 'x', 'not replicated')")
        n3.execute("INSERT INTO filtered VALUES (1, 'eu'), (2, 'us')")
        n3.execute("INSERT INTO blind VALUES (3, 'x', 9), (4, 'x', 1)")
        n3.execute("UPDATE blind SET shown = 'y' WHERE id = 1")
        n3.execute('INSERT INTO declared VALUES (1, \'<?xml version="1.0" encoding="UTF-8"?><a/>\')')
        n3.execute(f"INSERT INTO {KEYLESS} VALUES ('n3', 1, 'x'), ('n3', 1, 'x'), ('n3', 2, NULL)")
    # Later than the dead node's: another column of a row whose long value it changed; and the same key inserted.
    n1.execute("UPDATE wide SET value = 5 WHERE id = 2")
    n2.execute("UPDATE wide SET value = 6, long = 'short' WHERE id = 3")
    n2.execute("INSERT INTO wide VALUES (50, 2, 'later')")
    # A row that the filter of n2 keeps there.
    n2.execute("INSERT INTO filtered VALUES (3, 'us')")
    # Rows that are each node's own.
    n1.execute("INSERT INTO blind VALUES (5, 'x', 1), (7, 'x', 9)")
    n2.execute("INSERT INTO blind VALUES (6, 'x', 1), (8, 'x', 9)")
    n2.execute("UPDATE blind SET shown = 'own' WHERE id = 2")
    wait_level([n1, n2])
    told = remove(cluster)
    assert [line for line in told if line.startswith('node "n2" was brought level with node "n1"')], told
    published = ("(SELECT id, shown FROM listed)", "(SELECT * FROM filtered WHERE region = 'eu' AND id <> 4)")
    same(cluster, *_KINDS_KEYED, *published, *TABLES)
    assert n2.execute("SELECT value, long FROM wide WHERE id IN (3, 50) ORDER BY id") == [(6, "short"), (2, "later")]
    assert n2.execute("SELECT id, region FROM filtered ORDER BY id") == [(1, "eu"), (3, "us"), (4, "eu"), (5, "eu")]
    # What xml prints lacks the encoding that it declares; the value as a text has it, if the stream brought it.
    declared = "SELECT x::text FROM declared"
    assert n2.execute(declared) == n1.execute(declared) != []
    assert n2.execute("SELECT hidden FROM listed") == [(None,)]
    assert [n.execute("SELECT id, shown, hidden FROM blind ORDER BY id") for n in (n1, n2)] == [
        [(1, "y", None), (2, "x", None), (3, "x", None), (5, "x", 1), (7, "x", 9), (8, "x", None)],
        [(1, "y", None), (2, "own", None), (3, "x", None), (6, "x", 1), (7, "x", None), (8, "x", 9)],
    ]
    # The commit times are those of the dead node, on both.
    query = "SELECT id, pg_xact_commit_timestamp(xmin) FROM wide WHERE id IN (1, 21, 51) ORDER BY id"
    assert n1.execute(query) == n2.execute(query)
    # The two go on.
    n1.execute("UPDATE wide SET value = 9")
    n2.execute("DELETE FROM parts WHERE id = 30")
    wait_level([n1, n2])
    assert_rows_equal([n1, n2], _KINDS_KEYED)


def _create(cluster: Cluster, ddl: str, **tables: str) -> None:
    """Create tables on every member; each keyword names one, and what repset_add_table gets after it."""
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute(ddl.encode())
            for table, more in tables.items():
                connection.execute(
                    "SELECT spock.repset_remove_table(set_name, relid) FROM spock.tables"
                    " WHERE relid = %s::regclass AND set_name IS NOT NULL",
                    [table],
                )
                connection.execute(f"SELECT spock.repset_add_table('default', '{table}'{more})".encode())
    wait_level(cluster.members)


_CHECKED = """
CREATE EXTENSION IF NOT EXISTS btree_gist SCHEMA public;
CREATE TYPE shade AS ENUM ('red', 'rose', 'blue');
CREATE FUNCTION name_shade(shade) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'any shade' $$;
CREATE CAST (shade AS text) WITH FUNCTION name_shade(shade);
CREATE FUNCTION is_positive(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 > 0';
CREATE FUNCTION is_checked(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN is_positive($1); END';
CREATE DOMAIN checked AS int CHECK (is_checked(VALUE));
CREATE TABLE shades (k shade PRIMARY KEY, v text);
CREATE TABLE checks (k checked PRIMARY KEY, v checked CHECK (is_checked(v)));
CREATE TABLE rooms (k int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&) DEFERRABLE);
CREATE TABLE stays (k int, r daterange, v text, PRIMARY KEY (k, r{overlaps}));
"""
_CHECKED_TABLES = ("shades", "checks", "rooms", "stays")


def _use_uris(cluster: Cluster) -> None:
    """Have the catalogs name the members as postgresql://, with and without options at its end."""
    for node in cluster.members:
        schema = node.execute("SELECT coalesce(to_regnamespace('pglogical')::text, 'spock')")[0][0]
        for member, end in zip(cluster.members, ("", "?connect_timeout=9", ""), strict=True):
            dsn = {name: quote(str(value), safe="") for name, value in conninfo_to_dict(member.dsn()).items()}
            # Before the host, a question mark need not be written as %3F.
            secret = dsn["password"].replace("%3F", "?")
            uri = f"postgresql://{dsn['user']}:{secret}@{dsn['host']}:{dsn['port']}/{dsn['dbname']}{end}"
            node.execute(
                f"UPDATE {schema}.node_interface SET if_dsn = %(uri)s WHERE if_nodeid ="
                f" (SELECT node_id FROM {schema}.node WHERE node_name = %(name)s)",
                {"uri": uri, "name": member.name},
            )


def test_values_that_are_checked_and_keys_of_other_kinds(cluster: Cluster) -> None:
    n1, _, n3 = cluster.members
    ((version,),) = n1.execute("SELECT current_setting('server_version_num')::int")
    overlaps = " WITHOUT OVERLAPS" if version >= 180000 else ""
    _create(cluster, _CHECKED.format(overlaps=overlaps), **dict.fromkeys(_CHECKED_TABLES, ""))
    n3.execute("INSERT INTO shades VALUES ('red', 'a'), ('rose', 'b')")
    n3.execute("INSERT INTO checks SELECT i, i FROM generate_series(1, 5) AS i")
    n3.execute("INSERT INTO rooms SELECT i, int4range(i, i + 1) FROM generate_series(1, 5) AS i")
    n3.execute("INSERT INTO stays SELECT i, '[2020-01-01,2020-02-01)', 'a' FROM generate_series(1, 5) AS i")
    wait_level(cluster.members)
    _use_uris(cluster)
    with behind(cluster, "n2"):
        n3.execute("UPDATE shades SET v = 'z' WHERE k = 'red'")
        n3.execute("INSERT INTO shades VALUES ('blue', 'c')")
        n3.execute("UPDATE checks SET v = 7 WHERE k = 1")
        n3.execute("INSERT INTO checks VALUES (6, 6)")
        n3.execute("DELETE FROM rooms WHERE k = 1")
        n3.execute("INSERT INTO rooms VALUES (6, '[1,2)')")
        n3.execute("UPDATE stays SET v = 'z' WHERE k = 1")
    remove(cluster)
    same(cluster, *_CHECKED_TABLES)


_ALWAYS = """
CREATE TABLE drawn (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text,
    twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE only_drawn (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE listed (id int PRIMARY KEY, hidden text, n int GENERATED ALWAYS AS IDENTITY, shown text);
"""


def test_what_rows_compute_by_the_settings_of_a_database(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0, extra_conf={"timezone": "Asia/Tokyo"})
    n1, _, n3 = cluster.members
    create_tables(cluster)
    for node in cluster.members:
        node.execute("CREATE FUNCTION day_of(timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS 'SELECT $1::date'")
        node.execute("CREATE TABLE dated (id int PRIMARY KEY, at timestamptz)")
        node.execute("CREATE INDEX dated_day ON dated (day_of(at))")
        add_to_sets(node, {"dated": "default"})
    # For eight of these hours, it is another day in Tokyo than in Greenwich.
    hours = (
        "SELECT i + %(first)s, timestamptz '2026-01-01 00:30+09' + i * interval '1 hour'"
        " FROM generate_series(0, 23) AS i"
    )
    n3.execute(f"INSERT INTO dated {hours}", {"first": 0})
    wait_level(cluster.members)
    load_zodan(n1)
    with behind(cluster, "n2"):
        n3.execute(f"INSERT INTO dated {hours}", {"first": 100})
        n3.execute("UPDATE dated SET at = at + interval '1 day' WHERE id < 100")
    remove(cluster)
    same(cluster, "dated")
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute("SET enable_seqscan = off")
            for day in ("2026-01-01", "2026-01-02"):
                found = connection.execute("SELECT count(*) FROM dated WHERE day_of(at) = %s", [day]).fetchone()
                assert found == (24,), (node.name, day)


def test_a_value_that_only_an_insert_can_write(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    _create(cluster, _ALWAYS, drawn="", only_drawn="", listed=", false, '{id,n,shown}'")
    n3.execute("INSERT INTO drawn (id, v) SELECT i, 'a' FROM generate_series(1, 5) AS i")
    n3.execute("INSERT INTO only_drawn (id) VALUES (1), (2)")
    n3.execute("INSERT INTO listed (id, shown) VALUES (1, 'a'), (2, 'a')")
    wait_level(cluster.members)
    n2.execute("UPDATE listed SET hidden = 'of n2'")
    with behind(cluster, "n2"):
        n3.execute("UPDATE drawn SET n = DEFAULT, v = 'z' WHERE id IN (1, 2)")
        n3.execute("UPDATE drawn SET v = 'y' WHERE id = 3")
        n3.execute("UPDATE only_drawn SET n = DEFAULT WHERE id = 1")
        n3.execute("UPDATE listed SET n = DEFAULT, shown = 'z' WHERE id = 1")
    remove(cluster)
    same(cluster, "drawn", "only_drawn", "(SELECT id, n, shown FROM listed)")
    assert n2.execute("SELECT id, n, v, twice FROM drawn WHERE id < 4 ORDER BY id") == [
        (1, 6, "z", 2),
        (2, 7, "z", 4),
        (3, 3, "y", 6),
    ]
    assert n2.execute("SELECT id, n, shown, hidden FROM listed ORDER BY id") == [
        (1, 3, "z", "of n2"),
        (2, 2, "a", "of n2"),
    ]
    query = "SELECT id, pg_xact_commit_timestamp(xmin) FROM drawn ORDER BY id"
    assert n1.execute(query) == n2.execute(query)


_ODD_KEYS = """
CREATE SCHEMA "o'dd";
CREATE EXTENSION ltree SCHEMA public;
CREATE EXTENSION citext SCHEMA "o'dd";
CREATE DOMAIN "o'dd"."wor d" AS "o'dd".citext;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE trees (id ltree PRIMARY KEY, v text);
CREATE TABLE words ("wor d" "o'dd"."wor d", v text, PRIMARY KEY ("wor d"));
CREATE TABLE mixed (id ltree, n int, word "o'dd".citext, v text, PRIMARY KEY (n, id, word));
CREATE TABLE patterns (id varchar(9) NOT NULL, code char(3) NOT NULL, how mood NOT NULL, v text);
CREATE UNIQUE INDEX of_patterns ON patterns (id text_pattern_ops, code, how DESC);
ALTER TABLE patterns REPLICA IDENTITY USING INDEX of_patterns;
"""
_ODD_TABLES = ("trees", "words", "mixed", "patterns")


def test_keys_of_every_kind_of_type(cluster: Cluster) -> None:
    _, n2, n3 = cluster.members
    _create(cluster, _ODD_KEYS, **dict.fromkeys(_ODD_TABLES, ""))
    rows = (
        "INSERT INTO trees SELECT ('a.b' || i)::ltree, 'x' FROM generate_series({0}, {1}) AS i",
        "INSERT INTO words SELECT 'A' || i, 'x' FROM generate_series({0}, {1}) AS i",
        "INSERT INTO mixed SELECT ('a.' || i)::ltree, i % 7, 'W' || i % 3, 'x' FROM generate_series({0}, {1}) AS i",
        "INSERT INTO patterns SELECT i, i % 13, CASE WHEN i % 2 = 0 THEN 'sad' ELSE 'glad' END::mood, 'x'"
        " FROM generate_series({0}, {1}) AS i",
    )
    for statement in rows:
        n3.execute(f'SET search_path = public, "o\'dd"; {statement.format(1, 12_000)}')
    with behind(cluster, "n2"):
        for statement, table in zip(rows, _ODD_TABLES, strict=True):
            n3.execute(f'SET search_path = public, "o\'dd"; {statement.format(12_001, 12_100)}')
            n3.execute(f"UPDATE {table} SET v = 'y' WHERE md5({table}::text) < '02'")
            n3.execute(f"DELETE FROM {table} WHERE ctid < '(1,0)'")
        n3.execute("UPDATE words SET \"wor d\" = 'a7777' WHERE \"wor d\" = 'A7777'")
    told = remove(cluster)
    same(cluster, *_ODD_TABLES)
    assert n2.execute('SELECT "wor d"::text FROM words WHERE "wor d"::text ILIKE \'a7777\'') == [("a7777",)]
    assert [line for line in told if line.startswith('node "n2" was brought level')], told


_EXCHANGED = """
CREATE EXTENSION btree_gist;
CREATE TABLE swapped (id int PRIMARY KEY, u text UNIQUE, hidden text);
CREATE TABLE at_once (id int PRIMARY KEY, u text UNIQUE);
CREATE TABLE excluded (id int PRIMARY KEY, room int, during int4range,
    EXCLUDE USING gist (room WITH =, during WITH &&));
CREATE TABLE numbered (id int PRIMARY KEY, place int UNIQUE);
CREATE TABLE drawn (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY UNIQUE);
"""
_EXCHANGED_TABLES = ("at_once", "excluded", "numbered", "drawn")


def test_rows_that_exchange_unique_values(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    more = dict.fromkeys(_EXCHANGED_TABLES, "")
    _create(cluster, _EXCHANGED, swapped=", false, '{id,u}'", **more)
    n3.execute("INSERT INTO swapped (id, u) SELECT i, 'u' || i FROM generate_series(1, 9) AS i")
    n3.execute("INSERT INTO at_once SELECT i, 'u' || i FROM generate_series(1, 9) AS i")
    n3.execute("INSERT INTO excluded SELECT i, 1, int4range(i * 10, i * 10 + 9) FROM generate_series(1, 9) AS i")
    n3.execute("INSERT INTO numbered SELECT i, i FROM generate_series(1, 1000) AS i")
    n3.execute("INSERT INTO drawn (id) SELECT i FROM generate_series(1, 5) AS i")
    wait_level(cluster.members)
    n2.execute("UPDATE swapped SET hidden = 'of n2'")
    with behind(cluster, "n2"):
        for table, column, first, second, aside in (
            ("swapped", "u", "'u1'", "'u2'", "'aside'"),
            ("excluded", "during", "'[10,19)'", "'[20,29)'", "'[0,1)'"),
        ):
            n3.execute(f"UPDATE {table} SET {column} = {aside} WHERE id = 1")
            n3.execute(f"UPDATE {table} SET {column} = {first} WHERE id = 2")
            n3.execute(f"UPDATE {table} SET {column} = {second} WHERE id = 1")
        # In one commit, and one value that comes from nowhere and one that goes to a new row.
        with n3.connect() as connection, connection.transaction():
            connection.execute("UPDATE at_once SET u = 'aside' WHERE id = 1")
            connection.execute("UPDATE at_once SET u = 'u1' WHERE id = 2")
            connection.execute("UPDATE at_once SET u = 'u2' WHERE id = 1")
        n3.execute("UPDATE at_once SET u = 'new' WHERE id = 4")
        n3.execute("INSERT INTO at_once VALUES (10, 'u4')")
        # More rows than Zodan writes at a time.
        n3.execute("UPDATE numbered SET place = -place")
        n3.execute("UPDATE numbered SET place = -place % 1000 + 1")
        n3.execute("UPDATE drawn SET n = DEFAULT WHERE id IN (1, 2)")
    told = remove(cluster)
    same(cluster, "(SELECT id, u FROM swapped)", *_EXCHANGED_TABLES)
    assert n2.execute("SELECT u, hidden FROM swapped WHERE id < 3 ORDER BY id") == [("u2", "of n2"), ("u1", "of n2")]
    assert n2.execute("SELECT place FROM numbered WHERE id IN (1, 1000) ORDER BY id") == [(2,), (1,)]
    for table in ("swapped", *_EXCHANGED_TABLES):
        times = f"SELECT id, pg_xact_commit_timestamp(xmin) FROM {table} ORDER BY id"
        assert n1.execute(times) == n2.execute(times), table
    assert [line for line in told if line.startswith('node "n2" was brought level')], told
    # The two go on.
    n1.execute("UPDATE swapped SET u = 'x' WHERE id = 1")
    n2.execute("UPDATE swapped SET u = 'y' WHERE id = 2")
    wait_level([n1, n2])
    assert_rows_equal([n1, n2], ["(SELECT id, u FROM swapped)"])


def test_a_unique_value_that_a_row_has_for_good(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    _create(cluster, "CREATE TABLE part (id int PRIMARY KEY, u text UNIQUE)", part=", false, NULL, 'id < 100'")
    n3.execute("INSERT INTO part VALUES (1, 'u1'), (2, 'u2')")
    wait_level(cluster.members)
    # A row that is not published.
    n2.execute("INSERT INTO part VALUES (100, 'taken')")
    with behind(cluster, "n2"):
        n3.execute("UPDATE part SET u = 'taken' WHERE id = 1")
    with pytest.raises(psycopg.Error) as left:
        remove(cluster)
    assert left.value.sqlstate == "ZD406"
    assert 'public.part ["1"]: duplicate key' in str(left.value.diag.message_detail)
    rows = "SELECT * FROM part ORDER BY id"
    assert n2.execute(rows) == [(1, "u1"), (2, "u2"), (100, "taken")]
    n2.execute("DELETE FROM part WHERE id = 100")
    remove(cluster)
    same(cluster, "part")
    assert n2.execute(rows) == n1.execute(rows) == [(1, "taken"), (2, "u2")]


@pytest.mark.slow
def test_killed_while_levelling_and_called_again(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    with behind(cluster, "n2"), n3.connect() as connection:
        for i in range(4000):
            connection.execute(f"INSERT INTO {KEYED} VALUES (%s, 'n3', 0, 'x')".encode(), [i])
            if i % 4 == 0:
                connection.execute(f"INSERT INTO {KEYLESS} VALUES ('n3', %s, 'x')".encode(), [i % 100])
    for _ in range(2):
        before = _count(n2)
        failed: list[str] = []
        thread = threading.Thread(target=_remove_in_vain, args=(cluster, failed))
        thread.start()
        wait_until(lambda before=before: "" if _count(n2) > before + 50 else "none", _BUDGET_S, "rows to come")
        n1.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE 'CALL spock.remove_node%' AND pid <> pg_backend_pid()"
        )
        thread.join(_BUDGET_S)
        assert failed
        assert _count(n2) < _count(n1)
    remove(cluster)
    same(cluster)


def _remove_in_vain(cluster: Cluster, failed: list[str], at: str = "n1") -> None:
    try:
        remove(cluster, at=at)
    except psycopg.Error as error:
        failed.append(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "at"), [("n2", "n1"), ("n1", "n2")])
def test_a_survivor_that_dies_while_levelled_and_comes_back(cluster: Cluster, killed: str, at: str) -> None:
    n1, n2, n3 = cluster.members
    load_zodan(n2)
    with behind(cluster, "n2"), n3.connect() as connection:
        for i in range(3000):
            connection.execute(f"INSERT INTO {KEYED} VALUES (%s, 'n3', 0, 'x')".encode(), [i])
            if i % 4 == 0:
                connection.execute(f"INSERT INTO {KEYLESS} VALUES ('n3', %s, 'x')".encode(), [i % 100])
    failed: list[str] = []
    thread = threading.Thread(target=_remove_in_vain, args=(cluster, failed, at))
    thread.start()
    wait_until(lambda: "" if _count(n2) > 50 else "none", _BUDGET_S, "rows to come")
    cluster[killed].stop("immediate")
    assert _count(n1 if killed == "n2" else n2) > 50
    cluster[killed].start()
    # It waits for who comes back soon, or says who is away.
    thread.join()
    if failed:
        remove(cluster, at=at)
    same(cluster)


def _count(node: Node) -> int:
    return int(node.execute(f"SELECT (SELECT count(*) FROM {KEYED}) + (SELECT count(*) FROM {KEYLESS})")[0][0])


def test_two_behind_at_different_positions(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=4, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    n1, n2, n3, n4 = cluster.members
    load_zodan(n3)
    n4.execute(f"INSERT INTO {KEYED} SELECT i, 'n4', 0, 'x' FROM generate_series(1, 100) i")
    with behind(cluster, "n1", target="n4"):
        n4.execute(f"UPDATE {KEYED} SET value = 1 WHERE id <= 50")
        n4.execute(f"INSERT INTO {KEYLESS} VALUES ('n4', 1, 'x'), ('n4', 1, 'x')")
        wait_level([n2, n3, n4])
        n2.execute("SELECT spock.sub_disable('sub_n4_n2', true)")
        wait_until(lambda: _working(n2, "n4"), _BUDGET_S, "n2 to stop")
        n4.execute(f"UPDATE {KEYED} SET value = 2 WHERE id BETWEEN 25 AND 75")
        n4.execute(f"DELETE FROM {KEYED} WHERE id > 90")
        n4.execute(f"INSERT INTO {KEYLESS} VALUES ('n4', 1, 'x')")
    # Without being told to, it refuses.
    with pytest.raises(psycopg.Error) as refused:
        remove(cluster, at="n3", target="n4", level=False)
    assert refused.value.sqlstate == "ZD100"
    told = remove(cluster, at="n3", target="n4")
    assert [line.split(" with ")[1][:9] for line in told if "brought level" in line] == ['node "n3"'] * 2
    wait_level(cluster.members)
    assert_rows_equal(cluster.members)
    assert leftovers(cluster.members, "n4") == []
    assert n1.execute(f"SELECT count(*) FROM {KEYLESS}") == [(3,)]


def test_what_cannot_be_known_is_named_and_left(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    n2.execute(f"INSERT INTO {KEYED} VALUES (7, 'n2', 0, 'first')")
    with behind(cluster, "n2"):
        n3.execute(f"DELETE FROM {KEYED} WHERE id = 7")
        n3.execute(f"INSERT INTO {KEYED} VALUES (8, 'n3', 0, 'x')")
    with pytest.raises(psycopg.Error) as left:
        remove(cluster)
    assert left.value.sqlstate == "ZD406"
    assert 'public.app_keyed ["7"]' in str(left.value.diag.message_detail)
    # What is known has been done, and nothing is lost.
    assert n2.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(7,), (8,)]
    told = remove(cluster, accept_divergence=True)
    assert [line for line in told if line.startswith('node "n2" has 1 rows that differ')], told
    assert n2.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(7,), (8,)]
    assert n1.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(8,)]
    assert leftovers(cluster.members, "n3") == []


def test_rows_of_a_node_that_was_removed_before_stay(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=4, blanks=0)
    create_tables(cluster)
    n1, n2, n3, n4 = cluster.members
    load_zodan(n1)
    n4.execute(f"INSERT INTO {KEYED} VALUES (1, 'n4', 0, 'all have it'), (2, 'n4', 0, 'so it stays')")
    with behind(cluster, "n1", "n3", target="n4"):
        n4.execute(f"INSERT INTO {KEYED} VALUES (3, 'n4', 0, 'only n2 has it')")
    remove(cluster, target="n4", level=False, accept_divergence=True)
    with behind(cluster, "n2"):
        n3.execute(f"DELETE FROM {KEYED} WHERE id = 1")
        n3.execute(f"INSERT INTO {KEYED} VALUES (4, 'n3', 0, 'x')")
    # Nothing tells the row that was deleted from the one that n1 never had.
    with pytest.raises(psycopg.Error) as left:
        remove(cluster)
    assert left.value.sqlstate == "ZD406"
    told = str(left.value.diag.message_detail)
    assert 'public.app_keyed ["1"]: only here' in told
    assert 'public.app_keyed ["3"]: only here' in told
    assert n2.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(1,), (2,), (3,), (4,)]
    assert n1.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(2,), (4,)]


def test_a_survivor_that_cannot_be_reached(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=4, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    n1, n2, n3, n4 = cluster.members
    load_zodan(n1)
    with behind(cluster, "n2", target="n4"):
        n4.execute(f"INSERT INTO {KEYED} VALUES (8, 'n4', 0, 'x')")
    n3.stop()
    with pytest.raises(psycopg.Error) as unknown:
        remove(cluster, target="n4")
    assert unknown.value.sqlstate == "ZD100"
    n3.start()
    wait_until(lambda: "" if n3.is_running() else "it is down", _BUDGET_S, "n3 to start")
    # Members that do not replicate cannot be compared.
    n1.execute("SELECT spock.sub_disable('sub_n3_n1')")
    with pytest.raises(psycopg.Error) as disabled:
        remove(cluster, target="n4")
    assert disabled.value.sqlstate == "ZD100"
    assert 'streams while levelled on "n3 -> n1"' in str(disabled.value.diag.message_detail)
    n1.execute("SELECT spock.sub_enable('sub_n3_n1')")
    # Or they stop later.
    held = HeldCall(n1, f"before {_levelling(cluster, 'n4')}", "spock.remove_node", _arguments("n4"))
    n1.execute("SELECT spock.sub_disable('sub_n3_n1')")
    held.let_go()
    assert held.error is not None
    assert held.error.sqlstate == "ZD202"
    assert "node n1 from node n3" in str(held.error.diag.message_detail)
    assert n2.execute(f"SELECT id FROM {KEYED}") == []
    n1.execute("SELECT spock.sub_enable('sub_n3_n1')")
    remove(cluster, target="n4")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members)
    assert leftovers(cluster.members, "n4") == []


def test_a_stream_that_stopped_at_a_row_that_is_not_there_yet(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.members
    if cluster.engine.is_real:
        _behave(n2, "sub_disable")
    with behind(cluster, "n2"):
        n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'x' FROM generate_series(1, 20) AS i")
    # In one transaction with rows that n2 has: Spock may discard all of it, or none, or disable the stream.
    with n1.connect() as connection, connection.transaction():
        connection.execute(f"UPDATE {KEYED} SET value = 1, node = 'n1' WHERE id <= 5")
        connection.execute(f"INSERT INTO {KEYED} VALUES (100, 'n1', 0, 'with them')")
        connection.execute(f"DELETE FROM {KEYED} WHERE id = 6")
    n1.execute(f"INSERT INTO {KEYED} VALUES (101, 'n1', 0, 'afterwards')")
    came = f"SELECT count(*) FROM {KEYED} WHERE id = 101"
    enabled = "SELECT sub_enabled FROM spock.subscription WHERE sub_name = 'sub_n1_n2'"
    wait_until(
        lambda: "" if n2.execute(came) == [(1,)] or n2.execute(enabled) == [(False,)] else "neither",
        _BUDGET_S,
        "what n1 committed to come, or the stream to stop",
    )
    if n2.execute(enabled) == [(False,)]:
        with pytest.raises(psycopg.Error) as stopped:
            remove(cluster)
        assert stopped.value.sqlstate == "ZD100"
        assert 'streams while levelled on "n1 -> n2"' in str(stopped.value.diag.message_detail)
        assert "set spock.exception_behaviour to discard" in str(stopped.value.diag.message_hint)
        _behave(n2, "discard")
        n2.execute("SELECT spock.sub_enable('sub_n1_n2')")
    remove(cluster)
    same(cluster)
    assert n2.execute(f"SELECT count(*), sum(value) FROM {KEYED}") == [(21, 5)]


def _behave(node: Node, behaviour: str) -> None:
    """Say what Spock does with a change that it cannot apply."""
    node.execute(f"ALTER SYSTEM SET spock.exception_behaviour = '{behaviour}'")
    node.execute("SELECT pg_reload_conf()")


def test_where_there_is_nothing_to_level(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=4, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    # A node that lives is drained, which leaves nothing to level.
    remove_node(cluster, "n4", at="n1", level=True)
    # The others have all of a node that is dead.
    wait_level(cluster.members)
    kill(cluster)
    told = remove(cluster)
    assert not [line for line in told if "brought level" in line]
    same(cluster)
