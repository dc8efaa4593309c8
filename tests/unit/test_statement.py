"""A statement for another node: the forms of its parameters, and the function that writes it."""

from __future__ import annotations

import pglast
import pytest

from zodan_sql.building import declaration, statement

FILE = """/* Greets. */
SELECT :'who', :[friends], :"place", :{lsn}::pg_catalog.pg_lsn, :{dsn:node}, 100 % 7 AS rest
  FROM :(source) AS s WHERE s.name = :'who' AND s.kind::text = 'a';
"""


def _body(text: str) -> str:
    return statement.declare("greet", statement.read(text)).create


def test_each_form_has_its_parameter_in_order_and_its_way_to_be_written() -> None:
    create = _body(FILE)
    assert create.startswith(
        "CREATE FUNCTION zodan.greet(\n    p_who text,\n    p_friends text[],\n    p_place text,\n"
        "    p_lsn text,\n    p_node text,\n    p_source text\n)\nRETURNS text\nLANGUAGE sql IMMUTABLE\n"
    )
    assert "SELECT %1$s, %2$s, %3$s, %4$s::pg_catalog.pg_lsn, %5$s, 100 %% 7 AS rest\n" in create
    assert "FROM %6$s AS s WHERE s.name = %1$s AND s.kind::text = 'a'$sql$" in create
    assert (
        "zodan.quote_text(p_who), zodan.quote_list(p_friends), zodan.quote_name(p_place), zodan.quote_result(p_lsn), "
        "zodan.placeholder('dsn', p_node), p_source)"
    ) in create
    pglast.parse_sql(create)


def test_a_statement_without_parameters_is_written_as_it_is() -> None:
    create = _body("/* Shows. */\nSELECT pg_catalog.format('%I', 'a') AS x;\n")
    assert "greet()\n" in create
    assert "SELECT $sql$SELECT pg_catalog.format('%I', 'a') AS x$sql$" in create


def test_what_looks_like_a_parameter_and_is_none_stays() -> None:
    text = 'SELECT a::text, b[1:2], \'{"k": "v"}\', v := 1, x::"char" FROM t;'
    assert statement.read(f"/* X. */\n{text}\n").parameters == {}


def test_what_lint_reads_parses_and_keeps_its_lines() -> None:
    example = statement.example(statement.read(FILE))
    assert example.count("\n") == 1
    pglast.parse_sql(example)


def test_one_name_is_a_text_or_a_list() -> None:
    with pytest.raises(statement.StatementError, match='"who" is a text in one place and a list in another'):
        statement.read("/* X. */\nSELECT :'who', :[who];\n")


def test_a_text_may_stand_in_several_forms() -> None:
    create = _body("/* X. */\nSELECT :'node', :{dsn:node}, :'node';\n")
    assert "greet(p_node text)\n" in create
    assert "SELECT %1$s, %2$s, %1$s$sql$,\n    zodan.quote_text(p_node), zodan.placeholder('dsn', p_node))" in create


@pytest.mark.parametrize("text", ["", "SELECT 1;\n", "-- X.\nSELECT 1;\n", "/* X. */ SELECT 1;\n"])
def test_what_has_no_doc_comment_is_refused(text: str) -> None:
    with pytest.raises(statement.StatementError, match="doc comment"):
        statement.read(text)


def test_a_statement_may_not_end_the_quotes_around_it() -> None:
    with pytest.raises(statement.StatementError, match="may not hold"):
        _body("/* X. */\nSELECT $sql$a$sql$;\n")


def test_the_declaration_is_written_as_that_of_any_routine() -> None:
    declared = statement.declare("greet", statement.read(FILE))
    sql = declaration.write(declared, replace=True, upgrade=lambda *_: "")
    assert sql.startswith("CREATE OR REPLACE FUNCTION zodan.greet(")
    assert sql.endswith(
        "COMMENT ON FUNCTION zodan.greet IS\n'Greets.';\nREVOKE ALL ON FUNCTION zodan.greet FROM PUBLIC;\n"
    )
