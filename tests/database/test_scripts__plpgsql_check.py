"""plpgsql_check finds nothing in any routine: no name that does not exist, no type that does not fit."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from zodan_sql.sandbox import Engine

_FINDINGS = """
SELECT p.oid::regprocedure::text, c.lineno, c.level, c.message, c.detail
  FROM pg_proc AS p
  JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
 CROSS JOIN LATERAL plpgsql_check_function_tb(p.oid, fatal_errors => false, other_warnings => true,
           extra_warnings => true, performance_warnings => false, security_warnings => true) AS c
 WHERE p.pronamespace = 'zodan'::regnamespace
    OR p.pronamespace = 'spock'::regnamespace AND p.proname IN ('add_node', 'remove_node', 'health_check')
       AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
 ORDER BY 1, 2
"""


def test_no_error_and_no_warning(zodan: psycopg.Connection[Any], engine: Engine) -> None:
    (there,) = (
        zodan.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql_check'").fetchone() or ()
    )
    if engine.is_real and not there:
        pytest.skip("the server of ZODAN_PG_BIN has no plpgsql_check; make setup brings it for the stand-in's")
    zodan.execute("CREATE EXTENSION plpgsql_check")
    found = [" ".join(str(part) for part in row if part) for row in zodan.execute(_FINDINGS)]
    assert found == []
