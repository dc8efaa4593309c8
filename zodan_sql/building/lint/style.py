"""What sqlfluff says of the rendered SQL: layout and capitals of everything outside of routine bodies."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sqlfluff.core import FluffConfig, Linter

from zodan_sql.building.lint.findings import Finding
from zodan_sql.building.script import without_meta

_CONFIG = Path(__file__).with_name("sqlfluff.cfg")


def style(file: str, content: str) -> list[Finding]:
    """Return sqlfluff's findings for a rendered file, under sqlfluff's own codes."""
    linted = _linter().lint_string(without_meta(content), fname=file)
    return [Finding(file, error.line_no, error.rule_code(), error.desc()) for error in linted.get_violations()]


@cache
def _linter() -> Linter:
    return Linter(config=FluffConfig.from_string(_CONFIG.read_text(encoding="utf-8")))
