"""Which nodes a comparison reads at the same time: zodan.list_turns on machines written by hand."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest


@pytest.mark.parametrize(
    ("machines", "turns"),
    [
        ({"n1": "a", "n2": "b", "n3": "c"}, [["n1", "n2", "n3"]]),
        ({"n1": "a", "n2": "a", "n3": "a"}, [["n1"], ["n2"], ["n3"]]),
        ({"n1": "a", "n2": "b", "n3": "a"}, [["n1", "n2"], ["n3"]]),
        # Who is not known to share a machine shares none, whatever the nodes are called.
        ({"n1": None, "n2": None, "n1 x": "n1"}, [["n1", "n1 x", "n2"]]),
        ({"n1": None, "n2": "n1", "n3": "n1"}, [["n1", "n2"], ["n3"]]),
    ],
)
def test_nodes_that_share_a_machine_are_read_in_turn(
    zodan: psycopg.Connection[Any], machines: dict[str, str | None], turns: list[list[str]]
) -> None:
    row = zodan.execute("SELECT zodan.list_turns(%s::jsonb)", [json.dumps(machines)]).fetchone()
    assert row == (turns,)
