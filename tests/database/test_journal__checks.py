"""The checks of an operation are kept with it, in order and without secrets."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from zodan_sql.client import checks
from zodan_sql.client.checks import CheckResult

Connection = psycopg.Connection[Any]

_START = """
SELECT zodan.start_operation('mend', 'x', '{}', '{"n1": "host=a password=s3cret"}', '{}',
    ARRAY(SELECT zodan.give_verdict(f) FROM unnest(%s::zodan.finding[]) AS f))
"""
_CHECKS = [
    '(reachable,reachable,n1,fail,f,"not s3cret\n  at postgresql://me:other@b/x",a connection,look)',
    "(clock,clock,n2,info,,unknown,2 s,set it)",
]


@pytest.fixture
def dsn(zodan: Connection) -> str:
    return psycopg.conninfo.make_conninfo(zodan.info.dsn, password=zodan.info.password)


def test_they_are_kept_in_order_and_without_secrets(zodan: Connection, dsn: str) -> None:
    (number,) = zodan.execute(_START, [_CHECKS]).fetchone() or (0,)
    assert checks.recorded(dsn, number) == [
        CheckResult(
            "reachable",
            "reachable",
            "n1",
            "fail",
            False,
            "not **** at postgresql://me:****@b/x",
            "a connection",
            "look",
            "FAIL",
        ),
        CheckResult("clock", "clock", "n2", "info", None, "unknown", "2 s", "set it", "INFO"),
    ]


def test_an_operation_without_checks_has_none(zodan: Connection, dsn: str) -> None:
    (number,) = zodan.execute(
        "SELECT zodan.start_operation('mend', 'x', '{}', '{\"n1\": \"host=a\"}', '{}')"
    ).fetchone() or (0,)
    assert checks.recorded(dsn, number) == []
