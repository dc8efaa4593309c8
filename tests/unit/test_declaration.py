"""A file that declares a routine, a type or a table: what rendering adds to it, and what is no such file."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodan_sql.building import declaration, render

ROUTINE = """/* Adds one. It's
quick. */
CREATE FUNCTION zodan.add(p_a int)
RETURNS int
LANGUAGE plpgsql
AS $zodan$
BEGIN
    RETURN p_a + 1;
END
$zodan$;
"""
TABLE = """/* A table. */
CREATE TABLE zodan.things (
    id int NOT NULL
);
"""
TYPE = """/* A type. */
CREATE TYPE zodan.pair AS (
    a int, b numeric(10, 2)
);
"""


def _write(text: str, *, replace: bool) -> str:
    def upgrade(kind: str, name: str, columns: str) -> str:
        return f"-- {kind} {name}: {columns}\n"

    return declaration.write(declaration.read(text), replace=replace, upgrade=upgrade)


def test_a_routine_gets_its_comment_its_revoke_and_its_doc_in_the_body() -> None:
    sql = _write(ROUTINE, replace=False)
    assert sql.startswith("CREATE FUNCTION zodan.add(p_a int)\n")
    assert "AS $zodan$\n/* Adds one. It's\nquick. */\nBEGIN\n" in sql
    assert sql.endswith(
        "COMMENT ON FUNCTION zodan.add IS\n'Adds one. It''s\nquick.';\nREVOKE ALL ON FUNCTION zodan.add FROM PUBLIC;\n"
    )


def test_a_script_that_loads_twice_replaces_the_routine_only_once() -> None:
    sql = _write(ROUTINE.replace("RETURN p_a", "EXECUTE 'CREATE TABLE t ()'; RETURN p_a"), replace=True)
    assert sql.startswith("CREATE OR REPLACE FUNCTION zodan.add(")
    assert sql.count("OR REPLACE") == 1


def test_the_body_of_an_sql_function_stays_as_it_is() -> None:
    sql = _write(ROUTINE.replace("plpgsql", "sql IMMUTABLE"), replace=False)
    assert "AS $zodan$\nBEGIN\n" in sql


@pytest.mark.parametrize("replace", [True, False])
def test_a_table_is_commented_and_revoked(replace: bool) -> None:
    sql = _write(TABLE, replace=replace)
    assert sql.startswith("CREATE TABLE IF NOT EXISTS zodan.things (" if replace else "CREATE TABLE zodan.things (")
    assert ("-- table zodan.things: id int NOT NULL\n" in sql) == replace
    assert sql.endswith(
        "COMMENT ON TABLE zodan.things IS\n'A table.';\nREVOKE ALL ON TABLE zodan.things FROM PUBLIC;\n"
    )


def test_a_type_that_may_be_there_is_left_to_what_upgrades_it() -> None:
    assert _write(TYPE, replace=True) == (
        "-- type zodan.pair: a int, b numeric(10, 2)\nCOMMENT ON TYPE zodan.pair IS\n'A type.';\n"
    )
    assert _write(TYPE, replace=False).startswith("CREATE TYPE zodan.pair AS (\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CREATE FUNCTION zodan.add() RETURNS int\n",
        ROUTINE.replace("zodan.add", "add"),
        ROUTINE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),
        ROUTINE.replace("CREATE FUNCTION", "CREATE VIEW"),
        ROUTINE.replace("/*", "--").replace("*/", ""),
    ],
)
def test_what_is_not_a_doc_comment_and_a_create_is_refused(text: str) -> None:
    with pytest.raises(declaration.DeclarationError):
        declaration.read(text)


def test_a_body_quoted_otherwise_is_refused_since_its_doc_would_be_lost() -> None:
    with pytest.raises(declaration.DeclarationError, match=r"zodan\.add"):
        _write(ROUTINE.replace("$zodan$", "$$"), replace=False)


def test_a_file_that_declares_nothing_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "text" / "nothing.sql.j2").write_text("SELECT 1;\n")
    (tmp_path / "pages" / "zodan.control.j2").write_text("default_version = '1.2.3'\n")
    for page in render.CONTENTS.values():
        if page != "pages/zodan.control.j2":
            (tmp_path / page).write_text('{% set replace = true %}\n{{ create("text/nothing") }}\n')
    with pytest.raises(render.RenderError, match=r"text/nothing\.sql\.j2: must be"):
        render.render(tmp_path)
