"""Putting Zodan into a database and taking it out again."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.secrets import find
from zodan_sql import cli
from zodan_sql.building import render
from zodan_sql.client import install
from zodan_sql.sandbox import Node, wait_until

Connection = psycopg.Connection[Any]

_EVERYTHING = """
SELECT 'relation', c.oid::regclass::text FROM pg_class AS c WHERE c.relnamespace <> 'pg_toast'::regnamespace
UNION ALL SELECT 'routine', p.oid::regprocedure::text FROM pg_proc AS p
UNION ALL SELECT 'type', t.oid::regtype::text FROM pg_type AS t
UNION ALL SELECT 'schema', n.nspname FROM pg_namespace AS n WHERE n.nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'extension', e.extname || e.extversion FROM pg_extension AS e
UNION ALL SELECT 'privilege', d.defaclobjtype::text FROM pg_default_acl AS d
"""

# The interface of Spock 6 that tells it to leave a schema alone.
_RESERVED = """
CREATE TABLE spock.reserved_object (name name, kind text, exclude_from_dump boolean, block_in_repset boolean,
    replicate_ddl boolean, PRIMARY KEY (name, kind));
CREATE FUNCTION spock.reserved_object_add(p_name name, p_kind text, p_exclude_from_dump boolean DEFAULT true,
    p_block_in_repset boolean DEFAULT true, p_replicate_ddl boolean DEFAULT NULL) RETURNS void LANGUAGE sql
    AS 'INSERT INTO spock.reserved_object VALUES ($1, $2, $3, $4, $5)';
CREATE FUNCTION spock.reserved_object_remove(p_name name, p_kind text) RETURNS void LANGUAGE sql
    AS 'DELETE FROM spock.reserved_object WHERE name = p_name AND kind = p_kind';
"""

_RECORD_DDL_SETTINGS = """
CREATE TABLE public.seen (setting text);
CREATE FUNCTION public.record() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.seen VALUES (current_setting('spock.enable_ddl_replication', true)),
                                   (current_setting('spock.include_ddl_repset', true));
END $$;
CREATE EVENT TRIGGER record ON ddl_command_end EXECUTE FUNCTION public.record();
"""


@pytest.fixture
def dsn(server: Node, database: Connection) -> str:
    return server.dsn(dbname=database.info.dbname)


@pytest.fixture
def bare_dsn(server: Node) -> str:
    """Return a database on the same server that has neither Spock nor dblink, and goes with it."""
    with server.connect(dbname="postgres") as admin:
        if one(admin, "SELECT count(*) FROM pg_database WHERE datname = 'bare'") == 0:
            admin.execute("CREATE DATABASE bare TEMPLATE template0")
    return server.dsn(dbname="bare")


def everything(connection: Connection) -> set[tuple[str, str]]:
    return set(connection.execute(_EVERYTHING).fetchall())


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(sql.SQL(query)).fetchone()
    return row and row[0]


def test_installing_twice_says_so_and_keeps_the_journal(dsn: str, database: Connection) -> None:
    (first,) = install.install([dsn])
    assert (first.outcome, first.version, first.error) == ("installed", install.own_version(), None)
    insert = "INSERT INTO zodan.operation (kind, node, arguments, members) VALUES ('add_node', 'n4', '{}', '{}')"
    database.execute(insert)
    before = everything(database)
    (second,) = install.install([dsn])
    assert (second.outcome, second.version) == ("already there", install.own_version())
    assert everything(database) == before
    assert one(database, "SELECT count(*) FROM zodan.operation") == 1
    assert install.installed_version(dsn) == install.own_version()


def test_uninstalling_leaves_nothing_behind(dsn: str, database: Connection) -> None:
    before = everything(database)
    install.install([dsn])
    assert everything(database) > before
    (result,) = install.uninstall([dsn])
    assert (result.outcome, result.version) == ("removed", install.own_version())
    assert everything(database) == before
    assert install.installed_version(dsn) is None
    (again,) = install.uninstall([dsn])
    assert again.outcome == "not there"


def test_nobody_else_may_call_it(dsn: str, database: Connection) -> None:
    install.install([dsn])
    open_to_all = """
        SELECT count(*) FROM pg_proc AS p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
         WHERE (p.pronamespace = 'zodan'::regnamespace OR p.proname IN ('add_node', 'remove_node')) AND a.grantee = 0
    """
    assert one(database, open_to_all) == 0


def test_ddl_replication_is_off_while_it_installs_and_uninstalls(dsn: str, database: Connection) -> None:
    database.execute(_RECORD_DDL_SETTINGS)
    install.install([dsn])
    assert database.execute("SELECT DISTINCT setting FROM public.seen").fetchall() == [("off",)]
    assert one(database, "SELECT count(*) FROM public.seen") > 10


def test_the_schema_is_reserved_where_spock_can(dsn: str, database: Connection) -> None:
    if not one(database, "SELECT to_regclass('spock.reserved_object') IS NOT NULL"):
        database.execute(sql.SQL(_RESERVED))
    before = everything(database)
    rows = "SELECT name, kind, exclude_from_dump, block_in_repset, replicate_ddl FROM spock.reserved_object"
    rows += " WHERE name = 'zodan'"
    for _ in range(2):
        (result,) = install.install([dsn])
        assert result.error is None
        assert database.execute(rows).fetchall() == [("zodan", "schema", True, True, False)]
    install.uninstall([dsn])
    assert database.execute(rows).fetchall() == []
    assert everything(database) == before


def test_spock_missing_is_said_and_nothing_is_changed(bare_dsn: str) -> None:
    with psycopg.connect(bare_dsn) as connection:
        before = everything(connection)
        (result,) = install.install([bare_dsn])
        assert result.outcome == "failed"
        assert result.error is not None
        assert result.error.exit_code == 3
        assert "Spock is not installed" in result.error.message
        assert result.error.hint == "CREATE EXTENSION spock"
        connection.rollback()
        assert everything(connection) == before


def test_an_old_spock_is_refused(dsn: str, database: Connection) -> None:
    database.execute("SET allow_system_table_mods = on")
    database.execute("UPDATE pg_extension SET extversion = '5.0.6' WHERE extname = 'spock'")
    (result,) = install.install([dsn])
    assert result.error is not None
    assert result.error.message == "Spock is 5.0.6, must be 5.0.7 or later"


def test_dblink_is_created_unless_told_not_to(dsn: str, database: Connection) -> None:
    database.execute("DROP EXTENSION dblink")
    (refused,) = install.install([dsn], create_dblink=False)
    assert refused.error is not None
    assert refused.error.message == "dblink is not installed in this database"
    assert one(database, "SELECT count(*) FROM pg_extension WHERE extname = 'dblink'") == 0
    (created,) = install.install([dsn])
    assert created.outcome == "installed"
    assert one(database, "SELECT count(*) FROM pg_extension WHERE extname = 'dblink'") == 1


def test_the_extension_is_left_alone(dsn: str, database: Connection) -> None:
    database.execute("SET allow_system_table_mods = on")
    database.execute(
        "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)"
        " VALUES (99999, 'zodan', 10, 11, false, '0.0.1')"
    )
    for results in (install.install([dsn]), install.uninstall([dsn], force=True)):
        (result,) = results
        assert result.error is not None
        assert "as an extension" in result.error.message


def test_a_failure_does_not_stop_the_others(dsn: str, bare_dsn: str) -> None:
    unreachable = "host=127.0.0.1 port=1 dbname=app"
    results = install.install([bare_dsn, unreachable, "nonsense", dsn])
    assert [result.outcome for result in results] == ["failed", "failed", "failed", "installed"]
    assert [result.error.exit_code for result in results if result.error] == [3, 7, 2]


def begin(database: Connection, state: str = "running") -> None:
    database.execute(
        "INSERT INTO zodan.operation (kind, node, arguments, members, state) VALUES ('add_node', 'n4', '{}', '{}', %s)",
        [state],
    )


def assert_refused(dsn: str) -> None:
    (refused,) = install.uninstall([dsn])
    assert refused.error is not None
    assert refused.error.exit_code == 3
    assert refused.error.message == 'add_node of node "n4" is under way'
    assert install.installed_version(dsn) == install.own_version()


def test_uninstall_refuses_while_somebody_holds_the_lock(dsn: str, database: Connection) -> None:
    install.install([dsn])
    begin(database)
    with psycopg.connect(dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [render.read_default("lock_key", int)])
        assert_refused(dsn)
        (forced,) = install.uninstall([dsn], force=True)
    assert forced.outcome == "removed"


def test_uninstall_refuses_while_the_caller_is_at_work_in_a_database_that_is_no_member(
    dsn: str, database: Connection
) -> None:
    install.install([dsn])
    begin(database)
    database.execute("CREATE PROCEDURE spock.linger() LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); END'")
    with psycopg.connect(dsn, autocommit=True) as caller:
        calling = threading.Thread(target=_call_until_cancelled, args=[caller], daemon=True)
        calling.start()
        lingering = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CALL spock.linger%'"
        wait_until(lambda: "" if one(database, lingering) else "it has not begun", 10.0, "the call to begin")
        assert_refused(dsn)
        caller.cancel_safe()
        calling.join(10)
    (result,) = install.uninstall([dsn])
    assert result.outcome == "removed"


def _call_until_cancelled(caller: Connection) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        caller.execute("CALL spock.linger()")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_uninstall_is_not_held_up_by_a_caller_who_died(dsn: str, database: Connection, state: str) -> None:
    before = everything(database)
    install.install([dsn])
    begin(database, state)
    (result,) = install.uninstall([dsn])
    assert (result.outcome, result.note) == ("removed", "dblink stays, add_node of n4 was unfinished")
    assert everything(database) == before


def test_the_command_reports_each_database(dsn: str, bare_dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["install", "--dsn", dsn, "--dsn", bare_dsn])
    assert exit_.value.code == 3
    printed = capsys.readouterr()
    assert f": installed (version {install.own_version()})" in printed.out
    assert "Spock is not installed in this database" in printed.err
    assert list(find(printed.out + printed.err)) == []
    with pytest.raises(SystemExit) as exit_:
        cli.main(["uninstall", "--dsn", dsn])
    assert exit_.value.code == 0
    assert "removed" in capsys.readouterr().out
