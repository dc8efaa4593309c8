"""When a copy pauses and when it goes on: zodan.find_pause on facts written by hand."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

_QUERY = (
    "SELECT zodan.find_pause(%s::jsonb, %s::jsonb, %s::interval, 'n1', '2026-01-01'::timestamptz + %s * interval '1 s')"
)


def _slot(name: str, part: int, own: bool = False, active: bool = True) -> dict[str, Any]:
    return {"name": name, "part": part, "own": own, "active": active}


def _find(
    zodan: psycopg.Connection[Any], load: dict[str, Any], at: float = 0, lag: str | None = None, **seen: Any
) -> dict[str, Any]:
    given = json.dumps({"lsn": "0/1000", "slots": [], "peers": []} | seen)
    row = zodan.execute(_QUERY, [json.dumps(load), given, lag, at]).fetchone()
    assert row is not None
    found: dict[str, Any] = row[0]
    return found


def test_a_slot_holds_the_copy_up_until_there_is_room(zodan: psycopg.Connection[Any]) -> None:
    load: dict[str, Any] = {}
    for part, pauses in ((80, False), (81, True), (71, True), (70, True), (69, False), (75, False), (81, True)):
        load = _find(zodan, load, slots=[_slot("a", part), _slot("b", 75)])
        assert (load["by"] == "slot a", load["paused"] is not None) == (pauses, pauses), part
    # The fullest is named; who reads it decides the words.
    for slot, words in (
        (_slot("c", 95), 'slot "c" on node "n1", which holds 95 % of max_slot_wal_keep_size'),
        (_slot("c", 95, active=False), "max_slot_wal_keep_size, and which nobody reads"),
    ):
        assert _find(zodan, load, slots=[_slot("a", 81), slot])["paused"].endswith(words)
    # That of the copy gets free when the copy is done, and no sooner.
    assert _find(zodan, {}, slots=[_slot("c", 95, own=True, active=False)])["paused"] is None


@pytest.mark.parametrize("lag", ["1 s", "10 s", "1 h"])
def test_a_peer_holds_the_copy_up_while_it_lacks_what_was_there_so_long_ago(
    zodan: psycopg.Connection[Any], lag: str
) -> None:
    seconds = {"1 s": 1, "10 s": 10, "1 h": 3600}[lag]
    load: dict[str, Any] = {}
    begun = None
    # The source writes all the time; the peer stands still from the beginning.
    for tenth in range(40):
        at = seconds * tenth / 10
        lsn = f"0/{0x1000 + tenth:X}"
        load = _find(zodan, load, at, lag, lsn=lsn, peers=[{"name": "p", "lsn": "0/FFF", "lag": None}])
        if load["by"] == "peer p" and begun is None:
            begun = tenth
        assert len(load["trail"]) < 25
    assert begun == 10
    # It has applied what was there then, and lacks only what came later.
    load = _find(zodan, load, seconds * 4, lag, lsn="0/2000", peers=[{"name": "p", "lsn": "0/1026", "lag": None}])
    assert load["paused"] is None
    # Without a limit, no lag is too much.
    assert _find(zodan, {}, 5, None, peers=[{"name": "p", "lsn": "0/1", "lag": 99999}])["paused"] is None


def test_what_postgresql_says_of_a_peer_counts_while_nothing_better_is_known(zodan: psycopg.Connection[Any]) -> None:
    late = {"name": "p", "lsn": "0/FFF", "lag": 11}
    load = _find(zodan, {}, 0, "10 s", lsn="0/1000", peers=[late])
    assert load["by"] == "peer p"
    assert _find(zodan, {}, 0, "10 s", lsn="0/1000", peers=[late | {"lag": 9}])["paused"] is None
    # It lacks nothing any more, and has not reported again since: its lag is an old one.
    level = late | {"lsn": "0/1000"}
    assert _find(zodan, load, 1, "10 s", lsn="0/1000", peers=[level])["paused"] is None
    # What there was ten seconds ago it has, and that is known now.
    for at, lsn in ((5, "0/1100"), (10, "0/1200")):
        load = _find(zodan, load, at, "10 s", lsn=lsn, peers=[level])
    assert load["paused"] is None
