"""A step that waits is looked at often at first, and the less often the longer it has waited."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

_REST = """
SELECT (zodan.judge_wait(jsonb_populate_record(NULL::zodan.job,
            jsonb_build_object('pause', %(pause)s, 'since', clock_timestamp() - %(waited)s::interval)),
        '{"ok": false, "progress": 1}', '10 min')).pause
"""


@pytest.mark.parametrize(
    ("waited", "pause", "shortest", "longest"),
    [("0 s", 0.01, 0.015, 0.015), ("0 s", 1, 0.25, 0.25), ("200 s", 10, 1, 1.1), ("3 hours", 10, 5, 5)],
)
def test_the_rest_to_the_next_look(
    zodan: psycopg.Connection[Any], waited: str, pause: float, shortest: float, longest: float
) -> None:
    row = zodan.execute(_REST, {"waited": waited, "pause": pause}).fetchone()
    assert row is not None
    assert shortest <= row[0] <= longest


_TROUBLE = """
SELECT (zodan.judge_wait(zodan.begin_job(),
        '{"trouble": "it broke off: bad string host=a password=s3cret-9 port=1"}', '10 min')).answer ->> 'message'
"""


def test_what_a_log_says_is_masked(zodan: psycopg.Connection[Any]) -> None:
    assert zodan.execute(_TROUBLE).fetchone() == ("it broke off: bad string host=a password=**** port=1",)


_DEADLINE = """
SELECT (zodan.judge_wait(jsonb_populate_record(zodan.begin_job(),
            jsonb_build_object('progress', 1, 'since', now(), 'deadline', clock_timestamp() - interval '1 s')),
        '{"ok": false, "progress": 1}'::jsonb || %(more)s::jsonb, '10 min')).stage = 'failed'
"""


@pytest.mark.parametrize(
    ("more", "fails"),
    [("{}", True), ('{"alive": false}', True), ('{"alive": true}', False), ('{"progress": 2}', False)],
)
def test_who_works_is_not_given_up(zodan: psycopg.Connection[Any], more: str, fails: bool) -> None:
    assert zodan.execute(_DEADLINE, {"more": more}).fetchone() == (fails,)
