"""The extension: installed by make, created, dumped and restored, upgraded, dropped."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.scripts import psql
from zodan_sql.building import lint, render
from zodan_sql.client.install import install
from zodan_sql.sandbox import Engine, Node, wait_until

_REPOSITORY = Path(__file__).resolve().parents[2]
_EARLIER = "0.0.9"
_numbers = itertools.count(1)

#: Everything about the extension's members that a user could notice.
_MEMBERS = """
SELECT i.type, i.identity, coalesce(obj_description(d.objid, d.classid::regclass::name), ''),
       CASE WHEN p.oid IS NOT NULL THEN concat(pg_get_functiondef(p.oid), p.proacl) END,
       (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull), ', '
                          ORDER BY a.attnum)
          FROM pg_attribute AS a
         WHERE a.attrelid = coalesce(t.typrelid, CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END)
           AND a.attnum > 0)
  FROM pg_depend AS d
  JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'zodan'
  LEFT JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
  LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
 CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS i
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
"""
_CONFIG = "SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'zodan' ORDER BY 1"
_CHECKS = (
    "SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c"
    " JOIN pg_class r ON r.oid = c.conrelid WHERE r.relnamespace = 'zodan'::regnamespace AND c.contype = 'c'"
)
_SCHEMA_COMMENT = "SELECT obj_description('zodan'::regnamespace, 'pg_namespace')"
_ALL = """
SELECT 'routine ' || oid::regprocedure FROM pg_proc
UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_toast'
UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
"""
_JOURNAL = """
SELECT o.operation_id, o.kind, o.node, o.state, o.checks::text, count(s.*),
       (SELECT string_agg(p.measure::text, ' ') FROM zodan.sample AS p WHERE p.operation_id = o.operation_id)
  FROM zodan.operation AS o LEFT JOIN zodan.step AS s USING (operation_id) GROUP BY o.operation_id
"""
_ROUTINES = """
SELECT oid::regprocedure::text, md5(prosrc) FROM pg_proc
 WHERE pronamespace = 'zodan'::regnamespace OR proname IN ('add_node', 'remove_node', 'health_check')
"""
_NUMBER = """
INSERT INTO zodan.operation (kind, node, arguments, members) VALUES ('mend', 'x', '{}', '{}') RETURNING operation_id
"""

#: What that gives of an operation with a step, checks and a sample.
_KEPT = (1, "mend", "n1", "running", "[1]", 1, "7")

Make = Callable[..., psycopg.Connection[Any]]


def _control_path(server: Node) -> str:
    return str(server.execute("SELECT current_setting('extension_control_path')")[0][0])


@pytest.fixture(scope="module")
def extension_folder(server: Node, engine: Engine) -> Path:
    """Return the folder where the test server finds extensions, filled by make install."""
    base = server.folder.parent / "engine"
    if engine.is_real and engine.server_version < 18:
        pytest.skip("before PostgreSQL 18 a server has one folder of extensions, and this one is not ours to fill")
    share = base / "share" if engine.server_version >= 18 else base / engine.share_dir.relative_to("/")
    if engine.is_real:
        # The stand-in's server looks there already.
        base.mkdir()
        server.execute(sql.SQL("ALTER SYSTEM SET extension_control_path = {}").format(f"{share}:$system").as_string())
        server.execute("SELECT pg_reload_conf()")
        wait_until(lambda: "" if str(share) in _control_path(server) else "not yet", 10, "the setting")
    pg_config = base / "pg_config"
    pg_config.write_text(f'#!/bin/sh\ntest "$1" = --sharedir && echo {share}\n')
    pg_config.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", "install", f"PG_CONFIG={pg_config}"],
        cwd=_REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CREATE EXTENSION zodan CASCADE" in done.stdout
    return share / "extension"


@pytest.fixture
def make_database(server: Node, extension_folder: Path) -> Iterator[Make]:
    """Return a function that makes an empty database and runs statements in it."""
    connections = []

    def make(*statements: str) -> psycopg.Connection[Any]:
        name = f"extension_{next(_numbers)}"
        with server.connect(dbname="postgres") as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection = server.connect(dbname=name)
        connections.append(connection)
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type, unused-ignore]
        return connection

    yield make
    for connection in connections:
        connection.close()


def rows(connection: psycopg.Connection[Any], query: str) -> set[tuple[Any, ...]]:
    return set(connection.execute(query).fetchall())  # type: ignore[arg-type, unused-ignore]


def note_operation(connection: psycopg.Connection[Any]) -> None:
    connection.execute("INSERT INTO zodan.operation (kind, node, arguments, members) VALUES ('mend', 'n1', '{}', '{}')")
    connection.execute("INSERT INTO zodan.step (operation_id, phase, ordinal, node, title) VALUES (1, 1, 1, 'n1', 'x')")


def note_measures(connection: psycopg.Connection[Any]) -> None:
    connection.execute("UPDATE zodan.operation SET checks = '[1]'")
    connection.execute("INSERT INTO zodan.sample (operation_id, ordinal, measure) VALUES (1, 1, '7')")


def test_cascade_brings_what_it_needs_and_drop_leaves_nothing(make_database: Make) -> None:
    with make_database("CREATE EXTENSION spock CASCADE", "CREATE EXTENSION dblink") as connection:
        before = rows(connection, _ALL)
        connection.execute("CREATE EXTENSION zodan")
        assert (
            "routine spock.add_node(text,text,text,text,boolean,text,text,jsonb,boolean,boolean,integer,text,bigint,"
            "interval,text,boolean)",
        ) in rows(connection, _ALL) - before
        connection.execute("DROP EXTENSION zodan")
        assert rows(connection, _ALL) == before
    with make_database("CREATE EXTENSION zodan CASCADE") as connection:
        assert {("dblink",), ("spock",), ("zodan",)} <= rows(connection, "SELECT extname FROM pg_extension")


def test_scripts_and_extension_refuse_each_other(engine: Engine, server: Node, make_database: Make) -> None:
    with make_database("CREATE EXTENSION zodan CASCADE") as connection:
        dsn = server.dsn(dbname=connection.info.dbname)
        done = psql(engine, dsn, "-f", str(render.find_build() / "zodan.sql"))
        assert done.returncode != 0
        assert "HINT:  Use ALTER EXTENSION zodan UPDATE, or DROP EXTENSION zodan first." in done.stderr
    with make_database("CREATE EXTENSION spock CASCADE") as connection:
        (result,) = install([server.dsn(dbname=connection.info.dbname)])
        assert result.error is None
        with pytest.raises(psycopg.Error, match="loaded from its scripts") as caught:
            connection.execute("CREATE EXTENSION zodan")
        assert caught.value.sqlstate == "ZD103"


@pytest.mark.parametrize("form", ["extension", "scripts"])
def test_a_dump_restores_with_the_journal(engine: Engine, server: Node, make_database: Make, form: str) -> None:
    with make_database("CREATE EXTENSION spock CASCADE", "CREATE EXTENSION dblink") as connection:
        dsn = server.dsn(dbname=connection.info.dbname)
        if form == "extension":
            connection.execute("CREATE EXTENSION zodan")
        else:
            (result,) = install([dsn])
            assert result.error is None
        note_operation(connection)
        note_measures(connection)
        dump = subprocess.run(
            [engine.pg_bin / "pg_dump", "-d", dsn], check=True, capture_output=True, text=True, env=os.environ
        ).stdout
        with make_database() as restored:
            done = psql(engine, server.dsn(dbname=restored.info.dbname), "-q", script=dump)
            assert done.returncode == 0, done.stderr
            assert rows(restored, _JOURNAL) == rows(connection, _JOURNAL) == {_KEPT}
            assert rows(restored, _ROUTINES) == rows(connection, _ROUTINES)
            # Numbers go on where they were.
            assert rows(restored, _NUMBER) == {(2,)}


def test_an_upgraded_extension_is_what_a_fresh_one_is(extension_folder: Path, make_database: Make) -> None:
    version = render.read_version(render.find_templates())
    files = render.render(earlier=[_EARLIER])
    upgrade = f"zodan--{_EARLIER}--{version}.sql"
    # An earlier version: a routine that is no more, one that takes and does something else, a type of another shape.
    old = files[f"zodan--{version}.sql"].replace(f"Zodan {version}", f"Zodan {_EARLIER}").replace(version, _EARLIER)
    old = re.sub(r"(CREATE FUNCTION zodan\.format_dsn\()p_\w+", r"\1p_was", old)
    old = re.sub(r"(CREATE TYPE zodan\.check_result AS \(\s*key text, name text, )scope text, ", r"\1", old)
    old = re.sub(r"(CREATE TYPE zodan\.plan_step AS \([^)]*), budget interval", r"\1", old)
    # And a journal without samples and checks.
    old = re.sub(r"(CREATE TABLE|COMMENT ON TABLE|REVOKE ALL ON TABLE) zodan\.sample .*?;\n", "", old, flags=re.DOTALL)
    old = old.replace("SELECT pg_catalog.pg_extension_config_dump('zodan.sample', '');", "")
    old = old.replace(",\n    checks jsonb\n", "\n")
    old += (
        "\nCREATE FUNCTION zodan.gone() RETURNS zodan.check_result LANGUAGE sql AS 'SELECT NULL::zodan.check_result';\n"
    )
    (extension_folder / f"zodan--{_EARLIER}.sql").write_text(old)
    (extension_folder / upgrade).write_text(files[upgrade])
    with (
        make_database("CREATE EXTENSION spock CASCADE", "CREATE EXTENSION dblink") as upgraded,
        make_database("CREATE EXTENSION zodan CASCADE") as fresh,
    ):
        upgraded.execute("SET check_function_bodies = off")
        upgraded.execute(sql.SQL("CREATE EXTENSION zodan VERSION {}").format(_EARLIER))
        note_operation(upgraded)
        assert rows(upgraded, "SELECT to_regclass('zodan.sample')") == {(None,)}
        assert rows(upgraded, _MEMBERS) != rows(fresh, _MEMBERS)
        upgraded.execute("CREATE VIEW mine AS SELECT (NULL::zodan.check_result).name, (NULL::zodan.plan_step).title")
        upgraded.execute(
            "ALTER TABLE zodan.operation DROP CONSTRAINT operation_kind_check,"
            " ADD CONSTRAINT operation_kind_check CHECK (kind IN ('add_node', 'mend'))"
        )
        upgraded.execute("ALTER EXTENSION zodan UPDATE")
        assert rows(upgraded, _CHECKS) == rows(fresh, _CHECKS)
        assert rows(upgraded, "SELECT * FROM mine") == {(None, None)}
        assert rows(upgraded, _MEMBERS) == rows(fresh, _MEMBERS)
        assert rows(upgraded, _CONFIG) == rows(fresh, _CONFIG)
        assert rows(upgraded, _SCHEMA_COMMENT) == rows(fresh, _SCHEMA_COMMENT)
        assert rows(upgraded, "SELECT zodan.version()") == {(version,)}
        assert rows(upgraded, _JOURNAL) == {(1, "mend", "n1", "running", None, 1, None)}
        note_measures(upgraded)
        assert rows(upgraded, _JOURNAL) == {_KEPT}


@pytest.mark.slow
def test_an_upgrade_script_keeps_the_house_rules() -> None:
    name = f"zodan--{_EARLIER}--{render.read_version(render.find_templates())}.sql"
    text = render.render(earlier=[_EARLIER])[name]
    assert 'Rendered by "zodan-sql build"' in text.splitlines()[0]
    assert lint.lint({name: text}, lint.read_templates(render.find_templates())) == []
