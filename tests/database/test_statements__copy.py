"""Every statement about the copy of a new node does what it says, alone and on one server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.objects import everything_in
from support.programs import left_by_programs, running_psqls
from support.statements import ODD, forgotten, run, value
from zodan_sql.building.render import read_default
from zodan_sql.sandbox import Node, wait_until

_NODE = "node " + ODD
_SOURCE = "source " + ODD
_SUBSCRIPTION = "zodan_copy_1"
_ODD = sql.Identifier(ODD).as_string()
_PUBLIC_ODD = f"public.{_ODD}"
_WORKERS = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type || ' ' || application_name ~ '(spock|pglogical) apply'
"""
#: What a statement that copies a unit is given.
_UNIT = ("number", "what", "snapshot", "lsn", "ddl", "bytes", "rate")
_INDEX = sql.Identifier("index " + ODD).as_string()


class Here:
    """The database of a new node, its source, and the database with Zodan, which writes the statements."""

    def __init__(self, zodan: psycopg.Connection[Any], connection: psycopg.Connection[Any], server: Node) -> None:
        self.zodan = zodan
        self.connection = connection
        self.server = server
        self.dbname = connection.info.dbname

    def run(self, name: str, results: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
        """Run a statement here."""
        return run(self.zodan, name, on=self.connection, results=results, **parameters)

    def execute(self, *statements: str) -> None:
        """Run statements of a test."""
        for statement in statements:
            self.connection.execute(statement.encode())

    def value(self, query: str, *parameters: Any) -> Any:
        """Return the only value of a query."""
        return value(self.connection, query, *parameters)

    def session(self, name: str, dbname: str | None = None) -> psycopg.Connection[Any]:
        """Open another session, with an application_name."""
        return psycopg.connect(self.server.dsn(dbname=dbname or self.dbname), application_name=name, autocommit=True)

    def subscribe(self, name: str = _SUBSCRIPTION, copies: bool = False, enabled: bool = False) -> None:
        """Subscribe to the database with Zodan."""
        self.connection.execute(
            "SELECT spock.sub_create(subscription_name := %s, provider_dsn := %s, synchronize_structure := %s,"
            " synchronize_data := %s, forward_origins := '{all}', enabled := %s)",
            [name, self.server.dsn(dbname=self.zodan.info.dbname), copies, copies, enabled],
        )

    @contextmanager
    def as_copied(self) -> Iterator[None]:
        """Let what a transaction writes look as what a copy brought."""
        self.connection.execute(
            "SELECT pg_replication_origin_create('copy') WHERE pg_replication_origin_oid('copy') IS NULL"
        )
        self.connection.execute("SELECT pg_replication_origin_session_setup('copy')")
        with self.connection.transaction():
            self.connection.execute("SELECT pg_replication_origin_xact_setup('0/0', 'epoch')")
            yield
        self.connection.execute("SELECT pg_replication_origin_session_reset()")


@pytest.fixture(scope="module")
def nodes(zodan: psycopg.Connection[Any], server: Node) -> Iterator[Here]:
    """Make two nodes: the database with Zodan, which is the source, and one that a copy comes to."""
    with server.connect(dbname="postgres") as admin:
        admin.execute("CREATE DATABASE copy_target")
    with server.connect(dbname="copy_target") as connection:
        connection.execute("CREATE EXTENSION spock CASCADE; CREATE EXTENSION dblink")
        for node, name in ((zodan, _SOURCE), (connection, _NODE)):
            node.execute("SELECT spock.node_create(%s, %s)", [name, server.dsn(dbname=node.info.dbname)])
        yield Here(zodan, connection, server)


@pytest.fixture
def here(nodes: Here) -> Iterator[Here]:
    """Return the new node; what a test leaves in it is dropped."""
    noted = nodes.run("note_objects")
    yield nodes
    nodes.execute("SELECT spock.sub_drop(sub_name, true) FROM spock.subscription", "DELETE FROM spock.exception_log")
    drop_copied(nodes, noted)


@pytest.fixture
def source(nodes: Here) -> Iterator[Here]:
    """Return the source, in which a test makes tables in schema public."""
    yield Here(nodes.zodan, nodes.zodan, nodes.server)
    for (table,) in nodes.zodan.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ).fetchall():
        nodes.zodan.execute(f"DROP TABLE {table} CASCADE".encode())


def drop_copied(here: Here, noted: dict[str, Any], node: str = _NODE) -> None:
    """Take a copy back."""
    here.run(
        "drop_copied",
        results={"note": noted | {"at": 0}},
        objects="{result:note.objects}",
        node=node,
        identity="{result:note.identity}",
    )


def test_every_statement_is_run_here() -> None:
    assert forgotten("copy", __file__) == set()


# --- what was there before


def test_what_is_there_is_noted(here: Here) -> None:
    before = here.run("note_objects")
    here.execute(f"CREATE TABLE {_PUBLIC_ODD} (id int)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    noted = here.run("note_objects")
    # The row type of a table goes with it.
    assert set(noted["objects"]) - set(before["objects"]) == {
        here.value("SELECT concat('pg_class'::regclass::oid, ':', %s::regclass::oid)", _PUBLIC_ODD),
        here.value("SELECT concat('pg_proc'::regclass::oid, ':', 'f()'::regprocedure::oid)"),
    }
    assert noted["identity"] == before["identity"] != run(here.zodan, "note_objects")["identity"]
    assert here.run("note_life") == here.run("note_life")
    assert before["at"] < noted["at"]
    assert abs(float(noted["at"]) - time.time()) < 60


#: Statements that make an object of every kind that has a name of its own, each with one that has to be quoted.
_EVERYTHING = [
    f"CREATE SCHEMA {_ODD}",
    f"CREATE TABLE {_ODD}.{_ODD} (id serial PRIMARY KEY, v text)",
    "CREATE TABLE public.made (id int, twice int GENERATED ALWAYS AS (id * 2) STORED)",
    "CREATE TABLE public.numbered (id int GENERATED ALWAYS AS IDENTITY)",
    f"CREATE TABLE {_PUBLIC_ODD} (id int REFERENCES {_ODD}.{_ODD}, at date, UNIQUE (id, at)) PARTITION BY RANGE (at)",
    f"CREATE TABLE public.part PARTITION OF {_PUBLIC_ODD} DEFAULT",
    f"INSERT INTO {_ODD}.{_ODD} (v) VALUES ('x')",
    f"CREATE VIEW public.v AS SELECT * FROM {_ODD}.{_ODD}",
    "CREATE MATERIALIZED VIEW public.m AS SELECT * FROM public.v",
    f"CREATE SEQUENCE public.{sql.Identifier('s' + ODD).as_string()}",
    f"CREATE TYPE public.{sql.Identifier('e' + ODD).as_string()} AS ENUM ('a')",
    "CREATE TYPE public.composite AS (a int)",
    "CREATE TYPE public.span AS RANGE (subtype = int)",
    "CREATE DOMAIN public.d AS int CHECK (VALUE > 0)",
    f"CREATE FUNCTION {_PUBLIC_ODD}(a int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE PROCEDURE public.p() LANGUAGE sql AS 'SELECT 1'",
    "CREATE AGGREGATE public.agg (int) (sfunc = int4pl, stype = int)",
    "CREATE OPERATOR public.### (leftarg = int, rightarg = int, function = int4pl)",
    "CREATE OPERATOR FAMILY public.fam USING btree",
    "CREATE OPERATOR CLASS public.cls FOR TYPE int USING btree FAMILY public.fam"
    " AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int, int)",
    f'CREATE COLLATION {_PUBLIC_ODD} FROM "C"',
    "CREATE CONVERSION public.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    f"CREATE STATISTICS {_PUBLIC_ODD} ON id, v FROM {_ODD}.{_ODD}",
    f"CREATE TEXT SEARCH CONFIGURATION {_PUBLIC_ODD} (COPY = simple)",
    "CREATE TEXT SEARCH DICTIONARY public.dict (TEMPLATE = simple)",
    "CREATE TEXT SEARCH TEMPLATE public.tmpl (LEXIZE = dsimple_lexize)",
    "CREATE TEXT SEARCH PARSER public.pars"
    " (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype)",
    f"CREATE PUBLICATION {_ODD} FOR ALL TABLES",
    f"CREATE FOREIGN DATA WRAPPER {_ODD}",
    f"CREATE SERVER {_ODD} FOREIGN DATA WRAPPER {_ODD}",
    f"CREATE USER MAPPING FOR PUBLIC SERVER {_ODD}",
    f"CREATE USER MAPPING FOR CURRENT_USER SERVER {_ODD}",
    f"CREATE FOREIGN TABLE public.ft (id int) SERVER {_ODD}",
    f"CREATE LANGUAGE {_ODD} HANDLER plpgsql_call_handler",
    "CREATE CAST (public.composite AS text) WITH INOUT",
    "CREATE FUNCTION public.tf(internal) RETURNS internal LANGUAGE internal AS 'pg_node_tree_in'",
    "CREATE ACCESS METHOD am TYPE TABLE HANDLER heap_tableam_handler",
    "SELECT lo_create(0)",
    "COMMENT ON TABLE public.part IS 'x'",
    f"ALTER DEFAULT PRIVILEGES IN SCHEMA {_ODD} GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
    f"CREATE EXTENSION hstore SCHEMA {_ODD}",
    f"CREATE SUBSCRIPTION {_ODD} CONNECTION 'host=127.0.0.1' PUBLICATION p WITH (connect = false, enabled = false)",
    "CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql"
    " AS 'BEGIN RAISE EXCEPTION ''forbidden''; END'",
    f"CREATE EVENT TRIGGER {_ODD} ON sql_drop EXECUTE FUNCTION public.forbid()",
]


def test_a_copy_is_taken_back_whatever_it_brought(here: Here) -> None:
    here.execute("CREATE SCHEMA kept", f"CREATE TABLE kept.{_ODD} (id int PRIMARY KEY)")
    noted = here.run("note_objects")
    before = everything_in(here.connection)
    here.execute(*_EVERYTHING, "CREATE TABLE kept.came (id int)")
    drop_copied(here, noted, node="another " + ODD)
    assert here.value("SELECT count(*) FROM kept.came") == 0
    for _ in range(2):
        drop_copied(here, noted)
        assert everything_in(here.connection) == before
    assert here.value("SHOW session_replication_role") == "origin"


def test_a_copy_is_taken_back_only_where_it_came_to(here: Here) -> None:
    noted = here.run("note_objects")
    here.execute(f"CREATE TABLE {_PUBLIC_ODD} (id int)")
    for identity in (noted["identity"] + "0", "", ODD):
        with pytest.raises(psycopg.errors.RaiseException, match="not the database"):
            drop_copied(here, noted | {"identity": identity})
    assert here.value("SELECT to_regclass(%s) IS NOT NULL", _PUBLIC_ODD)


# --- whether the copy is whole


def prove_sound(here: Here, **parameters: Any) -> None:
    """See that nothing is wrong with the copy, with the parameters that are given."""
    noted = here.run("note_objects")
    result = noted | {"at": time.time() - 60} | here.run("note_life")
    defaults = {"since": "{result:note.at}", "origin": None, "starts": "{result:note.starts}"}
    here.run("prove_sound", {"note": result}, **(defaults | parameters))


def discard(here: Here, origin: str, at: str = "now") -> None:
    """Let Spock set a change of a node aside."""
    here.connection.execute(
        "INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,"
        " remote_xid, table_schema, table_name, operation, error_message)"
        " SELECT coalesce((SELECT node_id FROM spock.node WHERE node_name = %s), 1), now(), 1, %s::timestamptz, 1,"
        " 'public', %s, 'INSERT', 'it hurt'",
        [origin, at, ODD],
    )


def test_changes_set_aside_since_the_copy_began_are_a_fault(here: Here) -> None:
    prove_sound(here)
    discard(here, _NODE, "2020-01-01")
    prove_sound(here)
    discard(here, _NODE)
    for origin in (None, _NODE):
        with pytest.raises(psycopg.Error) as raised:
            prove_sound(here, origin=origin)
        assert raised.value.sqlstate == "ZD304"
        message = str(raised.value.diag.message_primary)
        assert message.startswith(f"changes were discarded here: INSERT on public.{ODD}, 1 rows, committed at ")
        assert message.endswith(": it hurt")
    prove_sound(here, origin=_SOURCE)


def test_a_copy_whose_slot_is_gone_has_to_start_over(here: Here) -> None:
    here.value("SELECT slot_name FROM pg_create_logical_replication_slot(%s, 'pgoutput')", "spk_copy")
    here.run("prove_copy_slot", slot="spk_copy")
    here.execute("SELECT pg_drop_replication_slot('spk_copy')")
    for slot in ("spk_copy", ODD):
        with pytest.raises(psycopg.Error, match="of the copy is gone or has lost its WAL") as raised:
            here.run("prove_copy_slot", slot=slot)
        assert raised.value.sqlstate == "ZD304"


def test_a_physical_copy_says_how_far_it_goes(here: Here) -> None:
    mark = "zodan clone " + ODD
    origin = "'" + mark.replace("'", "''") + "'"
    found = here.run("confirm_clone_slot", slot="spk_clone")
    assert found["lsn"] == ""
    names = {"mark": mark, "slot_lsn": "{result:slot.lsn}", "system": "{result:slot.system}"}

    def confirm(words: str, lsn: str, **others: Any) -> None:
        with pytest.raises(psycopg.Error, match=words) as raised:
            here.run("confirm_clone", {"slot": found | {"lsn": lsn} | others}, **names)
        assert raised.value.sqlstate == "ZD205"

    confirm("is gone, in use or has lost its WAL", "")
    confirm("does not say how far it goes", "0/1")
    confirm("no physical copy of the source", "0/1", system="1")
    here.execute(f"SELECT pg_replication_origin_create({origin})")
    confirm("does not say how far it goes", "0/1")
    here.execute(f"SELECT pg_replication_origin_advance({origin}, '0/20')")
    confirm("goes to 0/20 only", "0/21")
    here.run("confirm_clone", {"slot": found | {"lsn": "0/20"}}, **names)
    assert here.run("read_clone", mark=mark) == {"lsn": "0/20"}


def test_the_stream_of_a_physical_copy_begins_once(here: Here) -> None:
    here.subscribe()
    mark = "zodan clone 2 " + ODD
    origin = "'" + mark.replace("'", "''") + "'"
    slot = here.value("SELECT sub_slot_name FROM spock.subscription")
    here.execute(f"SELECT pg_replication_origin_create({origin})")
    here.execute(f"SELECT pg_replication_origin_advance({origin}, '0/20')")
    with pytest.raises(psycopg.Error, match="had begun") as raised:
        here.run("begin_clone_stream", subscription=_SUBSCRIPTION, lsn="0/21", mark=mark)
    assert raised.value.sqlstate == "ZD205"
    for _ in range(2):
        here.run("begin_clone_stream", subscription=_SUBSCRIPTION, lsn="0/20", mark=mark)
    assert here.value("SELECT pg_replication_origin_progress(%s, false) >= '0/20'", slot) is True
    assert here.run("read_clone", mark=mark) == {"lsn": None}
    here.run("disable_copy", subscription=_SUBSCRIPTION)
    wait_until(lambda: here.run("wait_worker_gone", subscription=_SUBSCRIPTION)["progress"] or "", 10, "its end")
    here.execute(f"SELECT pg_replication_origin_drop('{slot}')")
    with pytest.raises(psycopg.Error, match="cannot begin again") as raised:
        here.run("begin_clone_stream", subscription=_SUBSCRIPTION, lsn="0/20", mark=mark)
    assert raised.value.sqlstate == "ZD205"


def test_a_stream_of_a_physical_copy_goes_on_under_a_new_name_each_time(here: Here) -> None:
    here.subscribe()
    slot = here.value("SELECT sub_slot_name FROM spock.subscription")
    here.execute(
        "SELECT pg_replication_origin_create('zodan clone 3')",
        "SELECT pg_replication_origin_advance('zodan clone 3', '0/20')",
    )
    begin = {"subscription": _SUBSCRIPTION, "lsn": "0/20", "mark": "zodan clone 3"}
    here.run("begin_clone_stream", **begin)
    names = [here.value("SELECT sub_name::text FROM spock.subscription")]
    assert names == [_SUBSCRIPTION]
    for _ in range(2):
        assert here.run("disable_copy", subscription=_SUBSCRIPTION) == {"disabled": 1}
        assert not here.run("is_enabled", subscription=_SUBSCRIPTION, slot="no_such_slot")["ok"]
        for _ in range(2):
            here.run("begin_clone_stream", **begin)
        assert here.run("is_enabled", subscription=_SUBSCRIPTION, slot="no_such_slot")["ok"]
        assert here.run("is_direct", subscription=_SUBSCRIPTION, slot="no_such_slot")["ok"]
        names.append(here.value("SELECT sub_name::text FROM spock.subscription"))
        assert here.value("SELECT sub_slot_name FROM spock.subscription") == slot
    # Spock 5 takes one for the other if a name begins with the other.
    assert not [(one, other) for one in names for other in names if one is not other and one.startswith(other)]
    here.run("disable_copy", subscription=_SUBSCRIPTION)
    wait_until(lambda: "" if here.run("drop_ended", subscription=_SUBSCRIPTION)["ok"] else "held", 10, "the drop")
    assert here.value("SELECT count(*) FROM spock.subscription") == 0


def test_another_life_of_the_server_is_a_fault_where_spock_is_older_than_6(here: Here) -> None:
    is_old = here.value("SELECT extversion LIKE '5.%%' FROM pg_extension WHERE extname = %s", "spock")
    if is_old:
        with pytest.raises(psycopg.Error, match="the server was restarted") as raised:
            prove_sound(here, starts=ODD)
        assert raised.value.sqlstate == "ZD304"
    else:
        prove_sound(here, starts=ODD)


def test_rows_that_were_written_on_the_new_node_are_found(here: Here) -> None:
    here.execute(
        f"CREATE TABLE {_PUBLIC_ODD} (id int)",
        "CREATE TABLE public.other (id int)",
        "CREATE UNLOGGED TABLE public.quick (id int)",
    )
    here.execute("CREATE TEMP TABLE mine AS SELECT 1")
    with here.as_copied():
        here.execute(f"INSERT INTO {_PUBLIC_ODD} VALUES (1)", "INSERT INTO public.other VALUES (1)")
    here.run("prove_unwritten", node=_NODE)
    here.execute(f"INSERT INTO {_PUBLIC_ODD} VALUES (2), (3)", "INSERT INTO public.quick VALUES (1)")
    here.run("prove_unwritten", node=ODD)
    with pytest.raises(psycopg.Error) as raised:
        here.run("prove_unwritten", node=_NODE)
    assert raised.value.sqlstate == "ZD111"
    message = str(raised.value.diag.message_primary)
    assert set(message.split(", ")) == {f"{_ODD}: 2", "quick: 1"}
    with here.session("indexes") as other, other.transaction():
        other.execute(f"LOCK TABLE {_PUBLIC_ODD} IN ACCESS EXCLUSIVE MODE".encode())
        with pytest.raises(psycopg.Error, match="quick: 1") as raised:
            here.run("prove_unwritten", node=_NODE)
    assert ODD not in str(raised.value)
    here.execute("DROP TABLE mine")


# --- what a copy has to mind


def _is_true(here: Here, query: str) -> str:
    return "" if here.value(query) else "not yet"


def test_who_waits_behind_a_copy_is_found(here: Here) -> None:
    here.execute(f"CREATE TABLE {_PUBLIC_ODD} (id int)", "SELECT pg_create_physical_replication_slot('load', true)")
    load = here.run("read_load", subscription=_SUBSCRIPTION, slot="load")
    assert (load["lost"], load["waiters"], load["queued"]) == (False, [], 0)
    # Where max_slot_wal_keep_size has no bound, no slot is too full.
    assert load["slots"] == []
    assert here.run("read_load", subscription=_SUBSCRIPTION, slot=ODD)["lost"] is True
    with here.session(f"{_SUBSCRIPTION} 12") as lane, lane.transaction():
        lane.execute(f"LOCK TABLE {_PUBLIC_ODD} IN ACCESS SHARE MODE".encode())
        stuck = [here.session(name) for name in ("first", "second")]
        threads = []
        for session, statement in zip(stuck, ("TRUNCATE", "SELECT FROM"), strict=True):
            query = f"{statement} {_PUBLIC_ODD}".encode()
            threads.append(threading.Thread(target=session.execute, args=(query,), daemon=True))
            threads[-1].start()
            pid = session.info.backend_pid
            waits = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
            wait_until(partial(_is_true, here, waits), 30, "a lock to be waited for")
        load = here.run("read_load", subscription=_SUBSCRIPTION, slot="load")
        (waiter,) = load["waiters"]
        assert (waiter["pid"], waiter["lane"], load["queued"]) == (stuck[0].info.backend_pid, "12", 1)
        assert waiter["what"] == f"AccessExclusiveLock on {_ODD}"
        assert waiter["who"].endswith(", first")
        # Another copy holds none of it.
        load = here.run("read_load", subscription="zodan_copy_2", slot="load")
        assert (load["waiters"], load["queued"]) == ([], 0)
    for thread, session in zip(threads, stuck, strict=True):
        thread.join(30)
        session.close()
    here.execute("SELECT pg_drop_replication_slot('load')")


# --- statistics


def test_what_can_be_analyzed_is(here: Here) -> None:
    here.execute(
        f"CREATE TABLE {_PUBLIC_ODD} AS SELECT 1 AS a FROM generate_series(1, 1000)",
        "CREATE TABLE empty (a int)",
        "CREATE TABLE held AS SELECT 1 AS a FROM generate_series(1, 100)",
        "CREATE TABLE gone AS SELECT 1 AS a",
        "CREATE TABLE root (a int) PARTITION BY RANGE (a)",
        "CREATE TABLE branch PARTITION OF root FOR VALUES FROM (1) TO (9) PARTITION BY LIST (a)",
        "CREATE TABLE leaf PARTITION OF branch FOR VALUES IN (1)",
        "CREATE TABLE bare (a int) PARTITION BY LIST (a)",
        "INSERT INTO root VALUES (1)",
        "CREATE TABLE parent (a int)",
        "CREATE TABLE child () INHERITS (parent)",
        "INSERT INTO child VALUES (1)",
    )
    # The size of a locked table is known too.
    with here.session("lock") as lock, lock.transaction():
        lock.execute("LOCK TABLE held")
        units = here.run("list_analyzed")["units"]
    (batch,) = units
    assert batch["what"][0] == _PUBLIC_ODD
    trees = ["root", "branch", "leaf"] if here.connection.info.server_version >= 180000 else ["root"]
    expected = {_PUBLIC_ODD, *(f"public.{name}" for name in ("held", "gone", "parent", "child", *trees))}
    assert set(batch["what"]) == expected
    assert (batch["tables"], batch["title"]) == (len(expected), f"{len(expected)} tables from {min(expected)} on")
    here.execute("DROP TABLE gone")
    with here.session("analysis") as session, here.session("lock") as lock, lock.transaction():
        other = Here(here.zodan, session, here.server)
        lock.execute("LOCK TABLE held")
        other.run("open_analysis")
        passed = other.run("analyze_tables", tables=json.dumps(batch["what"]))["passed"]
    assert sorted(text.split(":")[0] for text in passed.split("; ")) == ["public.gone", "public.held"]
    assert 'relation "public.gone" does not exist' in passed
    analyzed = here.value(
        "SELECT array_agg(DISTINCT c.relname) FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid"
        " WHERE c.relnamespace = 'public'::regnamespace"
    )
    assert set(analyzed) == {ODD, "branch", "child", "leaf", "parent", "root"}


def test_large_tables_are_analyzed_first_and_by_themselves(here: Here) -> None:
    here.execute(
        "CREATE TABLE small AS SELECT 1 AS a",
        "CREATE TABLE large AS SELECT repeat('x', 500) AS a FROM generate_series(1, 20000)",
        "CREATE TABLE larger AS SELECT repeat('x', 500) AS a FROM generate_series(1, 30000)",
    )
    units = here.run("list_analyzed")["units"]
    assert [unit["what"] for unit in units] == [["public.larger"], ["public.large"], ["public.small"]]


# --- materialized views


def test_a_view_is_filled_with_the_search_path_of_the_database(here: Here) -> None:
    schema, view = "schema " + ODD, "view " + ODD
    name = f"{sql.Identifier(schema).as_string()}.{sql.Identifier(view).as_string()}"
    here.execute(
        f"CREATE SCHEMA {sql.Identifier(schema).as_string()}",
        f"CREATE TABLE {sql.Identifier(schema).as_string()}.relied_on AS SELECT 7 AS v",
        "CREATE FUNCTION relies() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT v FROM relied_on); END'",
        f"CREATE MATERIALIZED VIEW {name} AS SELECT public.relies() AS v WITH NO DATA",
        f"ALTER DATABASE copy_target SET search_path = {sql.Identifier(schema).as_string()}",
    )
    with here.session("as the product") as session:
        session.execute("SET search_path = pg_catalog")
        other = Here(here.zodan, session, here.server)
        assert other.run("view_is_filled", view=name) == {"ok": False}
        if session.info.server_version >= 170000:
            # REFRESH sets a search_path of its own from PostgreSQL 17 on: nobody can fill this one.
            other.run("refresh_view", schema=schema, view=view, key="zodan.refused")
            refused = {"ok": True, "passed": 'relation "relied_on" does not exist'}
            assert other.run("view_refused", key="zodan.refused") == refused
            session.execute("CREATE OR REPLACE FUNCTION public.relies() RETURNS int LANGUAGE sql AS 'SELECT 7'")
        for _ in range(2):
            other.run("refresh_view", schema=schema, view=view, key="zodan.refused")
            assert other.run("view_refused", key="zodan.refused") == {"ok": True, "passed": None}
            assert other.run("view_is_filled", view=name) == {"ok": True}
        assert value(session, f"SELECT v FROM {name}") == 7
        assert value(session, "SHOW search_path") == "pg_catalog"
    here.execute("ALTER DATABASE copy_target RESET search_path")
    assert here.run("view_is_filled", view=f"public.{_ODD}") == {"ok": True}


# --- the subscription of a copy


def test_a_subscription_is_disabled_if_it_is_there(here: Here) -> None:
    here.subscribe()
    here.execute(f"SELECT spock.sub_enable('{_SUBSCRIPTION}')")
    for name in ("another", ODD):
        assert here.run("disable_copy", subscription=name) == {"disabled": 0}
    assert here.value("SELECT sub_enabled FROM spock.subscription")
    for _ in range(2):
        assert here.run("disable_copy", subscription=_SUBSCRIPTION) == {"disabled": 1}
        assert here.value("SELECT sub_enabled FROM spock.subscription") is False


def test_the_subscription_of_the_structure_is_ended_with_its_worker_and_dropped(here: Here) -> None:
    here.subscribe(enabled=True)
    sets = here.value("SELECT sub_replication_sets FROM spock.subscription")
    here.run("end_structure", subscription="another")
    assert here.value("SELECT sub_enabled FROM spock.subscription") is True
    for _ in range(2):
        here.run("end_structure", subscription=_SUBSCRIPTION)
        assert here.value("SELECT sub_enabled FROM spock.subscription") is False
        assert here.value("SELECT sub_replication_sets FROM spock.subscription") == sets
        # One that was only about to start ends by itself.
        wait_until(lambda: "it runs" if here.value(_WORKERS) else "", 10, "the end of the worker")
    assert here.run("drop_ended", subscription="another") == {"ok": True}
    assert here.value("SELECT count(*) FROM spock.subscription") == 1
    for _ in range(2):
        wait_until(lambda: "" if here.run("drop_ended", subscription=_SUBSCRIPTION)["ok"] else "held", 10, "the drop")
        assert here.value("SELECT count(*) FROM spock.subscription") == 0


def test_a_subscription_is_not_dropped_while_workers_start(here: Here) -> None:
    """On Spock: while its manager holds the lock, which another session does for it here."""
    here.subscribe()
    sets = here.value("SELECT sub_replication_sets FROM spock.subscription")
    with here.session("other") as other, other.transaction():
        other.execute("LOCK TABLE spock.local_node IN SHARE UPDATE EXCLUSIVE MODE")
        assert here.run("drop_ended", subscription=_SUBSCRIPTION) == {"ok": False}
        assert here.value("SELECT sub_replication_sets FROM spock.subscription") == sets
    assert here.run("drop_ended", subscription=_SUBSCRIPTION) == {"ok": True}
    assert here.value("SELECT count(*) FROM spock.subscription") == 0


def test_the_sessions_of_a_copy_are_ended_and_no_others(here: Here) -> None:
    names = {
        "before": "pg_dump",
        "first": ODD,
        "copier": ODD + " copy",
        "dump": "pg_dump",
        "restore": "pg_restore",
        "other": "app",
    }
    sessions = {key: here.session(name) for key, name in names.items()}
    sessions["elsewhere"] = here.session(ODD, dbname="postgres")
    before = here.session(ODD)
    pid = before.info.backend_pid
    before.close()
    # Its process ends a moment after its connection.
    left = "SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE pid = %s"
    wait_until(lambda: str(here.value(left, pid)), 10, "the closed session to end")
    assert here.run("end_sessions", subscription=ODD) == {"ended": 4}
    wait_until(lambda: ", ".join(_alive(sessions) - {"before", "other", "elsewhere"}), 10, "the sessions to end")
    assert _alive(sessions) == {"before", "other", "elsewhere"}
    assert here.run("end_sessions", subscription=ODD) == {"ended": 0}
    for session in sessions.values():
        session.close()


def _alive(sessions: dict[str, psycopg.Connection[Any]]) -> set[str]:
    alive = set()
    for key, session in sessions.items():
        try:
            session.execute("SELECT 1")
            alive.add(key)
        except psycopg.OperationalError:
            pass
    return alive


def test_the_subscription_of_a_copy_is_dropped_once_its_worker_is_gone(here: Here) -> None:
    here.subscribe()
    sub_id = here.value("SELECT sub_id FROM spock.subscription")
    worker = here.session(f"spock apply 1:{sub_id}")
    copier = here.session("pg_restore")

    def work() -> None:
        """As a worker that does not hear that it is to end while the program that it runs is at work."""
        while not copier.closed:
            if "copier" not in _alive({"copier": copier}):
                copier.close()
        worker.close()

    thread = threading.Thread(target=work)
    thread.start()
    began = time.monotonic()
    for _ in range(2):
        here.run("drop_copy", subscription=_SUBSCRIPTION)
        assert here.value("SELECT count(*) FROM spock.subscription") == 0
    assert time.monotonic() - began < 20
    thread.join(10)
    assert worker.closed
    here.run("drop_copy", subscription=ODD)


def test_a_structure_is_waited_for(here: Here, source: Here) -> None:
    source.execute(f"CREATE TABLE {_PUBLIC_ODD} (id int PRIMARY KEY)", f"INSERT INTO {_PUBLIC_ODD} VALUES (1)")
    source.execute(f"SELECT spock.repset_add_table('default', $n${_PUBLIC_ODD}$n$::regclass)")
    assert look(here)["trouble"] == "the subscription is gone"
    here.connection.execute(
        "SELECT spock.sub_create(subscription_name := %s, provider_dsn := %s, replication_sets := '{}',"
        " synchronize_structure := true, synchronize_data := false, forward_origins := '{}')",
        [_SUBSCRIPTION, here.server.dsn(dbname=here.zodan.info.dbname)],
    )
    wait_until(lambda: "" if look(here)["ok"] else "not yet", 60, "the structure to come")
    assert look(here)["measure"] == {
        "stage": "structure",
        "tables_total": 1,
        "tables_done": 0,
        "bytes_total": 40960,
        "bytes_done": 0,
    }
    assert here.value(f"SELECT count(*) FROM {_PUBLIC_ODD}") == 0


def look(here: Here, subscription: str = _SUBSCRIPTION) -> dict[str, Any]:
    """Look at a copy."""
    return here.run("wait_structure", subscription=subscription, tables="1", bytes="40960")


def test_a_copy_that_cannot_be_taken_up_again_says_why(here: Here) -> None:
    here.subscribe()
    assert str(look(here)["trouble"]).startswith("the copy failed and the subscription was disabled: ")
    assert look(here, ODD)["trouble"] == "the subscription is gone"
    schema = "spock" if here.server.engine.is_real else "pglogical"
    here.execute(
        f"UPDATE {schema}.local_sync_status SET sync_status = 'd'", f"SELECT spock.sub_enable('{_SUBSCRIPTION}')"
    )

    def problem() -> str:
        answer = look(here)
        assert not answer["ok"]
        return "" if answer["trouble"] else str(answer)

    wait_until(problem, 60, "the copy to be given up")
    # Spock 6 disables the subscription itself.
    said = ("the copy broke off and cannot be taken up again: ", "the copy failed and the subscription was disabled: ")
    assert str(look(here)["trouble"]).startswith(said)
    here.run("disable_copy", subscription=_SUBSCRIPTION)


# --- what is copied in units


def unit(**unit: Any) -> dict[str, Any]:
    """Return what stands for a unit in a statement."""
    return {"unit": {"lane": 1, **unit}}


def open_lane(here: Here, lane: psycopg.Connection[Any], given: dict[str, Any], transport: str) -> Here:
    """Prepare a session to copy units as the executor does, and return what runs statements in it."""
    ours = Here(here.zodan, lane, here.server)
    ours.run(
        "open_lane",
        given,
        subscription=_SUBSCRIPTION,
        lane="{result:unit.lane}",
        session=value(here.zodan, "SELECT zodan.set_session()"),
        transport=transport,
    )
    return ours


def test_what_is_to_be_copied_is_listed(source: Here) -> None:
    source.execute(
        f"CREATE TABLE {_PUBLIC_ODD} (id int PRIMARY KEY, a int, b int)",
        "CREATE TABLE public.large (id int PRIMARY KEY, v text)",
        "INSERT INTO public.large SELECT i, repeat('x', 900) FROM generate_series(1, 20000) AS i",
        "CREATE TABLE public.root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE public.leaf PARTITION OF public.root DEFAULT",
        "CREATE TABLE public.unpublished (id int PRIMARY KEY)",
    )
    for table, more in ((_PUBLIC_ODD, ", false, '{id,b}', 'id > 5'"), ("public.large", ""), ("public.root", "")):
        source.execute(f"SELECT spock.repset_add_table('default', $n${table}$n$::regclass{more})")
    found = source.run("list_units", sets=["default"], lanes="2", head="0/1")
    assert found["large"] == ["public.large"]
    *parts, batch = found["units"]
    assert [part["title"] for part in parts] == [f"public.large, part {i} of 3" for i in (1, 2, 3)]
    assert [each["bundle"] for each in found["units"]] == ["public.large"] * 3 + [f"from public.{_ODD}"]
    without = source.run("list_units", sets=["default"], lanes="2", head="")
    assert {each["bundle"] for each in without["units"]} == {"all"}
    assert [part["tables"] for part in parts] == [0, 0, 1]
    pieces = [part["what"][0] for part in parts]
    # One begins where the one before ends; the last has no end.
    assert [piece["begin"] for piece in pieces] == [0, pieces[0]["end"], pieces[1]["end"]]
    assert pieces[2]["end"] is None
    assert batch["tables"] == 2
    tables = {table["name"]: table for table in batch["what"]}
    assert set(tables) == {ODD, "leaf"}
    assert (tables[ODD]["columns"], tables[ODD]["filter"]) == (["b", "id"], "((id > 5))")
    assert (tables["leaf"]["columns"], tables["leaf"]["filter"]) == (None, None)
    assert source.run("list_units", sets=[ODD], lanes="2", head="") == {"units": [], "large": [], "leaves": []}


def test_rows_that_were_published_late_are_found(here: Here, source: Here) -> None:
    odd = "public." + sql.Identifier("late " + ODD).as_string()
    made = "CREATE TABLE {} (id int PRIMARY KEY)"
    rows = "INSERT INTO {} SELECT i FROM generate_series(1, 9) AS i"
    add = "SELECT spock.repset_add_table('{1}', $n${0}$n$::regclass)"
    for table in (odd, "public.late_wider", "public.late_moved", "public.late_renamed", "public.late_leaf"):
        source.execute(made.format(table), rows.format(table))
    source.execute(
        f"{made.format('public.late_root')} PARTITION BY RANGE (id)",
        "SELECT spock.repset_add_table('default', 'public.late_wider', false, NULL, 'id > 5')",
        *(add.format(table, "default") for table in ("public.late_moved", "public.late_renamed", "public.late_root")),
    )
    listed = source.run("list_units", sets=["default", "default_insert_only"], lanes="2", head="")
    found = partial(
        source.run, "find_uncopied", {"u": listed}, sets=["default", "default_insert_only"], leaves="{result:u.leaves}"
    )
    assert found() == {"tables": {}}
    # What was published is no news under another name or in another set, nor are rows that came afterwards.
    source.execute(
        "ALTER TABLE public.late_renamed RENAME TO late_other",
        "SELECT spock.repset_remove_table('default', 'public.late_moved')",
        add.format("public.late_moved", "default_insert_only"),
        made.format("public.late_fresh"),
        add.format("public.late_fresh", "default"),
        rows.format("public.late_fresh"),
    )
    assert found() == {"tables": {}}
    source.execute(
        add.format(odd, "default"),
        "SELECT spock.repset_remove_table('default', 'public.late_wider')",
        add.format("public.late_wider", "default"),
        "ALTER TABLE public.late_root ATTACH PARTITION public.late_leaf DEFAULT",
        rows.replace("1, 9", "11, 15").format(odd),
    )
    late = found()["tables"]
    assert late == {odd: 9, "public.late_wider": 9, "public.late_leaf": 9}
    prove = partial(here.run, "prove_copied", {"u": {"tables": late}}, tables="{result:u.tables}")
    here.execute(made.format(odd), rows.format(odd), made.format("public.late_wider"))
    for stage, sqlstate, names in (
        ("copied", "ZD304", f"public.late_leaf, public.late_wider, {odd}"),
        ("joined", "ZD407", "public.late_leaf, public.late_wider"),
    ):
        with pytest.raises(psycopg.Error) as error:
            prove(stage=stage)
        assert (error.value.sqlstate, set(str(error.value.diag.message_primary).split(": ", 1)[1].split(", "))) == (
            sqlstate,
            set(names.split(", ")),
        )
    here.execute(rows.format("public.late_wider"), made.format("public.late_leaf"), rows.format("public.late_leaf"))
    prove(stage="joined")


def test_indexes_are_set_aside_and_built_again(here: Here) -> None:
    here.subscribe()
    here.execute(
        f"CREATE TABLE {_PUBLIC_ODD} (id int PRIMARY KEY, v int)",
        f"CREATE INDEX {_INDEX} ON {_PUBLIC_ODD} (v)",
        "CREATE TABLE public.other (id int PRIMARY KEY)",
    )
    before = here.value(
        "SELECT string_agg(pg_get_indexdef(indexrelid), ' ' ORDER BY indexrelid) FROM pg_index WHERE indrelid >= 16384"
    )
    tables = json.dumps([_PUBLIC_ODD, "public.not_there"])
    for _ in range(2):
        here.run("set_indexes_aside", tables=tables, subscription=_SUBSCRIPTION)
        units = here.run("list_indexes")["units"]
        names = [unit["what"] for unit in units]
        assert sorted(names)[0].startswith("public.")
        assert f"public.{_INDEX}" in names
        assert len(names) == 2
    here.execute(f"INSERT INTO {_PUBLIC_ODD} VALUES (1, 1)")
    with pytest.raises(psycopg.Error, match="has not been built"):
        here.run("begin_stream", subscription=_SUBSCRIPTION, lsn="0/1", slot_lsn="0/2", tables="[]", head="")
    assert here.run("prepare_build")["memory"]
    for name in names * 2:
        here.run("build_index", unit(what=name), index="{result:unit.what}")
    here.run("build_index", index="public.not_there")
    assert here.run("list_indexes") == {"units": []}
    assert here.value("SELECT bool_and(indisvalid AND indisready) FROM pg_index") is True
    assert before == here.value(
        "SELECT string_agg(pg_get_indexdef(indexrelid), ' ' ORDER BY indexrelid) FROM pg_index WHERE indrelid >= 16384"
    )
    # Once a unit is done, they stay as they are.
    here.execute(
        "INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status,"
        " sync_statuslsn) SELECT 'd', sub_id, 'zodan unit', '7', 'y', '0/7' FROM spock.subscription"
    )
    here.run("set_indexes_aside", tables=tables, subscription=_SUBSCRIPTION)
    assert here.run("list_indexes") == {"units": []}
    assert here.run("look_at_copy", subscription=_SUBSCRIPTION)["marks"] == {"7": "0/7"}


def test_a_unit_is_copied_once_and_taken_back(here: Here, source: Here) -> None:
    table = f"CREATE TABLE {_PUBLIC_ODD} (id int PRIMARY KEY, v text, w int GENERATED ALWAYS AS IDENTITY)"
    for place in (here, source):
        place.execute(table)
    source.execute(f"INSERT INTO {_PUBLIC_ODD} (id, v) SELECT i, 'v' || i FROM generate_series(1, 100) AS i")
    here.subscribe()
    oid = source.value("SELECT %s::regclass::oid", _PUBLIC_ODD)
    what = [
        {"oid": oid, "schema": "public", "name": ODD, "columns": None, "filter": "id % 2 = 0", "step": 1}
        | {"begin": 0, "end": None, "last": 1}
    ]
    with here.session("lane") as lane:
        ours = open_lane(here, lane, unit(), "rows")
        with source.session("snapshot") as holder, holder.transaction():
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            exported = value(holder, "SELECT pg_export_snapshot()")
            source.execute(f"INSERT INTO {_PUBLIC_ODD} (id, v) VALUES (1000, 'later')")
            given = unit(number=3, what=what, snapshot=exported, lsn="0/99", ddl="not looked at", bytes=9, rate=0)
            names = {name: f"{{result:unit.{name}}}" for name in _UNIT}
            file = str(source.value("SELECT pg_relation_filenode(%s)", oid))
            files = {str(oid): file}
            assert ours.run("copy_unit", given, **names) == {"copied": 50, "lsn": "0/99", "files": files}
            assert ours.run("copy_unit", given, **names) == {"copied": None, "lsn": "0/99", "files": None}
            asked = unit(snapshot=exported, others=files | {"1": "2"})
            compared = {"files": "{result:unit.others}", "snapshot": "{result:unit.snapshot}"}
            assert ours.run("compare_files", asked, **compared) == {"rewritten": []}
            asked["unit"]["others"] = {str(oid): "1"}
            assert ours.run("compare_files", asked, **compared) == {"rewritten": [str(oid)]}
            assert here.run("look_at_copy", subscription=_SUBSCRIPTION)["marks"] == {"3": "0/99"}
            stamps = here.connection.execute(
                f"SELECT DISTINCT (c).timestamp = 'epoch', (c).roident > 0 FROM"
                f" (SELECT pg_xact_commit_timestamp_origin(xmin) AS c FROM {_PUBLIC_ODD}) AS x".encode()
            ).fetchall()
            assert stamps == [(True, True)]
            assert here.value(f"SELECT count(*) FROM {_PUBLIC_ODD} WHERE id % 2 = 0 AND w = id") == 50
            cleared = {"what": "{result:unit.what}", "numbers": "{result:unit.numbers}"}
            given["unit"]["numbers"] = ["4"]
            assert ours.run("clear_units", given, **cleared) == {"cleared": True}
            assert here.value(f"SELECT count(*) FROM {_PUBLIC_ODD}") == 0
            assert here.run("look_at_copy", subscription=_SUBSCRIPTION)["marks"] == {"3": "0/99"}
            given["unit"]["numbers"] = ["3", "4"]
            assert ours.run("clear_units", given, **cleared) == {"cleared": True}
            assert here.run("look_at_copy", subscription=_SUBSCRIPTION)["marks"] == {}
            # The table is in another file by now, and empty to the snapshot.
            source.execute(f"TRUNCATE {_PUBLIC_ODD}")
            with pytest.raises(psycopg.Error) as raised:
                ours.run("copy_unit", given, **names)
            assert raised.value.sqlstate == "ZD307"
    # Its session on the source, with its lock, goes with it.
    source.execute(f"ALTER TABLE {_PUBLIC_ODD} ADD x int")
    check_altered(here, source, given)
    here.run("drop_lanes", subscription=_SUBSCRIPTION)
    assert here.value("SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'zodan_copy%'") == 0


def test_rows_come_by_psql(here: Here, source: Here) -> None:
    """By a program that reads every kind of value, and by what takes its place where it cannot."""
    for place in (here, source):
        place.execute(
            "CREATE DOMAIN public.short AS text CHECK (length(VALUE) < 9)",
            f"CREATE TABLE {_PUBLIC_ODD} (id int PRIMARY KEY, v text, gone int, reg regclass, s public.short, a int[],"
            " w int GENERATED ALWAYS AS IDENTITY)",
            f"ALTER TABLE {_PUBLIC_ODD} DROP COLUMN gone",
            "CREATE TYPE public.mood AS ENUM ('sad', 'o''k')",
            "CREATE TABLE public.plain (id int, f float8, m public.mood, n numeric, b bytea, t text, at timestamptz)",
        )
    source.execute(
        f"INSERT INTO {_PUBLIC_ODD} (id, v, reg, s, a) SELECT i, E'a\\t\\\\N\\n' || repeat('x', 2000), 'public.plain',"
        " 'ü', ARRAY[i, NULL] FROM generate_series(1, 99) AS i",
        "INSERT INTO public.plain SELECT i, 0.1 * i, 'o''k', 'NaN', '\\x00ff', NULLIF('t' || i, 't7'), 'infinity'"
        " FROM generate_series(1, 2000) AS i",
    )
    with lane_with_psql(here, source) as (copied, _):
        source.execute("INSERT INTO public.plain (id) VALUES (-1)")
        assert copied(_PUBLIC_ODD, "id, v, reg, s, a, w") == 99
        assert copied("public.plain", "id, f, m, n, b, t, at", filter="id > 100", end=9) < 1900
        here.execute("TRUNCATE public.plain")
        assert copied("public.plain", "id, f, m, n, b, t, at", filter="id > 100") == 1900
        read = f"SELECT string_agg(t::text, ' ' ORDER BY id) FROM {_PUBLIC_ODD} AS t"
        assert here.value(read) == source.value(read)
        read = "SELECT string_agg(t::text, ' ' ORDER BY id) FROM public.plain AS t"
        assert here.value(read) == source.value(f"{read} WHERE id > 100")
        # What it cannot do, others do.
        assert copied("public.plain", "true") is None
        assert copied("public.plain", "id", filter=f"id > length('{'x' * 120000}')") is None
        assert left_by_programs(here.connection) == []
        with source.session("other") as other, other.transaction():
            other.execute("LOCK TABLE public.plain")
            assert copied("public.plain", "id") is None
        # Each failure has the words and the SQLSTATE of the one that failed.
        for asked, sqlstate in (
            ({"snapshot": "00000003-0000001B-1"}, ("22023", "42704")),
            ({"filter": "1 / (id - 7) = 1"}, ("22012",)),
            *(({"filter": f"repeat('{shift}ü€', 4000)::int = id"}, ("22P02",)) for shift in ("", "x", "xx", "xxx")),
        ):
            with pytest.raises(psycopg.Error) as raised:
                copied("public.plain", "id", **asked)
            assert raised.value.sqlstate in sqlstate
            assert "psql" not in str(raised.value.diag.message_primary)
        here.execute("ALTER TABLE public.plain ADD CHECK (id <> 9)")
        with pytest.raises(psycopg.errors.CheckViolation):
            copied("public.plain", "id")
        assert left_by_programs(here.connection) == []
    here.run("drop_lanes", subscription=_SUBSCRIPTION)


@pytest.mark.parametrize("ends", ["cancel", "terminate"])
@pytest.mark.parametrize("is_locked", [False, True])
def test_nothing_is_left_of_a_program(here: Here, source: Here, is_locked: bool, ends: str) -> None:
    """Of one that runs, and of one that has not begun because somebody has locked the table."""
    for place in (here, source):
        place.execute("CREATE TABLE public.plain (id int, v text)")
    source.execute("INSERT INTO public.plain SELECT i, repeat('x', 400) FROM generate_series(1, 20000) AS i")

    def waits(pid: int) -> str:
        query = "SELECT wait_event FROM pg_stat_activity WHERE pid = %s"
        is_there = here.value(query, pid) == "relation" if is_locked else running_psqls(here.server)
        return "" if is_there else "it does not copy yet"

    with lane_with_psql(here, source) as (copied, lane), here.session("other") as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN")
        if is_locked:
            other.execute("LOCK TABLE public.plain")
        copying = pool.submit(copied, "public.plain", "id, v", filter="length(repeat(v, 20000)) > id % 60")
        wait_until(lambda: waits(lane.info.backend_pid), 60, "the copy to begin")
        here.execute(f"SELECT pg_{ends}_backend({lane.info.backend_pid})")
        with pytest.raises(psycopg.Error):
            copying.result()
    assert left_by_programs(here.connection) == []
    here.run("drop_lanes", subscription=_SUBSCRIPTION)


def test_rows_come_without_psql_where_the_source_is_full(here: Here, source: Here) -> None:
    """And what else the source reports to a role is not taken for its error."""
    for place in (here, source):
        place.execute("CREATE TABLE public.plain (id int)")
    source.execute(
        "INSERT INTO public.plain SELECT i FROM generate_series(1, 9) AS i",
        "CREATE ROLE loud LOGIN PASSWORD 'loud' CONNECTION LIMIT 1",
        "ALTER ROLE loud SET client_min_messages = log",
        "GRANT SELECT ON public.plain TO loud",
        "ALTER ROLE loud SET debug_print_plan = on",
    )
    dsn = source.server.dsn(password=False, dbname=source.dbname).replace("user=dba", "user=loud") + " password=loud"
    with lane_with_psql(here, source) as (copied, lane):
        lane.execute(
            "CREATE OR REPLACE FUNCTION pg_temp.zodan_find_dsn() RETURNS text LANGUAGE sql AS"
            f" $$ SELECT $x${dsn}$x$ $$".encode()
        )
        assert copied("public.plain", "id") == 9
        with pytest.raises(psycopg.errors.DivisionByZero):
            copied("public.plain", "id", filter="1 / (id - 7) = 1")
        with psycopg.connect(dsn):
            assert copied("public.plain", "id") is None
        assert left_by_programs(here.connection) == []
    here.run("drop_lanes", subscription=_SUBSCRIPTION)
    source.execute("DROP OWNED BY loud", "DROP ROLE loud")


@contextmanager
def lane_with_psql(here: Here, source: Here) -> Iterator[tuple[Callable[..., Any], psycopg.Connection[Any]]]:
    """Open a session that copies by psql; return what copies a table in a snapshot of now, and the session."""
    here.subscribe()
    with source.session("snapshot") as holder, holder.transaction(), here.session(f"{_SUBSCRIPTION} 1") as lane:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        exported = value(holder, "SELECT pg_export_snapshot()")
        open_lane(here, lane, unit(), "psql")

        def copied(table: str, names: str, snapshot: str = exported, **more: Any) -> Any:
            asked = {"table": table, "names": names, "read": names, "begin": 0, "end": None, "filter": None} | more
            return value(lane, "SELECT pg_temp.zodan_copy_by_psql(%s, %s)", json.dumps(asked), snapshot)

        yield copied, lane


def check_altered(here: Here, source: Here, given: dict[str, Any]) -> None:
    """A table that is not what it was, or is another one, or gone."""
    names = {name: f"{{result:unit.{name}}}" for name in _UNIT}
    renames = (f"ALTER TABLE {_PUBLIC_ODD} RENAME TO other", f"ALTER TABLE public.other RENAME TO {_ODD}")
    for change, sqlstate in (
        ("SELECT 1", "ZD304"),
        (renames[0], "ZD304"),
        (f"{renames[1]}; DROP TABLE {_PUBLIC_ODD} CASCADE", None),
    ):
        source.execute(change)
        # Its name begins as that of the sessions which an earlier call has left.
        with here.session(f"{_SUBSCRIPTION} 1") as lane, source.session("snapshot") as holder, holder.transaction():
            holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            given["unit"]["snapshot"] = value(holder, "SELECT pg_export_snapshot()")
            ours = open_lane(here, lane, given, "rows")
            if sqlstate is None:
                found = ours.run("copy_unit", given, **names)
                assert (found["copied"], found["lsn"], list(found["files"].values())) == (0, "0/99", [None])
                here.run("drop_lanes", subscription=_SUBSCRIPTION)
                with pytest.raises(psycopg.OperationalError):
                    lane.execute("SELECT 1")
            else:
                with pytest.raises(psycopg.Error) as raised:
                    ours.run("copy_unit", given, **names)
                assert raised.value.sqlstate == sqlstate


def check_changed(here: Here, given: dict[str, Any]) -> None:
    """What changed of a table in a set, and only that, is to be on the new node as well."""
    assert here.run("changed_structure", **given, ddl="") == {"facts": {}}
    here.execute(
        "SELECT spock.repset_add_table('default_insert_only', 'public.made')",
        "CREATE INDEX made_more ON public.made (more)",
    )
    here.execute(f"ALTER EVENT TRIGGER {_ODD} DISABLE", "CREATE TABLE public.nobodys (id int)", "DROP SCHEMA kept")
    changed = here.run("changed_structure", **given, ddl="")["facts"]
    assert set(changed) == {"table public.made", "index made_more on public.made", "schema kept"}
    assert changed["schema kept"] is None
    now: dict[str, Any] = given | {"results": {"s": {"facts": changed}}, "stage": "joined"}
    here.run("prove_structure", **now)
    here.execute("DROP INDEX public.made_more", "CREATE SCHEMA kept", f"ALTER EVENT TRIGGER {_ODD} ENABLE")
    with pytest.raises(psycopg.Error) as error:
        here.run("prove_structure", **now)
    assert (error.value.sqlstate, error.value.diag.message_detail) == (
        "ZD114",
        "index made_more on public.made is missing here.",
    )
    changed["table public.made"] = None
    with pytest.raises(psycopg.Error, match="not that of the source") as error:
        here.run("prove_structure", **now)
    assert "table public.made is missing on the source" in str(error.value.diag.message_detail)
    changed["table public.made"] = "another one"
    with pytest.raises(psycopg.Error, match="not that of the source") as error:
        here.run("prove_structure", **now | {"stage": "copied"})
    assert (error.value.sqlstate, error.value.diag.message_detail) == ("ZD304", "table public.made differs.")


def test_the_stream_begins_once_where_the_copy_ended(here: Here) -> None:
    here.subscribe()
    slot = here.value("SELECT sub_slot_name FROM spock.subscription")
    here.execute(
        "INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status,"
        " sync_statuslsn) SELECT 'd', sub_id, 'zodan unit', '1', 'y', '0/5' FROM spock.subscription",
        f"SELECT pg_replication_origin_create('{_SUBSCRIPTION} 1')",
    )

    def states() -> tuple[Any, Any]:
        done = [
            here.run(name, subscription=_SUBSCRIPTION, slot="no_such_slot")["ok"]
            for name in ("is_enabled", "copy_continues")
        ]
        return done[0], done[1]

    assert states() == (False, True)
    for _ in range(2):
        here.run("begin_stream", subscription=_SUBSCRIPTION, lsn="0/5", slot_lsn="0/2", tables="[]", head="0/1")
        assert states() == (True, True)
    assert here.value("SELECT count(*) FROM spock.local_sync_status WHERE sync_nspname IS NOT NULL") == 0
    assert here.value("SELECT count(*) FROM pg_replication_origin WHERE roname = %s", f"{_SUBSCRIPTION} 1") == 0
    here.run("disable_copy", subscription=_SUBSCRIPTION)
    # Never enabled again: Spock might discard the transaction that its worker was in.
    assert here.value("SELECT pg_replication_origin_progress(%s, false) >= '0/5'", slot) is True
    assert states() == (False, False)


def test_tables_of_several_snapshots_have_positions_of_their_own(here: Here) -> None:
    here.subscribe()
    slot = here.value("SELECT sub_slot_name FROM spock.subscription")
    here.execute(
        "CREATE TABLE public.root (id int) PARTITION BY LIST (id)",
        "CREATE TABLE public.leaf PARTITION OF public.root DEFAULT",
    )
    tables = [{"schema": "public", "name": name, "lsn": lsn} for name, lsn in (("leaf", "0/7"), (ODD, "0/9"))]
    given: dict[str, Any] = {"copied": {"lsn": "0/9", "tables": tables}}
    names = {"lsn": "{result:copied.lsn}", "tables": "{result:copied.tables}", "slot_lsn": "0/2", "head": "0/3"}
    here.run("begin_stream", given, subscription=_SUBSCRIPTION, **names)
    here.run("disable_copy", subscription=_SUBSCRIPTION)
    rows = here.connection.execute(
        "SELECT sync_relname::text, sync_statuslsn::text FROM spock.local_sync_status"
        " WHERE sync_nspname = 'public' AND sync_kind = 'd'"
    ).fetchall()
    assert set(rows) == {("leaf", "0/7"), ("root", "0/7"), (ODD, "0/9")}
    assert here.value("SELECT pg_replication_origin_progress(%s, false) >= '0/3'", slot) is True
    with pytest.raises(psycopg.Error) as raised:
        here.run("prove_head", subscription=_SUBSCRIPTION, slot=slot)
    assert raised.value.sqlstate == "ZD304"
    # What the first transaction of the stream has its worker do.
    key = int(read_default("head_key", int))
    here.connection.execute("SELECT pg_advisory_lock_shared(%s, hashtext(%s))", [key, slot])
    for _ in range(2):
        here.run("prove_head", subscription=_SUBSCRIPTION, slot=slot)
    assert here.value("SELECT count(*) FROM spock.local_sync_status WHERE sync_nspname IS NOT NULL") == 0


def test_the_first_transaction_of_a_stream_is_found(here: Here) -> None:
    with here.session("another") as other:
        assert here.run("find_head", slot="zodan_head_x", head="a_slot") == {"lsn": "", "dropped": 0}
        for name in ("create_publication", "drop_publication", "create_publication"):
            for _ in range(2):
                here.run(name, publication="zodan_head_x")
        for _ in range(2):
            here.run("watch_head", slot="zodan_head_x")
        before = here.value("SELECT pg_current_wal_insert_lsn()")
        other.execute("CREATE TABLE public.before (id int)")
        last = value(other, "SELECT pg_current_wal_insert_lsn()")
        ddl = here.run("note_ddl")
        here.run("send_head", slot="a_slot", sets=["default"])
        assert here.run("note_ddl") == ddl
        after = here.value("SELECT pg_current_wal_insert_lsn()")
        other.execute("CREATE TABLE public.after (id int)")
        # One that was sent for another copy.
        here.run("send_head", slot="b_slot", sets=["default"])
        found = here.run("find_head", slot="zodan_head_x", head="a_slot")
        assert found["dropped"] == 1
        assert here.value("SELECT %s::pg_lsn BETWEEN %s::pg_lsn - 1 AND %s", found["lsn"], last, after) is True
        assert here.value("SELECT %s::pg_lsn > %s", found["lsn"], before) is True
    assert here.run("find_head", slot="zodan_head_x", head="a_slot") == {"lsn": "", "dropped": 0}


def test_changes_of_structure_are_counted(here: Here) -> None:
    before = here.run("note_ddl")["ddl"]
    assert here.run("note_ddl")["ddl"] == before
    if here.server.engine.is_real:
        here.execute("SELECT spock.replicate_ddl('CREATE TABLE public.queued (id int PRIMARY KEY)')")
        assert here.run("note_ddl")["ddl"] != before
        before = here.run("note_ddl")["ddl"]
    here.execute("CREATE TABLE public.added (id int PRIMARY KEY)")
    assert here.run("note_ddl")["ddl"] == before or here.server.engine.is_real
    here.execute("SELECT spock.repset_add_table('default', 'public.added')")
    assert here.run("note_ddl")["ddl"] != before


def test_transactions_are_watched_while_tables_come_and_go(here: Here) -> None:
    over = threading.Event()

    def make_tables() -> None:
        with here.session("tables") as session:
            while not over.is_set():
                session.execute(
                    "CREATE TEMP TABLE t (a int); SELECT pg_sleep(0.02); ALTER TABLE t ADD b int; DROP TABLE t"
                )

    with ThreadPoolExecutor(3) as pool:
        sessions = [pool.submit(make_tables) for _ in range(3)]
        try:
            for _ in range(20):
                here.run("watch_head", slot="zodan_head_x")
        finally:
            over.set()
        for session in sessions:
            session.result()
    here.execute("SELECT pg_drop_replication_slot('zodan_head_x')")


def test_a_structure_is_compared_with_itself_and_emptied(here: Here) -> None:
    here.execute("CREATE SCHEMA kept", *_EVERYTHING)
    full = here.run("describe_structure", brief="false", exact="true")["facts"]
    brief = here.run("describe_structure", brief="true", exact="true")["facts"]
    identities = {name for name in brief if name.startswith("identity on ")}
    assert "identity on public.made" in identities
    for name in identities:
        del brief[name]
    assert set(full) == set(brief) > set(here.run("describe_structure", brief="false", exact="false")["facts"])
    assert {"schema kept", "table public.made", "view public.v", "query of public.v", "domain public.d"} <= set(full)
    given: dict[str, Any] = {"results": {"s": {"facts": brief}}, "objects": "{result:s.facts}", "exact": "true"}
    here.run("prove_structure", **given, stage="present")
    assert here.run("changed_structure", **given, ddl="") == {"facts": {}}
    here.execute("ALTER TABLE public.made ADD more int")
    with pytest.raises(psycopg.Error) as error:
        here.run("prove_structure", **given, stage="present")
    assert error.value.sqlstate == "ZD114"
    assert "table public.made differs" in (error.value.diag.message_detail or "")
    check_changed(here, given)
    assert here.run("list_filled")["facts"] == [f"{_ODD}.{_ODD}"]
    noted = here.run("note_objects") | {"at": 0}
    emptied: dict[str, Any] = {"results": {"note": noted}, "identity": "{result:note.identity}"}
    here.run("empty_tables", node="another " + ODD, **emptied)
    assert here.run("list_filled")["facts"] == [f"{_ODD}.{_ODD}"]
    for _ in range(2):
        here.run("empty_tables", node=_NODE, **emptied)
        assert here.run("list_filled")["facts"] == []
