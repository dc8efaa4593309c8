"""Every statement about a node, its sets, sequences and roles does what it says, alone and on one server."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.statements import ODD, forgotten, run, value
from zodan_sql.sandbox import Node

_NODE = "node " + ODD
_OTHER = "other " + ODD


class Blank:
    """A database with Spock that is no node, on which statements run that Zodan writes elsewhere."""

    def __init__(self, zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], server: Node) -> None:
        self.zodan = zodan
        self.connection = database
        self.server = server
        self.dsn = server.dsn(dbname=database.info.dbname)

    def run(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Run a statement here."""
        return run(self.zodan, name, on=self.connection, dsns={_NODE: self.dsn}, **parameters)

    def register(self, name: str = _NODE) -> None:
        """Make the database a node."""
        self.connection.execute("SELECT spock.node_create(%s, %s)", [name, self.dsn])

    def value(self, query: str, *parameters: Any) -> Any:
        """Return the only value of a query."""
        return value(self.connection, query, *parameters)

    def column(self, query: str) -> list[Any]:
        """Return the first column of a query."""
        return [row[0] for row in self.connection.execute(query.encode())]

    def execute(self, *statements: str) -> None:
        """Run statements of a test."""
        for statement in statements:
            self.connection.execute(statement.encode())


@pytest.fixture
def blank(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], server: Node) -> Blank:
    return Blank(zodan, database, server)


@pytest.fixture
def node(blank: Blank) -> Blank:
    """Return the same as a node of an odd name."""
    blank.register()
    return blank


_ODD_TABLE = sql.Identifier(ODD).as_string()


def test_every_statement_is_run_here() -> None:
    assert forgotten("node", __file__) == set()


# --- the node


def test_a_database_becomes_a_node(blank: Blank) -> None:
    info = {"tier": ODD}
    row = blank.run("register_node", node=_NODE, location=ODD, country=None, info=json.dumps(info))
    query = "SELECT node_id, node_name, location, country, info FROM spock.node JOIN spock.local_node USING (node_id)"
    assert blank.connection.execute(query.encode()).fetchone() == (row["node_id"], _NODE, ODD, None, info)
    assert blank.column("SELECT if_dsn FROM spock.node_interface") == [blank.dsn]
    with pytest.raises(psycopg.Error):
        blank.run("register_node", node=_NODE, location=None, country=None, info=None)


@pytest.mark.parametrize("statement", ["drop_node_row", "drop_node"])
def test_a_node_is_dropped_and_one_that_is_gone_is_no_error(node: Blank, statement: str) -> None:
    parameter = {"drop_node_row": "node", "drop_node": "target"}[statement]
    node.run(statement, **{parameter: ODD})
    assert node.column("SELECT node_name FROM spock.node") == [_NODE]
    for _ in range(2):
        node.run(statement, **{parameter: _NODE})
        assert node.value("SELECT count(*) FROM spock.node") == 0
        assert node.value("SELECT count(*) FROM spock.local_node") == 0


def test_a_node_that_goes_drops_its_subscriptions_and_sets(node: Blank, zodan: psycopg.Connection[Any]) -> None:
    _subscribe(node, zodan)
    node.execute("SELECT spock.repset_create('extra')")
    for _ in range(2):
        node.run("drop_node", target=_NODE)
        assert node.value("SELECT count(*) FROM spock.subscription") == 0
        assert node.value("SELECT count(*) FROM spock.replication_set") == 0
        assert node.value("SELECT count(*) FROM spock.local_node") == 0


def test_a_member_forgets_another_node_but_not_itself(node: Blank) -> None:
    schema = "spock" if node.server.engine.is_real else "pglogical"
    query = f"INSERT INTO {schema}.node (node_id, node_name) VALUES (7, %s)"
    node.connection.execute(query.encode(), [_OTHER])
    assert node.run("forget_node", target=_NODE) == {}
    assert node.value("SELECT count(*) FROM spock.node") == 2
    for _ in range(2):
        node.run("forget_node", target=_OTHER)
        assert node.column("SELECT node_name FROM spock.node") == [_NODE]


def test_the_schema_is_dropped_where_it_is_empty(blank: Blank) -> None:
    for content in ("CREATE TABLE zodan.t ()", "CREATE FUNCTION zodan.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"):
        blank.execute("CREATE SCHEMA zodan", content)
        blank.run("drop_empty_schema")
        assert blank.value("SELECT to_regnamespace('zodan') IS NOT NULL")
        blank.execute("DROP SCHEMA zodan CASCADE", "CREATE SCHEMA zodan")
        for _ in range(2):
            blank.run("drop_empty_schema")
            assert blank.value("SELECT to_regnamespace('zodan') IS NULL")


def test_a_schema_in_which_zodan_is_installed_stays(zodan: psycopg.Connection[Any]) -> None:
    run(zodan, "drop_empty_schema")
    assert value(zodan, "SELECT to_regproc('zodan.plan_add_node') IS NOT NULL")


# --- its stream


def test_a_sync_event_is_put_into_the_stream(node: Blank) -> None:
    before = node.value("SELECT pg_current_wal_insert_lsn()")
    row = node.run("emit_sync_event")
    assert node.value("SELECT %s::pg_lsn > %s", row["lsn"], before)
    assert node.value("SELECT abs(extract(epoch FROM clock_timestamp()) - %s) < 60", row["at"])
    again = node.run("emit_sync_event")
    assert node.value("SELECT %s::pg_lsn > %s", again["lsn"], row["lsn"])


def test_the_time_is_noted(blank: Blank) -> None:
    before = blank.value("SELECT extract(epoch FROM clock_timestamp())")
    noted = blank.run("note_time")["at"]
    assert blank.value("SELECT %s::float8 BETWEEN %s AND extract(epoch FROM clock_timestamp())", noted, before) is True


def test_where_there_is_no_node_there_is_no_event_to_wait_for(blank: Blank) -> None:
    assert blank.run("emit_sync_event")["lsn"] == "0/0"


def test_unused_origins_are_cleared(blank: Blank) -> None:
    for name in (ODD, "zd_kept"):
        blank.connection.execute("SELECT pg_replication_origin_create(%s)", [name])
    before = set(blank.column("SELECT roname FROM pg_replication_origin"))
    for _ in range(2):
        blank.run("clear_names", slots=[ODD], origins=[ODD, "zd_missing"])
        assert before - set(blank.column("SELECT roname FROM pg_replication_origin")) == {ODD}
    blank.execute("SELECT pg_replication_origin_drop('zd_kept')")


def test_the_origin_of_a_subscription_is_not_cleared(node: Blank, zodan: psycopg.Connection[Any]) -> None:
    slot = _subscribe(node, zodan)
    node.connection.execute("SELECT pg_replication_origin_advance(%s, '0/99')", [slot])
    node.run("clear_names", slots=[], origins=[slot])
    query = "SELECT remote_lsn::text FROM pg_replication_origin_status WHERE external_id = %s"
    assert node.value(query, slot) == "0/99"
    node.execute("SELECT spock.sub_drop('sub_a')")


def test_a_slot_of_a_name_that_is_needed_stops_the_join(blank: Blank) -> None:
    blank.execute("SELECT pg_create_logical_replication_slot('zd_slot', 'spock_output')")
    blank.run("clear_names", slots=["zd_other"], origins=[])
    blank.connection.execute("SELECT pg_replication_origin_create(%s)", [ODD])
    with pytest.raises(psycopg.Error, match='slot "zd_slot" is there already, and nobody streams from it'):
        blank.run("clear_names", slots=[ODD, "zd_slot"], origins=[ODD])
    assert blank.value("SELECT count(*) FROM pg_replication_origin WHERE roname = %s", ODD) == 1
    blank.connection.execute("SELECT pg_replication_origin_drop(%s)", [ODD])
    blank.execute("SELECT pg_drop_replication_slot('zd_slot')")


# --- what it publishes


def test_a_node_publishes_nothing_any_more(node: Blank) -> None:
    node.execute(
        f"CREATE TABLE {_ODD_TABLE} (id int PRIMARY KEY)",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id)",
        "CREATE TABLE part PARTITION OF parts DEFAULT",
        "SELECT spock.repset_create('extra')",
    )
    assert node.run("is_unpublished")["ok"]
    for name, table in (("default", _ODD_TABLE), ("extra", _ODD_TABLE), ("default", "parts")):
        node.connection.execute("SELECT spock.repset_add_table(%s, %s::regclass)", [name, table])
    assert not node.run("is_unpublished")["ok"]
    published = node.value("SELECT count(*) FROM spock.replication_set_table")
    assert node.run("unpublish") == {"removed": published}
    assert node.run("is_unpublished")["ok"]
    assert node.run("unpublish") == {"removed": 0}
    assert node.value("SELECT count(*) FROM spock.replication_set_table") == 0


def test_where_there_is_no_node_nothing_is_published(blank: Blank) -> None:
    assert blank.run("is_unpublished")["ok"]
    assert blank.run("unpublish") == {"removed": 0}


def test_sets_become_what_is_wanted(node: Blank) -> None:
    node.execute(
        f"CREATE TABLE {_ODD_TABLE} (id int PRIMARY KEY, a text, b text)",
        "CREATE TABLE beyond (id int PRIMARY KEY)",
        "CREATE TABLE elsewhere (id int PRIMARY KEY)",
        f'CREATE SEQUENCE "seq {ODD.replace(chr(34), chr(34) * 2)}"',
        "CREATE SEQUENCE beyond_seq",
    )
    table = f"public.{_ODD_TABLE}"
    sequence = f'public."seq {ODD.replace(chr(34), chr(34) * 2)}"'
    node.connection.execute("SELECT spock.repset_create(%s, true, true, false, true)", [ODD])
    node.execute(
        "SELECT spock.repset_create('untouched')",
        "SELECT spock.repset_add_table('untouched', 'elsewhere')",
        "SELECT spock.repset_add_table('default', 'beyond')",
        "SELECT spock.repset_add_seq('default', 'beyond_seq')",
    )
    node.connection.execute("SELECT spock.repset_add_table('default', %s::regclass)", [table])
    flags = {"insert": True, "update": True, "delete": True, "truncate": True}
    wanted: dict[str, Any] = {
        "sets": [
            {"name": "default", **flags},
            {"name": ODD, **flags},
            {"name": "new " + ODD, **(flags | {"truncate": False})},
        ],
        "tables": [
            {"set": "default", "table": table, "columns": ["a", "id"], "filter": "(id > 5)"},
            {"set": "new " + ODD, "table": "public.beyond", "columns": None, "filter": None},
        ],
        "sequences": [{"set": ODD, "sequence": sequence}],
    }
    sets = [item["name"] for item in wanted["sets"]]
    for _ in range(2):
        node.run("mirror_sets", wanted="{result:sets.sets}", results={"sets": {"sets": wanted}}, sets=sets)
        found = node.run("read_sets", sets=sets)["sets"]
        for kind in ("sets", "tables", "sequences"):
            assert sorted(found[kind], key=str) == sorted(wanted[kind], key=str), kind
    untouched = node.run("read_sets", sets=["untouched"])["sets"]
    assert [item["table"] for item in untouched["tables"]] == ["public.elsewhere"]


# --- its sequences


def test_sequences_are_brought_beyond_every_member(blank: Blank) -> None:
    odd = sql.Identifier("seq " + ODD).as_string()
    blank.execute(
        f"CREATE SEQUENCE {odd}",
        "CREATE SEQUENCE ahead",
        "CREATE SEQUENCE down INCREMENT -2",
        "CREATE SEQUENCE short AS smallint MAXVALUE 1500",
        "CREATE SEQUENCE unused",
        "SELECT setval('ahead', 5000)",
    )
    first = {f"public.{odd}": 70, "public.ahead": 10, "public.down": -30, "public.short": 600, "public.gone": 9}
    second = {f"public.{odd}": 90, "public.down": -10}
    blank.run(
        "level_sequences",
        seen="ARRAY[{result:seq1.sequences}, {result:seq2.sequences}]::jsonb[]",
        results={"seq1": {"sequences": first}, "seq2": {"sequences": second}},
    )
    assert _counted(blank) == {"seq " + ODD: 1090, "ahead": 6000, "down": -2030, "short": 600, "unused": None}
    blank.run("level_sequences", seen="ARRAY[]::jsonb[]")
    assert _counted(blank) == {"seq " + ODD: 2090, "ahead": 7000, "down": -4030, "short": 600, "unused": None}


def _counted(blank: Blank) -> dict[str, int | None]:
    query = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'"
    return dict(blank.connection.execute(query.encode()))


# --- its roles


def test_roles_that_were_brought_are_dropped(node: Blank) -> None:
    roles = ["brought " + ODD, "before " + ODD, "kept " + ODD]
    for role in roles:
        node.connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    node.connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(roles[0])))
    arguments: dict[str, Any] = {
        "brought": [*roles[:2], "missing " + ODD],
        "before": "{result:roles.names}",
        "results": {"roles": {"names": [roles[1]]}},
    }
    node.run("drop_roles", node=_OTHER, **arguments)
    assert _roles(node) == sorted(roles)
    for _ in range(2):
        node.run("drop_roles", node=_NODE, **arguments)
        assert _roles(node) == sorted(roles[1:])
    for role in roles[1:]:
        node.connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _roles(node: Blank) -> list[str]:
    return sorted(name for name in node.column("SELECT rolname FROM pg_roles") if ODD in name)


# --- proofs


def test_what_is_left_of_a_removal_is_named(node: Blank, zodan: psycopg.Connection[Any]) -> None:
    def prove(target: str, origins: list[str], slots: list[str]) -> str | None:
        try:
            node.run("prove_gone", target=target, origins=origins, slots=slots)
        except psycopg.Error as error:
            assert error.sqlstate == "ZD401"
            return error.diag.message_primary
        return None

    slot = _subscribe(node, zodan)
    assert prove(ODD, [ODD], [ODD]) is None
    assert prove(_OTHER, [], []) == f"still there: node {_OTHER}, interface {_OTHER}"
    assert prove(ODD, [slot], []) == f"still there: subscription sub_a, origin {slot}"
    assert prove(ODD, [], [slot]) == f"still there: slot {slot}"
    node.execute("SELECT spock.sub_drop('sub_a')")
    node.run("forget_node", target=_OTHER)
    for _ in range(2):
        assert prove(_OTHER, [slot], [slot]) is None


def test_a_join_is_proved_whole(node: Blank, zodan: psycopg.Connection[Any]) -> None:
    def prove(nodes: list[str], origin: str | None = None) -> tuple[str | None, str | None]:
        results = {"begin": {"at": 1000}}
        try:
            node.run("prove_whole", since="{result:begin.at}", results=results, origin=origin, nodes=nodes)
        except psycopg.Error as error:
            return error.sqlstate, error.diag.message_primary
        return None, None

    _subscribe(node, zodan)
    for _ in range(2):
        assert prove([_NODE, _OTHER, ODD]) == (None, None)
    assert prove([_NODE]) == ("ZD403", f"nodes joined in the meantime: {_OTHER}")
    node.connection.execute(
        "INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,"
        " remote_xid, table_schema, table_name, operation, error_message)"
        " SELECT node_id, to_timestamp(0), c, to_timestamp(999 + c), 1, 'public', %s, 'INSERT', 'no %%s'"
        " FROM spock.node CROSS JOIN generate_series(1, 3) AS c WHERE node_name = %s",
        [ODD, _OTHER],
    )
    state, message = prove([_NODE, _OTHER])
    assert state == "ZD402"
    assert message == (
        f"changes were discarded here: INSERT on public.{ODD}, 2 rows, committed at 1970-01-01 00:00:00+00: no %s"
    )
    assert prove([_NODE, _OTHER], _OTHER)[0] == "ZD402"
    assert prove([_NODE, _OTHER], _NODE) == (None, None)
    node.execute("SELECT spock.sub_drop('sub_a')")


def _subscribe(node: Blank, zodan: psycopg.Connection[Any]) -> str:
    """Make the database with Zodan a node, and subscribe to it, disabled; return the name of the slot and origin."""
    dsn = node.server.dsn(dbname=zodan.info.dbname)
    if value(zodan, "SELECT count(*) FROM spock.local_node") == 0:
        zodan.execute("SELECT spock.node_create(%s, %s)", [_OTHER, dsn])
    slot = str(node.value("SELECT spock.spock_gen_slot_name(current_database(), %s, 'sub_a')", _OTHER))
    zodan.execute("SELECT pg_create_logical_replication_slot(%s, 'spock_output')", [slot])
    node.connection.execute("SELECT spock.sub_create('sub_a', %s, enabled := false)", [dsn])
    return slot


def test_origins_of_a_levelling_are_dropped(node: Blank) -> None:
    (oid,) = node.column("SELECT oid FROM pg_database WHERE datname = current_database()")
    origins = [f"zodan level {oid} {ODD}", f"zodan level {int(oid) + 1} {ODD}", "zodan levels"]
    for origin in origins:
        node.value("SELECT pg_replication_origin_create(%s)", origin)
    assert node.run("drop_level_origins")["dropped"] == 1
    assert node.run("drop_level_origins")["dropped"] == 0
    for origin in origins[1:]:
        node.value("SELECT pg_replication_origin_drop(%s)", origin)
