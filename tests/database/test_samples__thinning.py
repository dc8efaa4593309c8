"""Samples lie the further apart the longer a step waits, so that hours of waiting leave few of them."""

from __future__ import annotations

import itertools
from typing import Any

import psycopg

from zodan_sql.building import render

Connection = psycopg.Connection[Any]

#: Looks every so often for so long, all of them with a measure, and gives the seconds at which a sample was taken.
_LOOK = """
CREATE FUNCTION pg_temp.look(p_every interval, p_for interval) RETURNS SETOF float8 LANGUAGE plpgsql AS $$
DECLARE
    v_at timestamptz := '2026-01-01';
    v_job zodan.job := zodan.begin_job();
BEGIN
    WHILE v_at < timestamptz '2026-01-01' + p_for LOOP
        v_job := zodan.take_sample(v_job, '{"ok": false, "measure": {"lag_bytes": 1}}', v_at);
        IF v_job.sample IS NOT NULL THEN
            RETURN NEXT extract(epoch FROM v_at - '2026-01-01');
        END IF;
        v_at := v_at + p_every;
    END LOOP;
END
$$
"""


def looked(zodan: Connection, every: str, long: str) -> list[float]:
    zodan.execute("DROP FUNCTION IF EXISTS pg_temp.look")
    zodan.execute(_LOOK)
    return [row[0] for row in zodan.execute("SELECT pg_temp.look(%s, %s)", [every, long])]


def test_rests_grow_from_the_shortest_to_the_longest(zodan: Connection) -> None:
    taken = looked(zodan, "0.25 s", "3 hours")
    rests = [after - before for before, after in itertools.pairwise(taken)]
    assert taken[0] == 0
    assert rests == sorted(rests)
    assert rests[0] == 0.25
    assert 60 <= rests[-1] < 60.5


def test_a_day_leaves_no_more_than_was_promised(zodan: Connection) -> None:
    promised = render.read_default("samples_a_day", int)
    assert isinstance(promised, int)
    assert promised * 0.5 < len(looked(zodan, "0.5 s", "1 day")) <= promised


def sample(zodan: Connection, seen: str, at: str = "2026-01-01 00:00:00.01") -> Any:
    job = '{"since": "2026-01-01", "sample_due": "2026-01-02", "sample": {"old": 1}}'
    row = zodan.execute(
        "SELECT (zodan.take_sample(jsonb_populate_record(NULL::zodan.job, %s), %s, %s)).sample", [job, seen, at]
    ).fetchone()
    assert row is not None
    return row[0]


def test_the_last_look_is_taken_and_what_measured_nothing_is_not(zodan: Connection) -> None:
    assert sample(zodan, '{"ok": false, "measure": {"x": 1}}') is None
    assert sample(zodan, '{"ok": true, "measure": {"x": 1}}') == {"x": 1}
    assert sample(zodan, '{"ok": false, "trouble": "gone", "measure": {"x": 1}}') == {"x": 1}
    assert sample(zodan, '{"ok": false, "measure": {"x": 1}}', "2026-01-03") == {"x": 1}
    for nothing in ('{"ok": true}', '{"ok": true, "measure": null}'):
        assert sample(zodan, nothing) is None
