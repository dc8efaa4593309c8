"""How the sessions of a copy share its rate: zodan.share_rate."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

_OPERATION = (
    "INSERT INTO zodan.operation (kind, node, arguments, members) VALUES ('add_node', 'n4', '{}', '{}')"
    " RETURNING operation_id"
)
_UNIT = (
    "INSERT INTO zodan.unit (operation_id, phase_name, number, bundle, title, bytes, tables, what, state)"
    " VALUES (%s, 'copied', %s, 'b', 't', 1, 1, '[]', %s)"
)
_SHARE = (
    "SELECT zodan.share_rate(jsonb_populate_record(NULL::zodan.step, jsonb_build_object("
    "'operation_id', %s::bigint, 'phase_name', 'copied', "
    "'units', jsonb_build_object('lanes', 4, 'max_rate', %s::bigint))))"
)


@pytest.mark.parametrize(
    ("states", "rate", "share"),
    [
        (["pending"] * 9, 8000, 2000),
        (["running"] * 3 + ["pending"], 8000, 2000),
        (["done"] * 9 + ["running", "failed"], 8000, 4000),
        # A table that cannot be divided is copied as fast as all of them may be.
        (["pending"], 8000, 8000),
        (["running"], None, 0),
        (["done"], 8000, 8000),
    ],
)
def test_the_units_that_are_left_share_the_rate(
    zodan: psycopg.Connection[Any], states: list[str], rate: int | None, share: int
) -> None:
    with zodan.transaction(force_rollback=True):
        (operation,) = zodan.execute(_OPERATION).fetchone() or (0,)
        for number, state in enumerate(states):
            zodan.execute(_UNIT, [operation, number, state])
        assert zodan.execute(_SHARE, [operation, rate]).fetchone() == (share,)
