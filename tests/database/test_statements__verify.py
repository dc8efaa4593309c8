"""The statements that compare rows, each alone: equal rows have equal hashes whatever the session, others have not."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.statements import ODD, forgotten, run, value
from zodan_sql.sandbox import Node

_ODD = sql.Identifier(ODD).as_string()
_SETTINGS = {
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-10",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "quote_all_identifiers": "on",
    "search_path": "public",
    "lc_monetary": "C.UTF-8",
}
_VALUES = {
    "float8": ["0", "-0", "NaN", "Infinity", "0.1", "0.30000000000000004", None],
    "numeric": ["1.0", "1.00", "1", "NaN", None],
    "text": ["", " ", "x", "x ", "|", "NULL", None],
    "char(4)": ["x", "y", None],
    "bytea": ["\\x", "\\x00", "\\x5c", None],
    "timestamptz": ["2020-01-01 00:00+00", "infinity", "0001-01-01 BC", None],
    "interval": ["1 mon", "30 days", None],
    "text[]": ["{}", "{NULL}", '{"NULL"}', '{"a,b"}', "{a,b}", None],
    "jsonb": ["{}", '{"a": 1}', '{"a": 1.0}', "null", None],
    "boolean": ["true", "false", None],
    "regclass": ["pg_class", "pg_proc", None],
}


def test_every_statement_is_run_here() -> None:
    assert forgotten("verify", __file__) == set()


def describe(zodan: psycopg.Connection[Any], on: psycopg.Connection[Any], table: str) -> dict[str, Any]:
    tables: dict[str, Any] = run(zodan, "describe_tables", on=on, tables=[table])["tables"]
    return tables[table]


def digest(zodan: psycopg.Connection[Any], columns: list[dict[str, Any]], exact: bool = False) -> str:
    return str(value(zodan, "SELECT zodan.write_digest(%s, %s)", json.dumps(columns), exact))


@pytest.mark.parametrize("exact", [False, True])
def test_a_hash_is_that_of_the_row_and_of_nothing_else(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], exact: bool
) -> None:
    for kind, values in _VALUES.items():
        hashes = []
        for number, (settings, columns) in enumerate([({}, "a {}, b int"), (_SETTINGS, "gone int, b int, a {}")]):
            database.execute(f"CREATE TABLE public.t{number} ({columns.format(kind)})".encode())
            database.execute(f"ALTER TABLE public.t{number} DROP COLUMN IF EXISTS gone".encode())
            rows = sql.SQL("INSERT INTO public.{} (a, b) VALUES (%s, 1)").format(sql.Identifier(f"t{number}"))
            for each in values:
                database.execute(rows, [each])
            for name, text in settings.items():
                database.execute("SELECT set_config(%s, %s, false)", [name, text])
            database.execute(value(zodan, "SELECT zodan.set_session()").encode())
            facts = describe(zodan, database, f"public.t{number}")
            assert {one["name"] for one in facts["columns"]} == {"a", "b"}
            expression = digest(zodan, sorted(facts["columns"], key=lambda one: one["name"]), exact)
            found = database.execute(
                f"SELECT {expression} FROM public.t{number} AS t ORDER BY ctid".encode()
            ).fetchall()
            hashes.append([row[0] for row in found])
            database.execute("RESET ALL")
        assert hashes[0] == hashes[1], kind
        assert len(set(hashes[0])) == len(values), kind
        database.execute("DROP TABLE public.t0, public.t1")


def test_columns_do_not_run_into_one_another(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> None:
    rows = [("x|", "y"), ("x", "|y"), ("x|y", None), (None, "x|y"), ("", "x|y"), ("x|y", "")]
    database.execute("CREATE TABLE public.two (a text, b text)")
    for row in rows:
        database.execute("INSERT INTO public.two VALUES (%s, %s)", row)
    expression = digest(zodan, [{"name": "a", "plain": False}, {"name": "b", "plain": False}])
    (count,) = database.execute(f"SELECT count(DISTINCT {expression}) FROM public.two AS t".encode()).fetchall()[0]
    assert count == len(rows)


def test_a_table_of_many_columns_and_of_none(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> None:
    columns = [{"name": f"c{number}", "plain": number % 2 == 0} for number in range(1500)]
    database.execute(f"CREATE TABLE public.wide ({', '.join(one['name'] + ' int' for one in columns)})".encode())  # type: ignore[operator]
    database.execute("INSERT INTO public.wide (c1499) VALUES (1), (2)")
    (count,) = database.execute(
        f"SELECT count(DISTINCT {digest(zodan, columns)}) FROM public.wide AS t".encode()
    ).fetchall()[0]
    assert count == 2
    assert value(database, f"SELECT {digest(zodan, [])}") == value(database, "SELECT hashtextextended('', 0)")


@pytest.fixture
def table(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> dict[str, Any]:
    """Make a table of odd names with a key of two columns and a hundred rows; return what a comparison needs of it."""
    database.execute(f"CREATE SCHEMA {_ODD}".encode())
    database.execute(f"CREATE TABLE {_ODD}.{_ODD} ({_ODD} text, n int, v text, PRIMARY KEY ({_ODD}, n))".encode())
    database.execute(
        f"INSERT INTO {_ODD}.{_ODD} SELECT 'k' || i % 3, i, 'v' FROM generate_series(1, 100) AS i".encode()
    )
    database.execute("SELECT set_config('search_path', 'pg_catalog', false)")
    facts = describe(zodan, database, f"{_ODD}.{_ODD}")
    assert facts["readable"]
    assert [one["name"] for one in facts["key"]] == [ODD, "n"]
    return {
        "digest": digest(zodan, facts["columns"]),
        "source": value(zodan, "SELECT zodan.write_source(%s)", json.dumps(facts)),
        "key": value(zodan, "SELECT zodan.write_key(%s)", json.dumps(facts["key"])),
        "shown": value(zodan, "SELECT zodan.write_shown(%s)", json.dumps(facts["columns"])),
        "size": value(zodan, "SELECT zodan.write_size(%s)", json.dumps(facts["columns"])),
        "facts": facts,
    }


def test_ranges_hold_every_row_once(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], table: dict[str, Any]
) -> None:
    columns = ", ".join(f"t.{value(zodan, 'SELECT zodan.quote_name(%s)', name)}" for name in (ODD, "n"))
    common = {"source": table["source"], "on": database}
    found = run(
        zodan, "list_bounds", key=table["key"], step="30", columns=columns, condition="true", most="1000", **common
    )
    assert (len(found["bounds"]), found["seen"]) == (3, 100)
    ends = [None, *found["bounds"], None]
    pieces = []
    for place, (lower, upper) in enumerate(pairwise(ends)):
        condition = value(
            zodan, "SELECT zodan.write_range(%s, %s, %s)", *map(json.dumps, (table["facts"]["key"], lower, upper))
        )
        part = {"place": str(place), "digest": table["digest"], "condition": condition, "most": "1000"}
        alone = run(zodan, "hash_range", **part, **common)
        assert alone["rows"] == (30 if place < 3 else 10)
        pieces.append((part, alone))
    listed = " UNION ALL ".join(
        value(
            zodan,
            "SELECT zodan.hash_range(p_place => %s, p_digest => %s, p_source => %s, p_condition => %s, p_most => %s)",
            *(part["place"], part["digest"], table["source"], part["condition"], part["most"]),
        )
        for part, _ in pieces
    )
    together = run(zodan, "hash_ranges", on=database, pieces=listed)
    assert together["sums"] == [[alone["rows"], str(alone["total"])] for _, alone in pieces]
    capped = run(zodan, "hash_range", place="1", digest=table["digest"], condition="true", most="7", **common)
    assert capped["rows"] == 7


def test_rows_are_read_by_their_keys(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], table: dict[str, Any]
) -> None:
    keys = [["k1", "100"], ["k2", "50"], ["k0", "50"], [ODD, "1"]]
    condition = value(zodan, "SELECT zodan.write_keys(%s, %s)", *map(json.dumps, (table["facts"]["key"], keys)))
    given = {name: table[name] for name in ("key", "digest", "shown", "size", "source")}
    given |= {"condition": condition, "most": "9"}
    before = run(zodan, "read_rows", on=database, **given)["rows"]
    assert sorted(row["key"] for row in before) == [["k1", "100"], ["k2", "50"]]
    assert before[0]["shown"]["v"] == "v"
    texts = [list(row["shown"].values()) for row in before]
    assert [row["bytes"] for row in before] == [sum(len(text.encode()) for text in row if text) for row in texts]
    assert before == run(zodan, "read_rows", on=database, **given)["rows"]
    database.execute(f"UPDATE {_ODD}.{_ODD} SET v = v".encode())
    after = run(zodan, "read_rows", on=database, **given)["rows"]
    assert {row["hash"] for row in after} == {row["hash"] for row in before}
    assert {row["version"] for row in after}.isdisjoint(row["version"] for row in before)


def test_blocks_are_tallied_in_parts(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], table: dict[str, Any]
) -> None:
    facts = {"schema": ODD, "table": ODD}
    assert run(zodan, "measure_blocks", on=database, **facts)["blocks"] >= 1
    given = {"digest": table["digest"], "source": table["source"], "mask": "7"}
    parts = run(zodan, "tally_blocks", on=database, condition="true", **given)["parts"]
    assert set(parts) <= {str(part) for part in range(8)}
    assert sum(part[0] for part in parts.values()) == 100
    nowhere = run(zodan, "tally_blocks", on=database, condition="t.ctid >= '(99,0)'", **given)["parts"]
    assert nowhere == {}


def test_a_table_that_was_altered_or_made_again_has_another_print(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    made = "CREATE TABLE public.printed (k int PRIMARY KEY, v text)"
    changes = [
        made,
        "ALTER TABLE public.printed ALTER v TYPE varchar(5)",
        "ALTER TABLE public.printed ALTER v TYPE varchar(6)",
        "ALTER TABLE public.printed RENAME v TO w",
        "ALTER TABLE public.printed DROP w, ADD w varchar(6)",
        f"DROP TABLE public.printed; {made}",
        f"DROP TABLE public.printed; {made}",
    ]
    prints = []
    for change in changes:
        database.execute(change.encode())
        prints.append(describe(zodan, database, "public.printed")["print"])
        database.execute("INSERT INTO public.printed (k) VALUES (1)")
        database.execute("ANALYZE public.printed")
        assert describe(zodan, database, "public.printed")["print"] == prints[-1]
        database.execute("DELETE FROM public.printed")
    assert len(set(prints)) == len(changes)


def test_columns_that_only_an_insert_writes(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> None:
    database.execute(
        f"CREATE TABLE public.fixed (k int PRIMARY KEY, gone int, {_ODD} int GENERATED ALWAYS AS IDENTITY,"
        " d bigint GENERATED BY DEFAULT AS IDENTITY, g int GENERATED ALWAYS AS (k) STORED, v text)".encode()
    )
    database.execute("ALTER TABLE public.fixed DROP gone")
    facts = describe(zodan, database, "public.fixed")
    assert (facts["fixed"], facts["generated"], facts["inserted"]) == ([ODD], ["g"], ["k", ODD, "d", "v"])
    database.execute("CREATE TABLE public.free (k int PRIMARY KEY)")
    facts = describe(zodan, database, "public.free")
    assert (facts["fixed"], facts["inserted"]) == ([], None)


def test_a_reader_changes_nothing_and_hides_nothing(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], table: dict[str, Any]
) -> None:
    run(zodan, "set_reader", on=database)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        database.execute(f"DELETE FROM {_ODD}.{_ODD}".encode())
    assert value(database, "SHOW row_security") == "off"


def test_what_a_database_without_streams_publishes(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    found = run(zodan, "list_replicated", on=database, sets=["default", ODD])
    assert (found["tables"], found["encoding"]) == ({}, "UTF8")
    # The server, its timeline, and the database.
    system, timeline, oid = found["identity"].split(":")
    assert (system.isdigit(), timeline, oid.isdigit()) == (True, "00000001", True)
    assert found["machine"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert run(zodan, "read_applied", on=database)["streams"] == {}


@pytest.fixture
def member(database: psycopg.Connection[Any], server: Node) -> psycopg.Connection[Any]:
    """Return the database as a Spock node with a table and a row."""
    database.execute(
        "SELECT spock.node_create(node_name := 'n1', dsn := %s)", [server.dsn(dbname=database.info.dbname)]
    )
    database.execute("CREATE TABLE public.mended (k int PRIMARY KEY, v text)")
    database.execute("INSERT INTO public.mended VALUES (1, 'old')")
    return database


#: A repair of one row on n1, apart from the statement.
_ALONE: dict[str, Any] = {
    **{"node": "n1", "origin": "n1", "committed": None, "check": "true", "rows": "1", "place": "1", "row": ODD},
    **dict.fromkeys(("source", "sets", "same")),
}


def test_a_row_is_repaired_once_and_looks_as_it_does_elsewhere(
    zodan: psycopg.Connection[Any], member: psycopg.Connection[Any]
) -> None:
    given = _ALONE | {"committed": "2020-02-03 04:05:06+00"}
    write = f"UPDATE ONLY public.mended AS t SET v = {value(zodan, 'SELECT zodan.quote_text(%s)', ODD)} WHERE v = 'old'"
    for _ in range(2):
        run(zodan, "open_repair", on=member, node="n1", origins=["n1", ODD])
    run(zodan, "repair_row", on=member, **given, write=write)
    for check in ("true", "false"):
        with pytest.raises(psycopg.Error) as raised:
            run(zodan, "repair_row", on=member, **given | {"check": check}, write=write)
        assert raised.value.sqlstate == "ZD206"
    for _ in range(2):
        run(zodan, "close_repair", on=member)
    assert value(member, "SELECT v FROM public.mended") == ODD
    at = "SELECT extract(year FROM pg_catalog.pg_xact_commit_timestamp(t.xmin)) FROM public.mended AS t"
    assert value(member, at) == 2020
    assert value(member, "SELECT count(*) FROM pg_replication_origin WHERE roname LIKE 'zodan repair%'") == 0


def test_a_row_that_is_put_aside_is_written_when_another_has_given_up_its_value(
    zodan: psycopg.Connection[Any], member: psycopg.Connection[Any]
) -> None:
    member.execute("ALTER TABLE public.mended ADD UNIQUE (v)")
    member.execute("INSERT INTO public.mended VALUES (2, 'new'), (3, 'third')")
    run(zodan, "open_repair", on=member, node="n1", origins=["n1"])
    wanted = {"1": "new", "2": "third", "3": "old"}
    for key, wish in wanted.items():
        given = {"place": key, "source": "ONLY public.mended", "sets": f"v = '{wish}'", "same": f"t.k = {key}"}
        run(zodan, "repair_row", on=member, **_ALONE | given, write=None)
    assert {each["place"] for each in run(zodan, "read_aside", on=member)["aside"]} == {1, 2, 3}
    for _ in range(2):
        run(zodan, "repair_aside", on=member)
    assert run(zodan, "read_aside", on=member)["aside"] == []
    rows = member.execute("SELECT k::text, v FROM public.mended").fetchall()
    assert dict(rows) == wanted


def test_rows_of_another_node_are_not_repaired(zodan: psycopg.Connection[Any], member: psycopg.Connection[Any]) -> None:
    for name, given in (
        ("open_repair", {"origins": ["n1"]}),
        (
            "repair_row",
            {name: each for name, each in _ALONE.items() if name != "node"} | {"write": "DELETE FROM mended"},
        ),
    ):
        with pytest.raises(psycopg.Error) as raised:
            run(zodan, name, on=member, node=ODD, **given)
        assert raised.value.sqlstate == "ZD003"
    assert value(member, "SELECT v FROM public.mended") == "old"


def test_a_leaf_is_published_as_the_nearest_table_above_it_is(
    zodan: psycopg.Connection[Any], member: psycopg.Connection[Any]
) -> None:
    member.execute("CREATE TABLE public.top (k int PRIMARY KEY, v text) PARTITION BY RANGE (k)")
    member.execute(
        "CREATE TABLE public.middle PARTITION OF public.top FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (k)"
    )
    member.execute("CREATE TABLE public.low PARTITION OF public.middle FOR VALUES FROM (0) TO (50)")
    member.execute("CREATE TABLE public.other PARTITION OF public.top FOR VALUES FROM (100) TO (200)")
    # The stand-in's view shows no column list of a partitioned table that was added by its function.
    kept = value(
        member,
        "SELECT coalesce(to_regclass('pglogical.replication_set_table')::text, 'spock.replication_set_table')",
    )
    # The order in which they are added does not matter.
    for tables in (("top", "middle"), ("middle", "top")):
        for table in tables:
            member.execute(
                f"INSERT INTO {kept} (set_id, set_reloid, set_att_list) SELECT r.set_id, %s::regclass, %s::text[]"
                " FROM spock.replication_set AS r WHERE r.set_name = 'default'".encode(),
                [f"public.{table}", ["k"] if table == "middle" else None],
            )
        found = run(zodan, "list_replicated", on=member, sets=["default"])["tables"]
        assert {name: each["columns"] for name, each in found.items()} == {"public.low": ["k"], "public.other": None}
        assert set(found["public.low"]["above"]) == {"public.top", "public.middle"}
        assert found["public.other"]["above"] == ["public.top"]
        member.execute(f"DELETE FROM {kept}".encode())
