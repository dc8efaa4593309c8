"""The page of an operation: well-formed, self-contained, with the facts and without secrets."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from support.reports import BEGAN, RECORD, STEPS
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.journal import Unit
from zodan_sql.client.redaction import Redactor
from zodan_sql.client.samples import Sample
from zodan_sql.client.topology import Stream
from zodan_sql.client.verify import VerifyResult
from zodan_sql.showing.report import chart, draw, lanes
from zodan_sql.showing.report.axis import Axis
from zodan_sql.showing.report.timeline import bars
from zodan_sql.words import span

_VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("streams", [None, [Stream("n1", "n3", "sub", "down", False, 5)]])
def test_the_page_is_well_formed_and_needs_nothing_from_outside(streams: list[Stream] | None) -> None:
    text = draw(RECORD, Redactor(), streams, "n1 cannot be reached")
    page = Page(text)
    names = {name for name, _ in page.attributes}
    assert names.isdisjoint({"src", "href", "srcset", "xlink:href", "action", "data"})
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text


def test_the_page_holds_the_facts_and_no_secret() -> None:
    text = draw(RECORD, Redactor(), None, "n1 cannot be reached")
    said = " ".join(" ".join(Page(text).words).split())
    assert "s3cret" not in text
    for fact in (
        *("Adding node n3", "failed", "2 of 4 steps done", "7 (add_node)", "dba, in database app"),
        *("2026-01-01 10:00:00 UTC", "2026-01-01 11:23:30 UTC", '{"rack": 1}', "a wait ran out", "host=b"),
        *("✗ not confirmed", "Not shown: n1 cannot be reached", "SELECT '<1>', 'host={dsn:n1}'", "nothing ran"),
        *("wait until n3 has applied the sync event of n1", "could not reach postgresql://me:****@a/x"),
    ):
        assert fact in said


def test_an_operation_that_has_done_nothing_yet_has_a_page() -> None:
    started = replace(RECORD, steps=[STEPS[3]], state="interrupted", error=None, finished_at=None)
    said = " ".join(Page(draw(started, Redactor())).words)
    assert "No step has begun" in said
    assert "Resume it or roll it back" in said


def test_idle_time_is_left_out_of_the_axis() -> None:
    drawn = bars(STEPS, BEGAN)
    axis = Axis(drawn)
    assert axis.stretches == [(0, 20), (5000, 5010)]
    places = [axis.place(moment) for moment in (0, 20, 3000, 5000, 5010)]
    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == pytest.approx(1)
    # Twenty seconds take twice as much as ten.
    assert (places[1] - places[0]) / (places[4] - places[3]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.02, "20 ms"), (0.5, "0.5 s"), (59, "59 s"), (60, "1 min"), (380, "6 min 20 s"), (4000, "1 h 6 min")],
)
def test_durations_are_short(seconds: float, said: str) -> None:
    assert span(seconds) == said


def at(seconds: float, ordinal: int = 2, **measure: Any) -> Sample:
    return Sample(ordinal, BEGAN + timedelta(seconds=seconds), seconds, **measure)


COPY = [
    at(0, stage="structure", bytes_done=50, bytes_total=10_000),
    *(at(1 + n, stage="data", bytes_done=100 + 1000 * n, bytes_total=10_000) for n in range(5)),
    at(7, stage="indexes", tables_done=3, tables_total=3, bytes_done=10_000, bytes_total=10_000),
]


def test_the_rate_of_a_copy_is_that_of_its_rows() -> None:
    assert chart.copy_rate(COPY, BEGAN) == [(1, 1000), *((second, 1000) for second in (2, 3, 4, 5))]
    # One look at the rows tells no rate, and neither do looks that know no size.
    assert chart.copy_rate(COPY[:2], BEGAN) == []
    assert chart.copy_rate([at(1, stage="data"), at(2, stage="data")], BEGAN) == []


def test_a_lag_is_a_line_a_step_and_breaks_where_nothing_is_known() -> None:
    samples = [at(1, 5, lag_bytes=7), at(1, 3, lag_bytes=900), at(2, 3), at(3, 3, lag_bytes=0), at(9, 3, lag_bytes=5)]
    three, five = chart.lags(samples, {3: "wait"}, BEGAN)
    assert (three.number, three.title, five.points) == (3, "wait", [(1, 7)])
    assert three.points == [(1, 900), (2, None), (3, 0), (9, None), (9, 5)]
    drawn = chart.draw([three, five], "lag")
    # 900 bytes alone, then nothing known, then 0 alone, then another try; and the other step.
    assert drawn.count("<polyline") == 4
    assert "wait: 900 B, 1 s after the start" in drawn


@pytest.mark.parametrize(
    ("highest", "said"),
    [(0.0, ["0", "1 B"]), (3, ["0", "1 B", "2 B", "3 B"]), (5 * 1024**2, ["0", "2 MB", "4 MB", "6 MB"])],
)
def test_the_scale_of_a_chart_has_round_sizes(highest: float, said: list[str]) -> None:
    drawn = chart.draw([chart.Series(0, "x", [(0, highest), (1, 0)])], "x")
    assert re.findall(r'text-anchor="end">([^<]*)<', drawn) == said


def unit(number: int, lane: int | None, begin: float | None, end: float | None, **more: Any) -> Unit:
    given: dict[str, Any] = {
        **{"phase_name": "copied", "number": number, "title": f"public.<t{number}>", "state": "done", "lane": lane},
        **{"bytes": 2048, "rows": 1234 * number, "attempts": 1, "error": None},
        "started_at": None if begin is None else BEGAN + timedelta(seconds=begin),
        "finished_at": None if end is None else BEGAN + timedelta(seconds=end),
    }
    return Unit(**given | more)


UNITS = [
    unit(1, 1, 3, 9),
    unit(2, 2, 3, 5, attempts=2),
    unit(3, 2, 5, 11, phase_name="indexes", title="index public.i", rows=None),
    unit(4, 1, 9, None, phase_name="analyzed", error="public.a: password=s3cret is locked"),
    unit(5, 1, 12, None, state="running"),
    unit(6, None, None, None, state="pending"),
]


def test_units_are_bars_of_their_session() -> None:
    found = lanes.bars(UNITS, BEGAN, BEGAN + timedelta(seconds=20))
    assert [(bar.unit.number, bar.lane, bar.begin, bar.end) for bar in found] == [
        *((1, 1, 3, 9), (2, 2, 3, 5), (3, 2, 5, 11), (4, 1, 9, 9), (5, 1, 12, 20))
    ]
    assert found[0].words == "copied public.<t1>: 1,234 rows, 2 kB, 6 s"
    assert found[1].words == "copied public.<t2>: 2,468 rows, 2 kB, 2 s, 2 tries"
    assert found[2].words == "built index public.i: 2 kB, 6 s"
    assert found[4].words.startswith("copied: running public.<t5>: ")
    drawn = lanes.draw(found)
    assert re.findall(r">(session \d)<", drawn) == ["session 1", "session 2"]
    assert re.findall(r'class="bar (\w+)"', drawn) == ["work", "check", "running", "work", "wait"]
    assert "copied public.&lt;t1&gt;: 1,234 rows" in drawn


def test_of_many_units_the_longest_are_shown() -> None:
    many = [unit(n, 1 + n % 2, n, n + (1 if n < 100 else 0.5)) for n in range(lanes.MOST + 50)]
    found = lanes.bars(many, BEGAN, BEGAN)
    assert len(found) == lanes.MOST
    assert {bar.unit.number for bar in found} >= set(range(100))
    said = " ".join(" ".join(Page(draw(replace(RECORD, units=many), Redactor())).words).split())
    assert f"Only the {lanes.MOST} of {lanes.MOST + 50} units that took longest are shown." in said


def test_the_page_has_a_lane_for_each_session() -> None:
    text = draw(replace(RECORD, units=UNITS), Redactor())
    said = " ".join(" ".join(Page(text).words).split())
    assert text.count('<svg class="lanes" ') == 1
    assert 'aria-label="units of the copy over time, by session"' in text
    assert "s3cret" not in text
    # Everything that a bar says when it is pointed at stands in the table too.
    for row in ("1 public.<t1> copied 1,234 2 kB 3 s 6 s 1", "2 index public.i built 2 kB 5 s 6 s 1"):
        assert row in said
    assert "Only the" not in said
    assert '<svg class="lanes"' not in draw(RECORD, Redactor())


def test_the_page_shows_what_was_measured_and_examined() -> None:
    checks = [
        CheckResult("reachable", "reachable", "n1", "fail", True, "connected", "a connection", "", "PASS"),
        CheckResult("clock", "clock", "n3", "warn", False, "off by <3> s, password=s3cret", "2 s", "set it", "WARN"),
    ]
    proved = replace(STEPS[2], state="done", result={"progress": "0/1A", "measure": {"lag_bytes": 0}})
    lags = [at(5000, 3, lag_bytes=2048), at(5001, 3, lag_bytes=0)]
    record = replace(RECORD, steps=[*STEPS[:2], proved], checks=checks, samples=[*COPY, *lags])
    text = draw(record, Redactor())
    said = " ".join(" ".join(Page(text).words).split())
    assert "s3cret" not in text
    assert text.count('class="chart"') == 2
    for fact in (
        *("Copied: 3 of 3 tables, 9.8 kB of about 9.8 kB", "500 B/s", "2 checks: 1 passed, 0 failed, 1 warned"),
        *("WARN clock n3 off by <3> s, password=**** set it", "Checks that passed", "0/1A, 0 B behind ✓ confirmed"),
    ):
        assert fact in said
    level = " ".join(Page(draw(replace(record, samples=lags[1:]), Redactor())).words)
    assert "1 wait for a stream: nothing was missing when Zodan first looked" in level


def compared(table: str, key: dict[str, str] | None, result: str, nodes: dict[str, Any] | None = None) -> VerifyResult:
    counts = (None, None, None, None, None) if key else (5, 4, int(result == "different"), 0, 1.5)
    return VerifyResult(table, key, result, *counts, None, nodes)


def test_what_was_compared_is_shown_with_the_rows_that_differ() -> None:
    has = {"row": {"v": "<old> s3cret"}, "committed": "2026-01-01T10:00:00+00:00", "origin": "n2", "rows": None}
    rows = [
        compared("public.a", None, "different"),
        compared("public.a", {"id": "7"}, "different", {"n1": has, "n3": None}),
        compared("public.b", None, "equal"),
        *(compared("public.b", {"id": str(number)}, "undecided", {}) for number in range(300)),
    ]
    redact = Redactor(["host=a password=s3cret"])
    said = " ".join(" ".join(Page(draw(replace(RECORD, compared=rows), redact)).words).split())
    assert "s3cret" not in said
    for fact in ("Rows compared", 'public.a {"id": "7"}', "<old>", "from n2", "missing", "101 more rows"):
        assert fact in said
    assert "Rows compared" not in draw(RECORD, Redactor())
    step = replace(STEPS[0], kind="verify", state="done", result={"tables": 2, "rows": 12000, "different": 0})
    assert "12,000 rows of 2 tables" in draw(replace(RECORD, steps=[step]), Redactor())
