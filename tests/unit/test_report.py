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
from zodan_sql.client.redaction import Redactor
from zodan_sql.client.samples import Sample
from zodan_sql.client.topology import Stream
from zodan_sql.showing.report import chart, draw
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
