"""What sqlfluff says of the rendered SQL: layout and capitals of scripts, statements and bodies of SQL functions."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from sqlfluff.core import FluffConfig, Linter

from zodan_sql.building.lint.findings import Finding
from zodan_sql.building.lint.source import Routine
from zodan_sql.building.script import without_meta

#: Layout and capitals. sqlfluff takes parameters for columns, and does not parse every expression of PostgreSQL's. How
#: wide a line is, is a matter of its template: a constant may be long.
_OF_A_BODY = re.compile("(?!LT05)(?:LT|CP)")
_CONFIG = Path(__file__).with_name("sqlfluff.cfg")


def style(file: str, content: str) -> list[Finding]:
    """Return sqlfluff's findings for a rendered file, under sqlfluff's own codes."""
    linted = _linter().lint_string(without_meta(content), fname=file)
    return [Finding(file, error.line_no, error.rule_code(), error.desc()) for error in linted.get_violations()]


def style_body(routine: Routine) -> list[Finding]:
    """Return sqlfluff's findings for the body of a function in SQL, but for what needs its parameters to be known."""
    return [
        Finding(routine.file, routine.body_line + line - 1, code, f"{routine.full_name}: {message}")
        for line, code, message in _style_body(routine.body)
        if _OF_A_BODY.match(code)
    ]


@cache
def _style_body(body: str) -> list[tuple[int, str, str]]:
    # The same function stands in several files.
    linted = _linter().lint_string(body.strip("\n") + "\n")
    first = len(body) - len(body.lstrip("\n"))
    return [(error.line_no + first, error.rule_code(), error.desc()) for error in linted.get_violations()]


@cache
def _linter() -> Linter:
    return Linter(config=FluffConfig.from_string(_CONFIG.read_text(encoding="utf-8")))
