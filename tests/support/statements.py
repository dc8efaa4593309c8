"""Statements for other nodes, each run alone: written by the function of its name, bound and executed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

_TEMPLATES = Path(__file__).resolve().parents[2] / "sql" / "templates" / "statement"

#: A name that is no harm to anyone only where it is quoted as it should be.
ODD = """O'Dd "x" $do$ {dsn:n1} %s"""

_UNLOGGED = (
    "SELECT set_config(s.name, s.value, false)"
    "  FROM (VALUES ('log_min_error_statement', 'panic'), ('log_error_verbosity', 'terse')) AS s(name, value)"
    " WHERE (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user)"
)


def run(
    zodan: psycopg.Connection[Any],
    name: str,
    *,
    on: psycopg.Connection[Any] | None = None,
    dsns: dict[str, str] | None = None,
    results: dict[str, Any] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    """Have Zodan write the statement, and run it there or on another connection; return its one row, if it has one."""
    listed = ", ".join(f"p_{parameter} => %({parameter})s" for parameter in parameters)
    written = zodan.execute(f"SELECT zodan.{name}({listed})".encode(), parameters).fetchone()
    assert written is not None
    # What a name that reads like a placeholder must not be taken for.
    bound = zodan.execute(
        "SELECT zodan.bind_placeholders(%s, %s::jsonb, %s::jsonb)",
        [written[0], json.dumps({"n1": "not a connection string"} | (dsns or {})), json.dumps(results or {})],
    ).fetchone()
    assert bound is not None
    with psycopg.ClientCursor(on or zodan, row_factory=dict_row) as cursor:
        # As in Zodan's own sessions (statement/session/set_session): a statement that fails is not logged.
        cursor.execute(_UNLOGGED)
        cursor.execute(bound[0])
        if cursor.description is None:
            return {}
        rows: list[dict[str, Any]] = cursor.fetchall()
    assert len(rows) <= 1
    return rows[0] if rows else {}


def value(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> Any:
    """Return the only value of a query, None where it returns no row."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    return row[0] if row else None


def forgotten(folder: str, *test_files: str) -> set[str]:
    """Return the statements of a folder that the test files do not run."""
    run_there = {name for file in test_files for name in re.findall(r'"(\w+)"', Path(file).read_text())}
    statements = {path.name.removesuffix(".sql.j2") for path in (_TEMPLATES / folder).glob("*.sql.j2")}
    assert statements
    return statements - run_there
