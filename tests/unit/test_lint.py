"""Every house rule: what it lets pass, what it finds, and where."""

from __future__ import annotations

import pytest

from zodan_sql.building import lint
from zodan_sql.building.lint.rules import LONGEST_LINE, LONGEST_ROUTINE, RULES

LINTED = "zodan.sql"


def routine(
    body: str,
    name: str = "zodan.do_it",
    args: str = "p_node text",
    returns: str | None = "void",
    declare: str = "",
    language: str = "plpgsql",
    comment: str | None = "Does it.",
    revoke: bool = True,
) -> str:
    kind = "FUNCTION" if returns else "PROCEDURE"
    if language == "plpgsql":
        declared = f"DECLARE\n    {declare}\n" if declare else ""
        body = f"{declared}BEGIN\n    {body}\nEND"
    lines = [f"CREATE OR REPLACE {kind} {name}({args})", *([f"RETURNS {returns}"] if returns else [])]
    lines += [f"LANGUAGE {language}", "AS $zodan$", body, "$zodan$;"]
    if comment is not None:
        lines.append(f"COMMENT ON {kind} {name} IS '{comment}';")
    if revoke:
        lines.append(f"REVOKE ALL ON {kind} {name} FROM PUBLIC;")
    return "\n".join(lines) + "\n"


def find(sql: str, layer: str = "check", templates: dict[str, str] | None = None) -> list[lint.Finding]:
    known = {f"{layer}/do_it.sql.j2": "", "public/add_node.sql.j2": "", "text/redact_text.sql.j2": ""}
    known |= {"run/run_plan.sql.j2": "", "remote/send_it.sql.j2": "", "text/quote_it.sql.j2": ""}
    known |= {"statement/slot/drop_it.sql.j2": ""}
    return lint.lint({LINTED: sql}, {**known, **(templates or {})})


def codes(sql: str, layer: str = "check", templates: dict[str, str] | None = None) -> set[str]:
    return {finding.code for finding in find(sql, layer, templates)}


# code, layer, what passes, what the rule finds
CASES = [
    ("ZL000", "check", routine("NULL;"), routine("NUL;")),
    ("ZL000", "check", routine("RETURN 1 + 1;", returns="int"), routine("RETURN 1 +;", returns="int")),
    ("ZL000", "check", routine("SELECT 1", returns="int", language="sql"), routine("SELEC", language="sql")),
    ("ZL000", "check", "SELECT 1;\n", "SELECT FROM FROM;\n"),
    ("ZL000", "check", "\\set ON_ERROR_STOP on\nSELECT 1;\n", "ON_ERROR_STOP;\n"),
    ("ZL001", "check", routine("NULL;"), routine("NULL;", comment=None)),
    ("ZL001", "check", routine("NULL;", returns=None), routine("NULL;", returns=None, comment="")),
    ("ZL002", "check", routine("NULL;"), routine("NULL;", revoke=False)),
    (
        "ZL002",
        "check",
        routine("NULL;", returns=None),
        routine("NULL;", revoke=False) + "GRANT ALL ON FUNCTION zodan.do_it TO PUBLIC;\n",
    ),
    ("ZL003", "check", routine("PERFORM FROM zodan.step;"), routine("PERFORM FROM step;")),
    ("ZL003", "check", routine("DELETE FROM zodan.step;"), routine("DELETE FROM step;")),
    (
        "ZL003",
        "check",
        routine("PERFORM FROM (WITH s AS (SELECT 1) SELECT FROM s) AS x;"),
        routine("PERFORM FROM (WITH s AS (SELECT 1) SELECT FROM t) AS x;"),
    ),
    ("ZL003", "check", routine("PERFORM pg_catalog.now();"), routine("PERFORM now();")),
    ("ZL003", "check", routine("CALL zodan.x();"), routine("CALL x();")),
    (
        "ZL003",
        "check",
        routine("v_x := pg_catalog.upper('a');", declare="v_x text;"),
        routine("v_x := upper('a');", declare="v_x text;"),
    ),
    (
        "ZL003",
        "check",
        routine("PERFORM coalesce(1, 2), greatest(1, 2), nullif(1, 2), extract(year FROM current_date), trim(' a ');"),
        routine("PERFORM substr('a', 1);"),
    ),
    ("ZL003", "check", routine("NULL;", declare="v_x zodan.step;"), routine("NULL;", declare="v_x step;")),
    (
        "ZL003",
        "check",
        routine("NULL;", declare="v_x zodan.step[];\n    v_y zodan.step.title%TYPE;\n    v_z v_y%TYPE;"),
        routine("NULL;", declare="v_x text;\n    v_y step%ROWTYPE;"),
    ),
    ("ZL003", "check", routine("NULL;", args="p_x zodan.step[]"), routine("NULL;", args="p_x step")),
    (
        "ZL003",
        "check",
        routine("RETURN NEXT NULL;", returns="SETOF zodan.step"),
        routine("RETURN NEXT NULL;", returns="SETOF step"),
    ),
    ("ZL003", "check", routine("PERFORM NULL::zodan.step;"), routine("PERFORM NULL::step;")),
    (
        "ZL003",
        "check",
        routine("SELECT pg_catalog.now()", returns="timestamptz", language="sql"),
        routine("SELECT now()", returns="timestamptz", language="sql"),
    ),
    ("ZL003", "check", routine("NULL;"), routine("NULL;", name="do_it")),
    ("ZL003", "remote", routine("PERFORM dblink_disconnect('x');"), routine("PERFORM disconnect('x');")),
    (
        "ZL003",
        "check",
        "CREATE VIEW zodan.steps AS SELECT s.title FROM zodan.step AS s;\n",
        "CREATE VIEW zodan.steps AS SELECT s.title FROM step AS s;\n",
    ),
    (
        "ZL003",
        "check",
        "DO $zodan$\nBEGIN\n    PERFORM pg_catalog.now();\nEND\n$zodan$;\n",
        "DO $zodan$\nBEGIN\n    PERFORM now();\nEND\n$zodan$;\n",
    ),
    (
        "ZL004",
        "remote",
        routine("NULL;\nEXCEPTION WHEN OTHERS THEN\n    RAISE;"),
        routine("BEGIN NULL; EXCEPTION WHEN unique_violation OR OTHERS THEN RAISE; END;"),
    ),
    ("ZL004", "check", routine("NULL;\nEXCEPTION WHEN unique_violation THEN\n    RAISE;"), None),
    ("ZL005", "remote", routine("PERFORM dblink_disconnect('x');"), routine("PERFORM dblink_disconnect('x');")),
    (
        "ZL005",
        "check",
        routine("-- not by dblink()\n    PERFORM 'extension dblink is missing';"),
        routine("EXECUTE 'SELECT public.dblink_exec($1)' USING 'x';"),
    ),
    (
        "ZL006",
        "check",
        routine("PERFORM pg_catalog.format('%s', zodan.redact_text(p_dsn));", args="p_dsn text"),
        routine("PERFORM pg_catalog.format('%s', p_dsn);", args="p_dsn text"),
    ),
    (
        "ZL006",
        "check",
        routine("PERFORM pg_catalog.format('%s', pg_catalog.char_length(p_dsn));", args="p_dsn text"),
        routine("PERFORM pg_catalog.format('%s', pg_catalog.upper(p_dsn));", args="p_dsn text"),
    ),
    (
        "ZL006",
        "check",
        routine("RAISE NOTICE '%', pg_catalog.jsonb_object_keys(p_dsns);", args="p_dsns jsonb"),
        routine("RAISE NOTICE '%', pg_catalog.jsonb_each(p_dsns);", args="p_dsns jsonb"),
    ),
    (
        "ZL006",
        "check",
        routine("RAISE NOTICE '%', p_node;", args="p_dsn text, p_node text"),
        routine("RAISE NOTICE '%', p_dsn;", args="p_dsn text"),
    ),
    (
        "ZL006",
        "check",
        routine("RAISE EXCEPTION USING MESSAGE = zodan.redact_text('x' || p_dsn);", args="p_dsn text"),
        routine("RAISE EXCEPTION USING MESSAGE = 'x', DETAIL = 'y' || p_dsn;", args="p_dsn text"),
    ),
    (
        "ZL006",
        "check",
        routine("RAISE NOTICE '%', (SELECT 1);"),
        routine("RAISE NOTICE '%', (SELECT i.if_dsn FROM spock.node_interface AS i);"),
    ),
    (
        "ZL007",
        "check",
        routine("NULL;\n" * (LONGEST_ROUTINE - 9)),
        routine("NULL;\n" * (LONGEST_ROUTINE - 8)),
    ),
    ("ZL008", "check", routine("NULL;"), routine("NULL;", name="zodan.do_that")),
    ("ZL009", "check", routine("NULL;", args="p_x int"), routine("NULL;", args="x int")),
    ("ZL009", "public", routine("NULL;", args="src_dsn text"), None),
    ("ZL009", "plan", routine("NULL;", name="zodan.plan_add_node", args="src_dsn text"), None),
    (
        "ZL009",
        "check",
        routine("RETURN NEXT;", args="", returns="TABLE(title text)"),
        routine("NULL;", args="INOUT title text", returns=None),
    ),
    (
        "ZL009",
        "check",
        routine("NULL;", declare="v_x int;\n    c_x CONSTANT int := 1;\n    v_r record;"),
        routine("NULL;", declare="x int;"),
    ),
    ("ZL009", "check", routine("NULL;"), routine("NULL;", declare="v_x CONSTANT int := 1;")),
    ("ZL009", "check", routine("NULL;"), routine("NULL;", declare="c_x int := 1;")),
    ("ZL009", "check", routine("NULL;"), routine("FOR i IN 1 .. 2 LOOP NULL; END LOOP;")),
    (
        "ZL010",
        "check",
        routine("PERFORM zodan.do_it(1), zodan.quote_it(2), zodan.send_it();"),
        routine("CALL zodan.run_plan();"),
    ),
    (
        "ZL010",
        "text",
        routine("SELECT zodan.quote_it('x')", returns="text", language="sql"),
        routine("SELECT zodan.send_it('x')", returns="text", language="sql"),
    ),
    ("ZL011", "check", routine("NULL;"), routine("NULL;", comment="Up to {{ defaults.rows }} rows.")),
    ("ZL011", "check", "SELECT '{}' || '{x}';\n", "SELECT '{% if %}';\n"),
    (
        "ZL012",
        "plan",
        routine("PERFORM zodan.drop_it(p_a => 1, p_b => 2);"),
        routine("PERFORM zodan.drop_it(1, p_b => 2);"),
    ),
    ("ZL012", "plan", routine("PERFORM zodan.drop_it(1);"), routine("PERFORM zodan.drop_it(1, 2);")),
    ("ZL012", "plan", routine("PERFORM zodan.quote_it(1, 2);"), routine("PERFORM zodan.drop_it(1, 2);")),
    (
        "ZL013",
        "check",
        routine("RAISE EXCEPTION USING ERRCODE = 'ZD001', MESSAGE = 'x', HINT = 'Do it.';"),
        routine("RAISE EXCEPTION USING ERRCODE = 'ZD001', MESSAGE = 'x';"),
    ),
    ("ZL013", "check", routine("RAISE WARNING 'x';"), routine("RAISE EXCEPTION 'x';")),
    ("ZL013", "check", routine("NULL;"), routine("RAISE EXCEPTION 'x' USING HINT = 'Do it.';")),
    ("CP01", "check", "SELECT 1;\n", "select 1;\n"),
    ("LT05", "check", routine("NULL;", comment="x" * 130 + ""), f"SELECT '{'x' * 130}';\n"),
]


@pytest.mark.parametrize(("code", "layer", "passing", "failing"), CASES)
def test_each_rule_lets_pass_and_finds(code: str, layer: str, passing: str, failing: str | None) -> None:
    assert code not in codes(passing, layer)
    if failing is not None:
        # Where a rule is about a layer, what fails in another one passes in its own.
        assert code in codes(failing, "check" if (code, layer) in {("ZL004", "remote"), ("ZL005", "remote")} else layer)


def test_every_rule_has_cases_both_ways() -> None:
    both_ways = {code for code, _, passing, failing in CASES if passing and failing}
    # ZL014 looks at templates, and has a test of its own.
    assert {rule.code for rule in RULES} - {"ZL014"} <= both_ways


def test_a_tidy_routine_has_no_findings_at_all() -> None:
    sql = routine(
        "FOR v_step IN SELECT * FROM zodan.step AS s WHERE s.node = p_node LOOP\n"
        "        v_step.title := pg_catalog.upper(v_step.title);\n"
        "    END LOOP;\n"
        "    GET DIAGNOSTICS v_count = ROW_COUNT;\n"
        "    COMMIT;",
        returns=None,
        args="p_node text, p_step zodan.plan_step, VARIADIC p_more text[]",
        declare="v_step zodan.step%ROWTYPE;\n    v_count int;\n    c_limit CONSTANT interval := interval '1 minute';",
    )
    assert find(sql) == []


def test_one_routine_a_template() -> None:
    two = "{% call routine.function(name='a') %}\n{% endcall %}\n{% call routine.procedure(name='b') %}\n{% endcall %}"
    assert "ZL008" in codes("SELECT 1;\n", templates={"run/a.sql.j2": two})
    assert "ZL008" not in codes("SELECT 1;\n", templates={"run/a.sql.j2": two[: two.index("\n")]})


@pytest.mark.parametrize(
    ("body", "marked"),
    [
        ("PERFORM 1,\n        nów();", 2),
        ("NULL;\n    -- now()\n    v_x :=\n        now();", 4),
        ("SELECT 1 INTO v_x FROM zodan.step;\n    SELECT now()\n      INTO v_x;", 2),
        ("IF true THEN\n        RETURN now();\n    END IF;", 2),
    ],
)
def test_findings_name_the_line(body: str, marked: int) -> None:
    sql = "-- é\n\n" + routine(body, declare="v_x text;", returns="text")
    lines = [finding.line for finding in find(sql) if finding.code == "ZL003"]
    first = sql.split("\n").index("BEGIN") + 2
    assert lines == [first + marked - 1]


def test_what_several_files_share_is_told_once() -> None:
    sql = routine("NULL;", comment=None)
    findings = lint.lint({"a.sql": sql, "b.sql": sql, "a.control": "no SQL"}, {"text/do_it.sql.j2": ""})
    assert [str(finding) for finding in findings] == ["a.sql:1 ZL001 zodan.do_it: has no COMMENT"]


def test_the_body_of_an_sql_function_has_a_layout_too() -> None:
    assert "CP01" in codes(routine("SELECT 1 from zodan.step AS s", returns="int", language="sql"))
    assert "CP01" not in codes(routine("SELECT 1 FROM zodan.step AS s", returns="int", language="sql"))
    found = find(routine("SELECT 1\n  from zodan.step AS s", returns="int", language="sql"))
    assert [finding.line for finding in found if finding.code == "CP01"] == [6]


STATEMENT = "DO $do$\nBEGIN\n    {}\nEND\n$do$\n"


@pytest.mark.parametrize(
    ("code", "passes", "fails"),
    [
        ("ZL000", "NULL;", "NUL;"),
        ("ZL003", "PERFORM FROM spock.node;", "PERFORM FROM node;"),
        ("ZL003", "PERFORM pg_catalog.now();", "PERFORM now();"),
        ("ZL004", "NULL;", "BEGIN NULL; EXCEPTION WHEN OTHERS THEN NULL; END;"),
    ],
)
def test_a_statement_for_another_node_is_read_as_routines_are(code: str, passes: str, fails: str) -> None:
    path = "statement/slot/drop_it.sql.j2"

    def found(body: str, path: str = path) -> set[tuple[str, str]]:
        findings = lint.lint({}, {path: ""}, {path: STATEMENT.format(body)})
        return {(finding.code, finding.file) for finding in findings}

    assert (code, path) not in found(passes)
    assert (code, path) in found(fails)


def test_a_statement_is_as_long_as_its_file_without_its_comment() -> None:
    path = "statement/slot/drop_it.sql.j2"
    comment = "/* " + "long\n" * LONGEST_ROUTINE + "*/\n"
    for lines, expected in ((LONGEST_ROUTINE - 1, set()), (LONGEST_ROUTINE, {"ZL007"})):
        found = lint.lint({}, {path: comment + "SELECT 1,\n" * lines}, {})
        assert {finding.code for finding in found} == expected


def test_a_template_has_no_line_that_no_screen_shows() -> None:
    path = "pages/zodan.sql.j2"
    for letters, expected in ((LONGEST_LINE, set()), (LONGEST_LINE + 1, {"ZL014"})):
        assert {finding.code for finding in lint.lint({}, {path: "-" * letters}, {})} == expected


def test_a_statement_that_reaches_out_may_catch_any_error() -> None:
    path = "statement/remote/try_it.sql.j2"
    text = STATEMENT.format("BEGIN NULL; EXCEPTION WHEN OTHERS THEN NULL; END;")
    assert lint.lint({}, {path: ""}, {path: text}) == []


@pytest.mark.parametrize(("end", "is_found"), [(";\n", False), (";", True), (";\n\n", True)])
def test_how_a_script_ends_is_looked_at(end: str, is_found: bool) -> None:
    for before in ("", "SELECT 1;\n", "SELECT 1;\nSELECT 2;\n\n"):
        assert ("LT12" in codes(f"{before}SELECT 3{end}")) is is_found, before


def test_a_statement_in_two_scripts_is_found_in_its_line_of_each() -> None:
    there = "select 2;\n"
    found = lint.lint({"a.sql": f"SELECT 1;\n\n{there}", "b.sql": f"SELECT 1;\nSELECT 5;\n\n{there}SELECT 3;\n"}, {})
    assert [(finding.file, finding.line, finding.code) for finding in found] == [("a.sql", 3, "CP01")]
    alone = lint.lint({"b.sql": f"SELECT 1;\nSELECT 5;\n\n{there}SELECT 3;\n"}, {})
    assert [(finding.line, finding.code) for finding in alone] == [(4, "CP01")]
