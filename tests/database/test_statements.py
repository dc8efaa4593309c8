"""Every statement for another node, alone on one server: it runs, twice in a row, whatever the names in it are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

from zodan_sql.building import render
from zodan_sql.building.render import read_default
from zodan_sql.sandbox import Node
from zodan_sql.sandbox.waiting import wait_until

Connection = psycopg.Connection[Any]

#: A name that ends literals, dollar quotes, formats and placeholders where any of these is not minded.
TRAP = 'it\'s "a" $do$ $sql$ %s {dsn:n1} name'
DSN = "host=nowhere.invalid dbname=x"

#: Statements that look only, or change nothing where what they name is not there: parameters, and the columns that come
#: back, none for a block.
HARMLESS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "copy/disable_copy": ({"subscription": TRAP}, {"disabled"}),
    "copy/drop_copied": ({"objects": "[]", "node": TRAP, "identity": "x"}, set()),
    "copy/drop_copy": ({"subscription": TRAP}, set()),
    "copy/create_publication": ({"publication": TRAP}, set()),
    "copy/drop_publication": ({"publication": TRAP}, set()),
    "copy/end_structure": ({"subscription": TRAP}, set()),
    "copy/drop_ended": ({"subscription": TRAP}, {"ok"}),
    "copy/end_sessions": ({"subscription": TRAP}, {"ended"}),
    "session/end_snapshots": ({"subscription": TRAP}, {"ended"}),
    "copy/build_index": ({"index": 'public."a b"'}, set()),
    "copy/confirm_clone_slot": ({"slot": TRAP}, {"lsn", "system"}),
    "copy/read_clone": ({"mark": TRAP}, {"lsn"}),
    "copy/copy_continues": ({"subscription": TRAP, "slot": TRAP}, {"ok"}),
    "copy/drop_lanes": ({"subscription": TRAP}, set()),
    "copy/is_enabled": ({"subscription": TRAP, "slot": TRAP}, {"ok"}),
    "copy/list_analyzed": ({}, {"units"}),
    "copy/list_indexes": ({}, {"units"}),
    "copy/list_units": ({"sets": [TRAP], "lanes": "2", "head": ""}, {"units", "large", "leaves"}),
    "copy/look_at_copy": ({"subscription": TRAP}, {"marks", "bytes"}),
    "copy/note_ddl": ({}, {"ddl"}),
    "copy/note_life": ({}, {"starts"}),
    "copy/note_objects": ({}, {"objects", "identity", "life", "at"}),
    "copy/read_load": (
        {"slot": TRAP, "subscription": TRAP},
        {"lsn", "slots", "peers", "lost", "waiters", "queued"},
    ),
    "copy/prepare_build": ({}, {"role", "memory"}),
    "copy/prove_head": ({"subscription": TRAP, "slot": TRAP}, set()),
    "copy/set_indexes_aside": ({"tables": json.dumps(['public."a b"']), "subscription": TRAP}, set()),
    "copy/prove_unwritten": ({"node": TRAP}, set()),
    "copy/view_is_filled": ({"view": 'public."it\'s"'}, {"ok"}),
    "copy/view_refused": ({"key": "zodan.refused"}, {"ok", "passed"}),
    "copy/wait_structure": (
        {"subscription": TRAP, "tables": "1", "bytes": None},
        {"ok", "progress", "alive", "trouble", "measure"},
    ),
    "facts/copy_facts": ({}, {"tables", "bytes"}),
    "facts/host_facts": ({}, {"facts"}),
    "facts/list_user_objects": ({}, {"classid", "objid", "type", "identity", "rank"}),
    "facts/node_facts": ({"node": TRAP}, {"location", "country", "info"}),
    "facts/object_facts": ({}, {"facts"}),
    "facts/read_clock": ({}, {"at"}),
    "facts/read_commit_timestamp": ({"origin": TRAP}, {"at"}),
    "facts/read_sequences": ({}, {"sequences"}),
    "facts/read_sets": ({"sets": [TRAP]}, {"sets"}),
    "facts/row_facts": ({"counts": "(SELECT 'a' AS name, 1 AS rows)"}, {"facts"}),
    "facts/server_facts": ({}, {"facts"}),
    "facts/spock_facts": ({}, {"facts"}),
    "facts/stream_facts": ({"sets": []}, {"facts"}),
    "facts/structure_facts": ({"objects": json.dumps([TRAP])}, {"facts"}),
    "facts/table_facts": ({}, {"facts"}),
    "facts/trace_facts": ({"subscriptions": [TRAP]}, {"traces"}),
    "facts/try_lock": ({}, {"ok", "pid", "name", "holder"}),
    "node/clear_names": ({"slots": [TRAP], "origins": [TRAP]}, set()),
    "node/drop_empty_schema": ({}, set()),
    "node/drop_roles": ({"node": TRAP, "brought": [TRAP], "before": "[]"}, set()),
    "node/emit_sync_event": ({}, {"lsn", "at"}),
    "node/note_time": ({}, {"at"}),
    "node/forget_node": ({"target": TRAP}, {"dropped", "ended"}),
    "node/is_unpublished": ({}, {"ok"}),
    "node/prove_gone": ({"target": TRAP, "origins": [TRAP], "slots": [TRAP]}, set()),
    "node/unpublish": ({}, {"removed"}),
    "stream/disable_streams": ({}, {"disabled"}),
    "stream/stop_stream": ({"provider": TRAP}, {"disabled"}),
    "stream/drop_origin": ({"origin": TRAP}, {"dropped"}),
    "stream/drop_slot": ({"slot": TRAP}, set()),
    "stream/drop_subscription": ({"subscription": TRAP}, {"dropped"}),
    "stream/enable_streams": ({"subscriptions": [TRAP]}, {"enabled"}),
    "stream/is_direct": ({"slot": TRAP, "subscription": TRAP}, {"ok"}),
    "stream/slot_exists": ({"slot": TRAP}, {"ok"}),
    "stream/subscription_exists": ({"subscription": TRAP}, {"ok"}),
    "stream/wait_applied": (
        {"lsn": "0/1", "provider": TRAP},
        {"ok", "progress", "alive", "trouble", "blockers", "measure"},
    ),
    "stream/wait_beside": (
        {"soak": "1 s", "since": "2026-01-01 00:00:00+00", "subscriptions": [TRAP]},
        {"ok", "progress", "trouble", "alive", "blockers"},
    ),
    "stream/wait_drained": (
        {"lsn": "0/1", "provider": TRAP, "streams": [TRAP]},
        {"ok", "progress", "alive", "trouble", "blockers", "measure"},
    ),
    "stream/wait_quiet": ({"node": TRAP, "quiet": "1 s", "origin": TRAP}, {"ok", "blockers"}),
    "stream/wait_in_use": ({"slots": [TRAP]}, {"ok", "progress", "trouble"}),
    "stream/wait_replicating": ({"subscriptions": [TRAP]}, {"ok", "progress", "trouble"}),
    "stream/wait_settled": ({"xid": "1"}, {"ok", "progress"}),
    "stream/wait_slot_free": ({"slot": TRAP}, {"ok"}),
    "stream/wait_still": ({"peers": [TRAP]}, set()),
    "stream/wait_stopped": ({"provider": TRAP}, {"ok", "progress", "trouble"}),
    "stream/wait_unbusy": ({}, {"ok", "progress"}),
    "stream/wait_worker_gone": ({"subscription": TRAP}, {"ok", "progress"}),
}
#: Those that have a test of their own, below or in the file of their folder.
TESTED_APART = {
    *("copy/begin_stream", "remote/open_lane", "remote/copy_unit", "remote/clear_units", "remote/compare_files"),
    *("copy/watch_head", "copy/send_head", "copy/find_head", "remote/open_analysis", "remote/analyze_tables"),
    *(
        "copy/describe_structure",
        "copy/prove_structure",
        "copy/changed_structure",
        "copy/find_uncopied",
        "copy/prove_copied",
        "copy/list_filled",
        "copy/empty_tables",
    ),
    *("copy/prove_sound", "remote/refresh_view", "node/drop_node", "node/drop_node_row", "node/level_sequences"),
    *("node/mirror_sets", "node/prove_whole", "node/register_node", "remote/copy_roles", "remote/probe"),
    *(
        "remote/try_references",
        "remote/try_structure",
        "remote/try_psql",
        "stream/confirm_positions",
        "stream/create_copy_subscription",
    ),
    *("stream/create_failover_slot", "stream/create_slot", "stream/create_subscription", "stream/drop_slot_of"),
    *("copy/prove_copy_slot", "copy/confirm_clone", "copy/begin_clone_stream"),
    *(
        "verify/describe_tables",
        "verify/hash_range",
        "verify/hash_ranges",
        "verify/list_bounds",
        "verify/list_replicated",
    ),
    *("verify/measure_blocks", "verify/read_applied", "verify/read_rows", "verify/set_reader", "verify/tally_blocks"),
    *("verify/open_repair", "verify/repair_row", "verify/close_repair"),
    *("verify/repair_aside", "verify/read_aside"),
    *("session/find_waits", "session/set_session", "session/set_keeper", "session/keep_snapshot"),
    *(
        "session/outlive_caller",
        "remote/open_level",
        "remote/level_rows",
        "stream/prove_level",
        "node/drop_level_origins",
    ),
    *(
        "stream/advance_slot",
        "stream/prove_slots",
        "stream/read_positions",
        "stream/start_streams",
        "stream/switch_streams",
    ),
}


def test_no_statement_is_left_out() -> None:
    written = {path.removeprefix("statement/").removesuffix(".sql.j2") for path in render.render_statements()}
    assert written == set(HARMLESS) | TESTED_APART
    assert not set(HARMLESS) & TESTED_APART


@pytest.fixture(scope="module")
def node(zodan: Connection, server: Node) -> Iterator[Connection]:
    """Return the database as a Spock node, with a second one beside it that is a node too."""
    name = str(zodan.info.dbname)
    zodan.execute("SELECT spock.node_create(node_name := 'n1', dsn := %s)", [server.dsn(dbname=name)])
    with server.connect(dbname="postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name + "_other")))
    with server.connect(dbname=name + "_other") as other:
        other.execute("CREATE EXTENSION spock CASCADE")
        other.execute("SELECT spock.node_create(node_name := 'n2', dsn := %s)", [server.dsn(dbname=name + "_other")])
    yield zodan
    for (subscription,) in zodan.execute("SELECT sub_name FROM spock.subscription").fetchall():
        zodan.execute("SELECT spock.sub_drop(%s)", [subscription])


@pytest.fixture
def other(node: Connection, server: Node) -> Iterator[tuple[Connection, str]]:
    """Return a connection to the second database, and its connection string."""
    name = f"{node.info.dbname}_other"
    with server.connect(dbname=name) as connection:
        yield connection, server.dsn(dbname=name)


def written(node: Connection, name: str, parameters: dict[str, Any], dsns: dict[str, str] | None = None) -> str:
    """Return a statement as it is sent: written by its function, placeholders bound."""
    named = ", ".join(f"p_{each} => %({each})s" for each in parameters)
    row = node.execute(f"SELECT zodan.{name}({named})", parameters).fetchone()
    assert row is not None
    row = node.execute("SELECT zodan.bind_placeholders(%s, %s, '{}')", [row[0], json.dumps(dsns or {})]).fetchone()
    assert row is not None
    return str(row[0])


def run(at: Connection, statement: str) -> dict[str, Any]:
    """Run a statement as it is, and return its first row, by column; nothing for a block."""
    with psycopg.ClientCursor(at) as cursor:
        cursor.execute(statement.encode())
        if cursor.description is None:
            return {}
        row = cursor.fetchone()
        return dict(zip([column.name for column in cursor.description], row or (), strict=False))


@pytest.mark.parametrize("path", sorted(HARMLESS))
def test_it_runs_and_runs_again(node: Connection, path: str) -> None:
    parameters, columns = HARMLESS[path]
    statement = written(node, path.partition("/")[2], parameters)
    for _ in range(2):
        with psycopg.ClientCursor(node) as cursor:
            cursor.execute(statement.encode())
            found = {column.name for column in cursor.description or ()}
        assert found == columns
    if path == "facts/try_lock":
        node.execute("SELECT pg_advisory_unlock_all()")


def test_what_was_discarded_fails_the_proofs(node: Connection) -> None:
    starts = run(node, written(node, "note_life", {}))["starts"]
    sound = {"since": "0", "origin": None, "starts": starts}
    whole = {"since": "0", "origin": None, "nodes": ["n1", TRAP]}
    run(node, written(node, "prove_sound", sound))
    run(node, written(node, "prove_whole", whole))
    with pytest.raises(psycopg.Error) as raised:
        run(node, written(node, "prove_whole", whole | {"nodes": [TRAP]}))
    assert raised.value.sqlstate == "ZD403"
    node.execute(
        "INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,"
        " remote_xid, table_schema, table_name, operation, error_message)"
        " SELECT node_id, now(), 1, clock_timestamp(), 1, 'public', 't', 'INSERT', 'why'"
        " FROM spock.node WHERE node_name = 'n1'"
    )
    for name, given, code in (("prove_sound", sound, "ZD304"), ("prove_whole", whole, "ZD402")):
        with pytest.raises(psycopg.Error, match=r"INSERT on public\.t") as raised:
            run(node, written(node, name, given))
        assert raised.value.sqlstate == code
        run(node, written(node, name, given | {"origin": TRAP}))
        run(node, written(node, name, given | {"since": "9e9"}))
    node.execute("DELETE FROM spock.exception_log")


def test_a_view_is_filled_whatever_it_is_called(node: Connection) -> None:
    node.execute(f'CREATE MATERIALIZED VIEW "{TRAP.replace(chr(34), chr(34) * 2)}" AS SELECT 1 AS a WITH NO DATA')
    ((name,),) = node.execute("SELECT quote_ident(%s)", [TRAP]).fetchall()
    assert run(node, written(node, "view_is_filled", {"view": f"public.{name}"})) == {"ok": False}
    for _ in range(2):
        run(node, written(node, "refresh_view", {"schema": "public", "view": TRAP, "key": "zodan.refused"}))
    assert run(node, written(node, "view_is_filled", {"view": f"public.{name}"})) == {"ok": True}
    node.execute(f"DROP MATERIALIZED VIEW {name}")


def test_roles_are_brought_from_server_to_server(node: Connection, server: Node) -> None:
    # Source and new node are one server here: all are there already, and a role that came is dropped again.
    node.execute(f'CREATE ROLE "{TRAP.replace(chr(34), chr(34) * 2)}"')
    dsn = server.dsn(dbname=str(node.info.dbname))
    for _ in range(2):
        run(node, written(node, "copy_roles", {"source": "n1"}, {"n1": dsn}))
    kept = {"node": "n1", "brought": [TRAP], "before": json.dumps([TRAP])}
    run(node, written(node, "drop_roles", kept))
    assert node.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [TRAP]).fetchone() == (1,)
    for _ in range(2):
        run(node, written(node, "drop_roles", kept | {"before": "[]"}))
    assert node.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [TRAP]).fetchone() is None


def tried(node: Connection, name: str, parameters: dict[str, Any], dsns: dict[str, str] | None = None) -> Any:
    """Return what a statement found that rolls back by an error of its own."""
    with pytest.raises(psycopg.Error) as raised:
        run(node, written(node, name, parameters, dsns))
    assert raised.value.sqlstate == "ZD000"
    return json.loads(raised.value.diag.message_detail or "")


def test_a_probe_tells_who_is_reached(node: Connection, other: tuple[Connection, str]) -> None:
    who = run(other[0], written(node, "server_facts", {}))["facts"]["who"]
    targets = "jsonb_build_object('n2', jsonb_build_object('dsn', {dsn:n2}, 'who', '%s'), 'n3', jsonb_build_object("
    targets = (targets % who) + "'dsn', {dsn:n3}, 'who', NULL))"
    found = tried(node, "probe", {"targets": targets}, {"n2": other[1], "n3": "host=127.0.0.1 port=1 dbname=x"})
    assert found["n2"] == {"connection": None, "identity": None, "replication": None}
    assert "onnection" in found["n3"]["connection"]
    lied = targets.replace(who, "somebody else")
    assert "another one" in tried(node, "probe", {"targets": lied}, {"n2": other[1], "n3": DSN})["n2"]["identity"]


def test_what_a_copy_would_do_is_tried_and_rolled_back(node: Connection) -> None:
    extensions = {"dblink": {"schema": "public", "made": False}, "no such $do$ one": {"schema": "x y", "made": True}}
    found = tried(node, "try_structure", {"extensions": json.dumps(extensions)})
    assert (found["objects"], list(found["extensions"])) == (None, ["no such $do$ one"])
    assert node.execute("SELECT to_regnamespace('zodan_trial'), to_regnamespace('\"x y\"')").fetchone() == (None, None)


def test_references_without_a_row_are_found(node: Connection) -> None:
    node.execute('CREATE TABLE "the ref" (id int PRIMARY KEY); CREATE TABLE fact (id int, r int)')
    node.execute("INSERT INTO fact VALUES (1, 7)")
    key = {"name": TRAP, "table": "public.fact", "refers": 'public."the ref"', "given": "f.r IS NOT NULL"}
    key |= {"meets": "r.id = f.r", "rows": 1}
    filters: dict[str, str | None] = {"public.fact": None, 'public."the ref"': None}
    given = {"filters": json.dumps(filters), "references": json.dumps([key]), "unvalidated": "[]"}
    assert tried(node, "try_references", given)["broken"] == [f'{TRAP} on public.fact, to public."the ref"']
    node.execute('INSERT INTO "the ref" VALUES (7)')
    found = tried(node, "try_references", given)
    assert found == {"broken": [], "unread": [], "violated": [], "unchecked": [], "extension_rows": {}}
    node.execute('DROP TABLE fact, "the ref"')


def test_rows_in_tables_of_extensions_are_compared(node: Connection) -> None:
    tables = ("alike", "other", '"it\'s"', "vast")
    for table in tables:
        node.execute(f"CREATE TABLE {table} (id int, word text); ALTER EXTENSION dblink ADD TABLE {table}".encode())
    most = render.read_default("extension_rows", int)
    node.execute("INSERT INTO alike VALUES (1, 'a'), (2, NULL); INSERT INTO other VALUES (2, NULL), (1, 'a')")
    node.execute("INSERT INTO vast SELECT i FROM generate_series(0, %s) AS i", [most])
    found = tried(node, "try_references", {"filters": "{}", "references": "[]", "unvalidated": "[]"})["extension_rows"]
    assert tried(node, "try_structure", {"extensions": "{}"})["extension_rows"] == found
    assert found["public.alike"] == found["public.other"] != "0"
    assert (found['public."it\'s"'], found["public.vast"]) == ("0", None)
    node.execute("UPDATE other SET word = 'b' WHERE id = 2; DELETE FROM vast WHERE id = 0")
    found = tried(node, "try_structure", {"extensions": "{}"})["extension_rows"]
    assert found["public.alike"] != found["public.other"]
    assert found["public.vast"].startswith(f"{most} ")
    for table in tables:
        node.execute(f"ALTER EXTENSION dblink DROP TABLE {table}; DROP TABLE {table}".encode())


def test_a_session_prints_and_waits_as_every_other_one(node: Connection, server: Node) -> None:
    with server.connect(dbname=str(node.info.dbname)) as session:
        session.execute("SET DateStyle = 'SQL, DMY'; SET statement_timeout = '1min'; SET search_path = public")
        run(session, written(node, "set_session", {}))
        for name, value in (
            ("DateStyle", "ISO, YMD"),
            ("statement_timeout", "0"),
            ("search_path", "pg_catalog"),
            ("deadlock_timeout", "100ms"),
        ):
            assert session.execute("SELECT current_setting(%s)", [name]).fetchone() == (value,)


def test_a_session_keeps_a_snapshot_and_another_takes_it_over(node: Connection, server: Node) -> None:
    name, subscription = str(node.info.dbname), "zodan_copy_1234abcd"
    begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'"

    def keep(session: Connection, snapshot: str, lsn: str, kept: str) -> dict[str, Any]:
        run(session, written(node, "set_keeper", {}))
        session.execute(begin.format(snapshot).encode())
        parameters = {"subscription": subscription, "lsn": lsn, "kept": kept}
        return run(session, written(node, "keep_snapshot", parameters))

    first, second, other = (server.connect(dbname=name) for _ in range(3))
    with closing(first), closing(second), closing(other):
        with node.transaction():
            node.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            (exported,) = node.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
            kept = str(keep(first, exported, "0/1A", "")["snapshot"])
        assert kept != exported
        locks = node.execute("SELECT locktype FROM pg_locks WHERE pid = %s", [first.info.backend_pid]).fetchall()
        assert {kind for (kind,) in locks} == {"virtualxid"}
        assert keep(second, kept, "0/1A", kept)["name"].startswith("zodan snapshot 1234abcd ")
        # What it says of itself is not what is asked for.
        assert not keep(other, kept, "0/1B", kept)
        other.execute("ROLLBACK")
        assert run(node, written(node, "end_snapshots", {"subscription": "zodan_copy_1234abce"})) == {"ended": 0}
        assert run(node, written(node, "end_snapshots", {"subscription": subscription})) == {"ended": 2}
        wait_until(lambda: _is_gone(node, kept), 30, "the sessions to end")


def _is_gone(node: Connection, snapshot: str) -> str:
    try:
        with node.transaction():
            node.execute(
                f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'".encode()
            )
    except psycopg.Error:
        return ""
    return "the snapshot is there"


def test_a_session_that_keeps_a_snapshot_ends_after_its_caller(node: Connection, server: Node) -> None:
    name = str(node.info.dbname)
    waits = written(node, "outlive_caller", {"caller": "%s $do$"})
    seconds = read_default("keep_seconds", int)
    short = waits.replace(f"'{seconds} s'", "'1 s'")
    assert short != waits
    with server.connect(dbname=name) as keeper, server.connect(dbname=name) as caller:
        caller.execute("SELECT set_config('application_name', %s, false)", ["zodan add by %s $do$"])
        runs = threading.Thread(target=run, args=(keeper, short))
        runs.start()
        runs.join(3)
        assert runs.is_alive()
        caller.close()
        runs.join(30)
        assert not runs.is_alive()


def test_what_a_statement_waits_for_is_named(node: Connection, server: Node) -> None:
    node.execute("CREATE TABLE held (id int)")
    name = str(node.info.dbname)
    with server.connect(dbname=name) as holder, server.connect(dbname=name) as waiter:
        waiter.execute("SELECT set_config('application_name', %s, false)", ["it's %s $do$"])
        asked = written(node, "find_waits", {"caller": "%s $do$"})
        with holder.transaction():
            holder.execute("LOCK TABLE held")
            waits = threading.Thread(target=waiter.execute, args=("SELECT * FROM held",))
            waits.start()
            wait_until(lambda: "" if run(node, asked).get("found") else "not yet", 30, "the lock to be waited for")
            assert f"process {holder.info.backend_pid} " in run(node, asked)["found"]
        waits.join()
    node.execute("DROP TABLE held")
