"""The rendered scripts load in plain psql: alone, together, in either order, twice; what is missing is said."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.scripts import load
from zodan_sql.building.render import find_build
from zodan_sql.client.install import install
from zodan_sql.sandbox import Engine, Node

_ROUTINES = """
SELECT p.oid::regprocedure::text || coalesce(' ' || md5(p.prosrc), '')
  FROM pg_proc AS p
 WHERE p.pronamespace = 'zodan'::regnamespace
    OR p.pronamespace = 'spock'::regnamespace AND p.proname IN ('add_node', 'remove_node', 'health_check')
"""
_numbers = itertools.count(1)
MakeDatabase = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def make_database(server: Node) -> MakeDatabase:
    """Return a function that makes a database with some extensions and connects to it."""

    def make(*extensions: str) -> psycopg.Connection[Any]:
        name = f"scripts_{next(_numbers)}"
        with server.connect(dbname="postgres") as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection = server.connect(dbname=name)
        for extension in extensions:
            connection.execute(sql.SQL("CREATE EXTENSION {} CASCADE").format(sql.Identifier(extension)))
        return connection

    return make


def routines(connection: psycopg.Connection[Any]) -> set[str]:
    return {row[0] for row in connection.execute(_ROUTINES)}


def run(engine: Engine, server: Node, connection: psycopg.Connection[Any], *names: str) -> str:
    """Load scripts one after the other; return what psql said."""
    said = ""
    for name in names:
        done = load(engine, server.dsn(dbname=connection.info.dbname), find_build() / name)
        said += done.stdout + done.stderr
        assert done.returncode == 0, said
    return said


def test_where_a_backslash_escapes(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock", "dblink") as connection, make_database("spock", "dblink") as plain:
        dbname = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET standard_conforming_strings = off").format(dbname))
        assert run(engine, server, connection, "zodan.sql", "zodremove.sql", "zodan.sql") == ""
        run(engine, server, plain, "zodan.sql", "zodremove.sql")
        assert routines(connection) == routines(plain)


def test_where_transactions_are_read_only(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock", "dblink") as connection:
        dbname = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(dbname))
        assert run(engine, server, connection, "zodan.sql", "zodremove.sql", "zodan.sql") == ""


def test_alone_in_either_order_and_twice(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock", "dblink") as add, make_database("spock", "dblink") as remove:
        # Loading is silent, so that a DBA sees what matters.
        assert run(engine, server, add, "zodan.sql") == ""
        assert run(engine, server, remove, "zodremove.sql") == ""
        added, removed = routines(add), routines(remove)
        assert [name for name in added if name.startswith("spock.add_node(")]
        assert not [name for name in added if name.startswith("spock.remove_node(")]
        assert [name for name in removed if name.startswith("spock.remove_node(")]
        add.execute("INSERT INTO zodan.operation (kind, node, arguments, members) VALUES ('add_node', 'n', '{}', '{}')")
        assert run(engine, server, add, "zodremove.sql", "zodan.sql", "zodremove.sql", "zodremove.sql") == ""
        assert run(engine, server, remove, "zodan.sql", "zodan.sql") == ""
        # What both scripts bring is the same in both, and the journal outlives loading again.
        assert routines(add) == routines(remove) == added | removed
        assert add.execute("SELECT count(*) FROM zodan.operation").fetchone() == (1,)


#: What an install from before there were samples looked like, as far as it matters.
_EARLIER = """
DROP TABLE zodan.sample;
DROP TABLE zodan.unit CASCADE;
ALTER TABLE zodan.operation DROP COLUMN checks;
DROP FUNCTION zodan.prepare_leave;
CREATE FUNCTION zodan.prepare_leave(p_target text, p_target_dsn text, p_survivor_dsn text, p_force boolean,
    p_accept boolean, p_lock boolean, OUT p_plan zodan.plan_step[], OUT p_dsns jsonb) LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION zodan.start_operation(p_kind text, p_node text, p_arguments jsonb, p_dsns jsonb,
    p_plan zodan.plan_step[]) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint';
INSERT INTO zodan.operation (kind, node, arguments, members, state) VALUES ('add_node', 'n', '{}', '{}', 'done');
"""
_ANOTHER = "CREATE OR REPLACE FUNCTION zodan.version() RETURNS text LANGUAGE sql AS $$SELECT '0.0.1'$$"
_COLUMNS = """
SELECT a.attrelid::regclass::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull
  FROM pg_attribute AS a
 WHERE a.attrelid IN ('zodan.operation'::regclass, 'zodan.step'::regclass, 'zodan.sample'::regclass,
        'zodan.unit'::regclass)
   AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid::regclass::text, a.attnum
"""


@pytest.mark.parametrize("another", [False, True], ids=["this version", "another version"])
def test_over_an_earlier_install(engine: Engine, server: Node, make_database: MakeDatabase, another: bool) -> None:
    with make_database("spock", "dblink") as fresh, make_database("spock", "dblink") as earlier:
        for connection in (fresh, earlier):
            run(engine, server, connection, "zodan.sql", "zodremove.sql")
        earlier.execute(_EARLIER)
        if another:
            earlier.execute(_ANOTHER)
        assert "load both scripts" in run(engine, server, earlier, "zodan.sql", "zodremove.sql")
        assert routines(earlier) == routines(fresh)
        assert earlier.execute(_COLUMNS).fetchall() == fresh.execute(_COLUMNS).fetchall()
        assert earlier.execute("SELECT node, checks FROM zodan.operation").fetchall() == [("n", None)]


#: What another build of this version looked like: a routine had other arguments, and one has gone.
_ANOTHER_BUILD = """
COMMENT ON SCHEMA zodan IS 'Zodan 0.1.0: adds nodes to a running Spock cluster and removes them.';
DROP FUNCTION zodan.wait_a_moment;
CREATE FUNCTION zodan.wait_a_moment(p_begun timestamptz) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION zodan.gone() RETURNS void LANGUAGE sql AS '';
INSERT INTO zodan.operation (kind, node, arguments, members, state) VALUES ('add_node', 'n', '{}', '{}', 'done');
"""


def test_over_another_build_of_this_version(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock", "dblink") as fresh, make_database("spock", "dblink") as earlier:
        for connection in (fresh, earlier):
            run(engine, server, connection, "zodan.sql", "zodremove.sql")
        earlier.execute(_ANOTHER_BUILD)
        assert "load both scripts" in run(engine, server, earlier, "zodan.sql")
        assert run(engine, server, earlier, "zodremove.sql", "zodan.sql") == ""
        assert routines(earlier) == routines(fresh)
        assert earlier.execute("SELECT count(*) FROM zodan.operation").fetchone() == (1,)


#: What an older Zodan's types and tables may lack, and whether the types are changed in their place for it.
_OLDER = {
    "last columns": (
        ["ALTER TYPE zodan.check_result DROP ATTRIBUTE verdict", "ALTER TYPE zodan.plan_step DROP ATTRIBUTE budget"],
        True,
    ),
    "two columns of one": (["ALTER TYPE zodan.check_result DROP ATTRIBUTE verdict, DROP ATTRIBUTE hint"], True),
    "columns between": (
        ["ALTER TYPE zodan.check_result DROP ATTRIBUTE scope", "ALTER TYPE zodan.plan_step DROP ATTRIBUTE ref"],
        False,
    ),
    "a column of another type": (["ALTER TYPE zodan.check_result ALTER ATTRIBUTE passed TYPE text"], False),
    "columns of the journal": (
        [
            "ALTER TABLE zodan.step DROP COLUMN error, DROP COLUMN attempts",
            "ALTER TABLE zodan.operation DROP COLUMN called_by",
        ],
        True,
    ),
}
_TYPES = """
SELECT a.attrelid::regclass::text,
       string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
  FROM pg_attribute AS a
 WHERE a.attrelid IN ('zodan.plan_step'::regclass, 'zodan.check_result'::regclass)
   AND a.attnum > 0 AND NOT a.attisdropped
 GROUP BY a.attrelid ORDER BY 1
"""
_USERS = """
CREATE VIEW public.of_type AS SELECT (c).name, (c).severity FROM (SELECT NULL::zodan.check_result) AS x(c);
CREATE VIEW public.of_step AS SELECT s.ordinal, (p).title FROM zodan.step AS s, (SELECT NULL::zodan.plan_step) AS x(p);
CREATE FUNCTION public.of_steps(zodan.plan_step[]) RETURNS int LANGUAGE sql AS 'SELECT cardinality($1)';
"""


@pytest.mark.parametrize(
    ("another", "by"),
    [
        pytest.param(False, "psql", id="this version, psql"),
        pytest.param(True, "install", id="another version, install"),
        pytest.param(False, "install", id="this version, install", marks=pytest.mark.slow),
        pytest.param(True, "psql", id="another version, psql", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("older", _OLDER)
def test_types_and_tables_get_the_columns_they_lack(
    engine: Engine, server: Node, make_database: MakeDatabase, older: str, another: bool, by: str
) -> None:
    statements, in_place = _OLDER[older]
    with make_database("spock", "dblink") as fresh, make_database("spock", "dblink") as earlier:
        for connection in (fresh, earlier):
            run(engine, server, connection, "zodan.sql", "zodremove.sql")
        earlier.execute(_USERS)  # type: ignore[arg-type, unused-ignore]
        # Another version is not loaded over an interrupted operation; this one is.
        earlier.execute(
            "INSERT INTO zodan.operation (kind, node, arguments, members, state)"
            " VALUES ('add_node', 'n', '{}', '{}', %s)",
            ["done" if another else "failed"],
        )
        earlier.execute("INSERT INTO zodan.step (operation_id, phase, ordinal, node, title) VALUES (1, 1, 1, 'n', 't')")
        before = earlier.execute("SELECT 'zodan.check_result'::regtype::oid").fetchone()
        for statement in statements:
            earlier.execute(statement)  # type: ignore[arg-type, unused-ignore]
        if another:
            earlier.execute(_ANOTHER)
        if by == "psql":
            run(engine, server, earlier, "zodan.sql", "zodremove.sql")
            assert run(engine, server, earlier, "zodan.sql", "zodremove.sql") == ""
        else:
            (result,) = install([server.dsn(dbname=earlier.info.dbname)])
            assert result.error is None, result.error
        assert earlier.execute(_TYPES).fetchall() == fresh.execute(_TYPES).fetchall()
        assert set(earlier.execute(_COLUMNS)) == set(fresh.execute(_COLUMNS))
        assert routines(earlier) == routines(fresh)
        assert (earlier.execute("SELECT 'zodan.check_result'::regtype::oid").fetchone() == before) == in_place
        # They do their work, on what was there, too.
        checks = "SELECT count(*) FROM zodan.checks('pre', 'n1', %s) WHERE hint IS NOT NULL"
        dsn = server.dsn(dbname=earlier.info.dbname)
        assert (earlier.execute(checks, [dsn]).fetchone() or (0,))[0] > 0
        plan = "SELECT ordinal, title, budget FROM unnest(zodan.read_plan('add_node', 'n'))"
        assert earlier.execute(plan).fetchall() == ([] if another else [(1, "t", None)])
        # So do those that users made.
        assert earlier.execute("SELECT * FROM of_type").fetchall() == [(None, None)]
        assert earlier.execute("SELECT * FROM of_step").fetchall() == [(1, None)]


def test_rows_of_a_type_that_a_user_stores_stay(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock", "dblink") as connection:
        run(engine, server, connection, "zodan.sql", "zodremove.sql")
        connection.execute("ALTER TYPE zodan.check_result DROP ATTRIBUTE verdict")
        connection.execute("CREATE TABLE noted (c zodan.check_result, all_of zodan.check_result[])")
        connection.execute("INSERT INTO noted (c.name, c.passed) VALUES ('empty', true)")
        assert "load both scripts" in run(engine, server, connection, "zodan.sql", "zodremove.sql")
        assert run(engine, server, connection, "zodremove.sql", "zodan.sql") == ""
        assert connection.execute("SELECT (c).name, (c).passed FROM noted").fetchall() == [("empty", True)]
        # It may be brought to the new one where its owner wants it.
        assert (
            connection.execute(
                "SELECT ((c).name, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'x')::zodan.check_result FROM noted"
            ).rowcount
            == 1
        )


def test_dblink_in_a_schema_of_its_own(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock") as connection:
        connection.execute('CREATE SCHEMA "my dblink"; CREATE EXTENSION dblink SCHEMA "my dblink"')
        run(engine, server, connection, "zodan.sql", "zodremove.sql")
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("SELECT zodan.plan_remove_node('n9', 'host=127.0.0.1 port=1 connect_timeout=2')")
        assert raised.value.sqlstate == "ZD100"


def test_a_newer_version_is_not_replaced(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock") as connection:
        run(engine, server, connection, "zodan.sql")
        connection.execute(_ANOTHER.replace("0.0.1", "0.10.0"))
        done = load(engine, server.dsn(dbname=connection.info.dbname), find_build() / "zodan.sql")
        assert done.returncode != 0
        assert "Zodan 0.10.0 is in database" in done.stderr
        assert connection.execute("SELECT zodan.version()").fetchone() == ("0.10.0",)


@pytest.mark.parametrize(("state", "stays"), [("failed", True), ("running", True), ("done", False)])
def test_no_version_is_replaced_under_an_operation(
    engine: Engine, server: Node, make_database: MakeDatabase, state: str, stays: bool
) -> None:
    with make_database("spock") as connection:
        run(engine, server, connection, "zodan.sql", "zodremove.sql")
        connection.execute(
            "INSERT INTO zodan.operation (kind, node, arguments, members, state)"
            " VALUES ('add_node', 'n4', '{}', '{}', %s)",
            [state],
        )
        # The same version may be loaded again.
        run(engine, server, connection, "zodan.sql", "zodremove.sql")
        connection.execute(_ANOTHER)
        done = load(engine, server.dsn(dbname=connection.info.dbname), find_build() / "zodan.sql")
        assert (done.returncode != 0) == stays
        assert ("operation 1 of Zodan 0.0.1, is not finished" in done.stderr) == stays


def test_dblink_may_be_moved_afterwards(engine: Engine, server: Node, make_database: MakeDatabase) -> None:
    with make_database("spock") as connection:
        # Where it is missing, the script makes it.
        run(engine, server, connection, "zodan.sql", "zodremove.sql")
        connection.execute("CREATE SCHEMA ext; ALTER EXTENSION dblink SET SCHEMA ext")
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("SELECT zodan.plan_remove_node('n9', 'host=127.0.0.1 port=1 connect_timeout=2')")
        assert raised.value.sqlstate == "ZD100"
        connection.execute("DROP EXTENSION dblink")
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("SELECT zodan.plan_remove_node('n9', 'host=127.0.0.1 port=1 connect_timeout=2')")
        assert raised.value.sqlstate == "ZD102"


@pytest.mark.parametrize(
    ("extensions", "missing"),
    [(["dblink"], "Spock"), ([], "Spock")],
    ids=["spock", "both"],
)
@pytest.mark.parametrize("script", ["zodan.sql", "zodremove.sql"])
def test_what_is_missing_is_said_and_nothing_is_left(
    engine: Engine, server: Node, make_database: MakeDatabase, extensions: list[str], missing: str, script: str
) -> None:
    with make_database(*extensions) as connection:
        done = load(engine, server.dsn(dbname=connection.info.dbname), find_build() / script)
        assert done.returncode != 0
        assert f"Zodan needs {missing} in database" in done.stderr
        assert f"HINT:  Run CREATE EXTENSION {missing.lower()} first." in done.stderr
        assert connection.execute("SELECT to_regnamespace('zodan')").fetchone() == (None,)


def test_a_stranger_may_do_nothing_with_it(zodan: psycopg.Connection[Any]) -> None:
    (open_to_all,) = zodan.execute(
        "SELECT array_agg(p.oid::regprocedure::text) FROM pg_proc AS p"
        " CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a"
        " WHERE a.grantee = 0 AND (p.pronamespace = 'zodan'::regnamespace"
        " OR p.pronamespace = 'spock'::regnamespace AND p.proname IN ('add_node', 'remove_node', 'health_check'))"
    ).fetchone() or (None,)
    assert open_to_all is None
    zodan.execute("CREATE ROLE zodan_stranger")
    try:
        rights = zodan.execute(
            "SELECT has_schema_privilege('zodan_stranger', 'zodan', 'usage'),"
            " has_table_privilege('zodan_stranger', 'zodan.operation', 'select'),"
            " has_table_privilege('zodan_stranger', 'zodan.step', 'select'),"
            " has_table_privilege('zodan_stranger', 'zodan.sample', 'select')"
        ).fetchone()
    finally:
        zodan.execute("DROP ROLE zodan_stranger")
    assert rights == (False, False, False, False)
