"""A session whose settings would end a call half-way is told so, before the call asks any node."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

_CALLS = {
    "spock.add_node": "'n1', 'host=192.0.2.1', 'n2', 'host=192.0.2.2'",
    "spock.remove_node": "'n1', 'host=192.0.2.1'",
    "zodan.resume": "1",
}


@pytest.mark.parametrize("procedure", _CALLS)
@pytest.mark.parametrize(
    ("setting", "value", "sqlstate", "message", "hint"),
    [
        ("zodan.sync_timeout", "nonsense", "ZD004", 'zodan.sync_timeout is "nonsense"', "30 min"),
        ("zodan.sync_timeout", "-5 min", "ZD004", 'zodan.sync_timeout is "-5 min"', "30 min"),
        ("zodan.sync_timeout", "0", "ZD004", 'zodan.sync_timeout is "0"', "30 min"),
        ("zodan.look_timeout", "99999999999999999999", "ZD004", "zodan.look_timeout is", "30 min"),
        ("default_transaction_read_only", "on", "ZD008", "transactions are read-only", "read_only = off"),
    ],
)
def test_what_would_end_it(
    zodan: psycopg.Connection[Any], procedure: str, setting: str, value: str, sqlstate: str, message: str, hint: str
) -> None:
    zodan.execute("SELECT set_config(%s, %s, false)", [setting, value])
    with pytest.raises(psycopg.Error) as refused:
        zodan.execute(f"CALL {procedure}({_CALLS[procedure]})".encode())
    zodan.execute("RESET ALL")
    assert refused.value.sqlstate == sqlstate, refused.value
    assert message in str(refused.value.diag.message_primary)
    assert hint in str(refused.value.diag.message_hint)


def test_a_duration_is_an_interval_or_a_number_of_seconds(zodan: psycopg.Connection[Any]) -> None:
    for value, seconds in (("90", 90), ("1.5 min", 90), ("", 600)):
        zodan.execute("SELECT set_config('zodan.sync_timeout', %s, false)", [value])
        found = zodan.execute("SELECT extract(epoch FROM zodan.read_patience())").fetchone()
        assert found is not None and found[0] == seconds
