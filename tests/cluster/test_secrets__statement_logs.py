"""A server that logs statements: no password of a call is in its log, and what cannot be kept out is said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

from support.clusters import MakeCluster
from support.secrets import find
from support.shell import run
from support.tables import create_tables
from zodan_sql.sandbox import Cluster, Engine, Node, wait_until

_LOGS = {"log_min_duration_statement": "0", "auto_explain.log_min_duration": "0", "log_duration": "on"}

#: Everything that these extensions can keep of a statement, and of what it does.
_KEEPERS = _LOGS | {
    "auto_explain.log_nested_statements": "on",
    "log_temp_files": "0",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_utility": "on",
}
#: Of nobody, and unknown to the net: what is told of it on purpose is no leak.
_NOBODYS = "Xc4nobodys"
_NOWHERE = f"host=127.0.0.1 port=1 connect_timeout=2 password={_NOBODYS}"


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=1, blanks=1)
    create_tables(cluster)
    return cluster


def _set(node: Node, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        node.execute(f"ALTER ROLE CURRENT_USER SET {name} = '{value}'")


def _add(cluster: Cluster) -> list[str]:
    """Call as psql does, everything in one string; return the warnings."""
    n1, n2 = cluster.nodes
    statement = sql.SQL("CALL spock.add_node('n1', {}, 'n2', {})").format(sql.Literal(n1.dsn()), sql.Literal(n2.dsn()))
    told: list[str] = []
    with n2.connect() as connection:
        connection.add_notice_handler(lambda said: told.append(str(said.message_primary)))
        # The simple protocol: bound, a statement is logged before it begins.
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(statement)
    return told


def test_a_call_that_lasts_is_not_logged_with_its_passwords(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    assert run("install", "--dsn", n2.dsn()).code == 0
    _set(n2, _LOGS)
    assert [line for line in _add(cluster) if "passwords" in line] == []
    text = n2.log_text()
    assert "duration: " in text
    assert list(find(text)) == []


def test_what_is_logged_before_it_begins_is_said(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    assert run("install", "--dsn", n2.dsn()).code == 0
    with n2.connect() as connection:
        connection.execute("SET log_statement = 'all'")
        told: list[str] = []
        connection.add_notice_handler(lambda said: told.append(str(said.message_primary)))
        # No password of ours: this one is bound to be in the log.
        with pytest.raises(psycopg.Error):
            connection.execute(
                "CALL spock.add_node('n1', 'host=nowhere.invalid password=x', 'n2', 'host=nowhere.invalid')"
            )
    assert [line for line in told if line.startswith("log_statement is all here")]


def test_the_shell_leaves_none_in_any_log(cluster: Cluster) -> None:
    n1, n2 = cluster.nodes
    assert run("install", "--dsn", n2.dsn()).code == 0
    _set(n2, _LOGS | {"log_statement": "all"})
    given = ("--src-node-name", "n1", "--src-dsn", n1.dsn(), "--new-node-name", "n2", "--new-node-dsn", n2.dsn())
    assert run("health-check", *given).code == 0
    added = run("add-node", *given)
    assert added.code == 0, added.err
    assert "passwords" not in added.out + added.err
    text = n2.log_text()
    assert "statement: " in text or "duration: " in text
    assert list(find(text)) == []


@pytest.fixture
def keeping(make_cluster: MakeCluster, engine: Engine) -> Cluster:
    """A member and a blank with Zodan, on servers that keep what they can of every statement from now on."""
    libraries = f"{engine.preload_library}, pg_stat_statements, auto_explain"
    cluster = make_cluster(members=1, blanks=1, extra_conf={"shared_preload_libraries": libraries})
    create_tables(cluster)
    assert run("install", "--dsn", cluster["n2"].dsn()).code == 0
    for node in cluster.nodes:
        node.execute("CREATE EXTENSION pg_stat_statements")
        # A cluster's own making is no business of Zodan's.
        node.execute("SELECT pg_stat_statements_reset()")
        _set(node, _KEEPERS)
    return cluster


def _places(node: Node, holds: Callable[[str], bool]) -> list[str]:
    """Return where a server has kept something: lines of its log, and statements in pg_stat_statements."""
    kept = node.execute("SELECT query FROM pg_stat_statements")
    assert kept != []
    lines = [f"log: {line}" for line in node.log_text().splitlines() if holds(line)]
    return lines + [f"pg_stat_statements: {query}" for (query,) in kept if query is not None and holds(query)]


def _held(text: str) -> bool:
    return list(find(text)) != []


def _notices_of(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    told: list[str] = []
    connection.add_notice_handler(lambda said: told.append(str(said.message_primary)))
    return told


#: Before PostgreSQL 17 a CALL is kept with its constants by what runs around it: it can only be said.
_CALLS_ARE_KEPT = 17


def test_nothing_that_is_loaded_keeps_a_password_of_a_call(keeping: Cluster, engine: Engine) -> None:
    kept = engine.server_version < _CALLS_ARE_KEPT
    if kept:
        keeping["n2"].execute("ALTER ROLE CURRENT_USER SET pg_stat_statements.track_utility = off")
    assert [line for line in _add(keeping) if "passwords" in line] == []
    for node in keeping.nodes:
        assert "plan:" in node.log_text()
        assert _places(node, _held) == []


def test_nothing_that_is_loaded_keeps_a_password_of_the_command(keeping: Cluster) -> None:
    n1, n2 = keeping.nodes
    for node in keeping.nodes:
        _set(node, {"log_statement": "all", "log_parameter_max_length_on_error": "-1"})
    added = run(
        "add-node", "--src-node-name", "n1", "--src-dsn", n1.dsn(), "--new-node-name", "n2", "--new-node-dsn", n2.dsn()
    )
    assert added.code == 0, added.err
    assert "passwords" not in added.out + added.err
    # One that fails, too.
    assert run("topology", "--dsn", n1.dsn(dbname="postgres")).code != 0
    for node in keeping.nodes:
        assert _places(node, _held) == []


_DOORS = {
    "plan_add_node": "SELECT zodan.plan_add_node('n1', {n1}, 'n2', {n2})",
    "plan_remove_node": "SELECT zodan.plan_remove_node('n1', {n1})",
    "checks": "SELECT zodan.checks('pre', 'n1', {n1}, 'n2', {n2})",
    "topology": "SELECT * FROM zodan.topology({n1})",
    "rescan": "SELECT * FROM zodan.rescan({n1})",
    "run_on": "SELECT zodan.run_on({n1}, 'SELECT 1 / 0 AS x')",
    "sync_event": "SELECT zodan.sync_event({n1})",
    "create_sub": "SELECT zodan.create_sub({n1}, 'none', {n2})",
    "create_node": "SELECT zodan.create_node('n1', {n1})",
    "get_spock_nodes": "SELECT zodan.get_spock_nodes({n1})",
    "create_replication_slot": "SELECT zodan.create_replication_slot({n1}, 'Not a slot')",
    "nobody there": "SELECT zodan.topology({n1} || ' port=1')",
}


def test_no_door_has_its_statement_kept(keeping: Cluster) -> None:
    n1, n2 = keeping.nodes
    found: dict[str, list[str]] = {}
    for name, query in _DOORS.items():
        statement = sql.SQL(query).format(n1=sql.Literal(n1.dsn()), n2=sql.Literal(n2.dsn()))  # type: ignore[arg-type, unused-ignore]
        with n2.connect() as connection, psycopg.ClientCursor(connection) as cursor:
            told = _notices_of(connection)
            # Whether it works or fails.
            with suppress(psycopg.Error):
                cursor.execute(statement)
        seen = {place for places in found.values() for place in places}
        found[name] = [place for node in keeping.nodes for place in _places(node, _held) if place not in seen]
        assert [line for line in told if "passwords" in line] == []
    assert found == {name: [] for name in _DOORS}


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_call_that_is_ended_is_not_logged(keeping: Cluster, engine: Engine, end: str) -> None:
    n2 = keeping["n2"]
    if engine.server_version < _CALLS_ARE_KEPT:
        n2.execute("ALTER ROLE CURRENT_USER SET pg_stat_statements.track_utility = off")

    def call() -> None:
        with suppress(psycopg.Error):
            _add(keeping)

    calling = threading.Thread(target=call)
    calling.start()
    under_way = "SELECT 1 FROM zodan.step WHERE state = 'running' AND phase > 2"
    wait_until(lambda: "" if n2.execute(under_way) else "not yet", 30, "the copy")
    callers = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'CALL spock.add_node(%%'"
    n2.execute(f"SELECT {end}(pid) FROM ({callers}) AS c")
    wait_until(lambda: "still there" if n2.execute(f"{callers} AND state = 'active'") else "", 30, "its end")
    calling.join(30)
    assert ("canceling statement" if end == "pg_cancel_backend" else "terminating connection") in n2.log_text()
    for node in keeping.nodes:
        assert _places(node, _held) == []


_CASES = {
    "log_statement, a CALL": (
        False,
        {"log_statement": "all"},
        "CALL spock.health_check('n1', {})",
        "log_statement is all",
    ),
    "log_statement, rows": (False, {"log_statement": "all"}, "SELECT zodan.topology({})", "log_statement is all"),
    "log_statement, by hand": (False, {"log_statement": "all"}, "SELECT zodan.sync_event({})", "log_statement is all"),
    "log_statement, bound": (True, {"log_statement": "all"}, "SELECT zodan.topology(%s)", "log_statement is all"),
    "durations, bound": (
        True,
        {"log_min_duration_statement": "0"},
        "SELECT zodan.topology(%s)",
        "durations are logged",
    ),
    "samples, bound": (True, {"log_min_duration_sample": "0"}, "SELECT zodan.topology(%s)", "durations are logged"),
    "transactions, bound": (
        True,
        {"log_transaction_sample_rate": "1"},
        "SELECT zodan.topology(%s)",
        "durations are logged",
    ),
    "parameters of errors": (
        True,
        {"log_parameter_max_length_on_error": "-1"},
        "SELECT zodan.topology(%s)",
        "log_parameter_max_length_on_error is not 0",
    ),
    "utility, in a block": (
        False,
        {"pg_stat_statements.track_utility": "on"},
        "DO $do$ BEGIN PERFORM zodan.topology({}); EXCEPTION WHEN OTHERS THEN END $do$",
        "pg_stat_statements keeps",
    ),
}


@pytest.fixture(scope="module")
def quiet(make_module_cluster: MakeCluster, engine: Engine) -> Iterator[Node]:
    """A database with Zodan where nothing is kept, unless a session says so."""
    libraries = f"{engine.preload_library}, pg_stat_statements, auto_explain"
    (node,) = make_module_cluster(members=0, blanks=1, extra_conf={"shared_preload_libraries": libraries}).nodes
    assert run("install", "--dsn", node.dsn()).code == 0
    node.execute("CREATE EXTENSION pg_stat_statements")
    _set(node, {"pg_stat_statements.track_utility": "off"})
    return node


@pytest.mark.parametrize("case", _CASES)
def test_what_cannot_be_kept_out_is_said_once(quiet: Node, case: str) -> None:
    bound, settings, statement, words = _CASES[case]
    before = len(_places(quiet, lambda text: _NOBODYS in text))
    with quiet.connect() as connection:
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")  # type: ignore[arg-type, unused-ignore]
        told = _notices_of(connection)
        with suppress(psycopg.Error):
            if bound:
                connection.execute(statement, [_NOWHERE])  # type: ignore[arg-type, unused-ignore]
            else:
                with psycopg.ClientCursor(connection) as cursor:
                    cursor.execute(sql.SQL(statement).format(sql.Literal(_NOWHERE)))  # type: ignore[arg-type, unused-ignore]
    assert len([line for line in told if line.startswith(words)]) == 1, told
    assert len([line for line in told if "passwords" in line]) == 1, told
    # It is there, as was said.
    assert len(_places(quiet, lambda text: _NOBODYS in text)) > before


@pytest.mark.parametrize("settings", [{}, {"log_parameter_max_length": "0", "log_statement": "all"}])
def test_nothing_is_said_where_nothing_is_kept(quiet: Node, settings: dict[str, str]) -> None:
    before = _places(quiet, lambda text: _NOBODYS in text)
    with quiet.connect() as connection:
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")  # type: ignore[arg-type, unused-ignore]
        told = _notices_of(connection)
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT zodan.topology(%s)", [_NOWHERE])
    assert [line for line in told if "passwords" in line] == []
    assert _places(quiet, lambda text: _NOBODYS in text) == before


def test_a_caller_who_may_not_hide_is_told(quiet: Node) -> None:
    quiet.execute("CREATE ROLE plain")
    quiet.execute("GRANT USAGE ON SCHEMA zodan TO plain")
    quiet.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA zodan TO plain")
    with quiet.connect() as connection:
        connection.execute("SET log_min_duration_statement = 0")
        connection.execute("SET ROLE plain")
        told = _notices_of(connection)
        with suppress(psycopg.Error), psycopg.ClientCursor(connection) as cursor:
            cursor.execute(sql.SQL("SELECT zodan.topology({})").format(sql.Literal(_NOWHERE)))
    assert [line for line in told if line.endswith("you may not set log_min_duration_statement")]
