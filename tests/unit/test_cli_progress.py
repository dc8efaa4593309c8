"""How far an operation has come: on a terminal phases as they are done, elsewhere lines, and what a wait measures."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from zodan_sql.cli.progress import PhaseProgress, PlainProgress, watching
from zodan_sql.client.journal import Step
from zodan_sql.client.samples import Sample, Watch, describe, rate

PLAN = [
    Step(1, "phase", 1, "act", "n1", None, "look at n1", "pending", None, None),
    Step(1, "phase", 2, "act", "n2", None, "look at n2", "pending", None, None),
    Step(2, "phase", 3, "act", "n1", None, "write [x] on n1", "pending", None, None),
]


def taken(lines: list[str], plan: list[Step]) -> tuple[list[bool], list[str]]:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=120, markup=False, highlight=False, color_system=None
    )
    progress = PhaseProgress(console, "adding n4", lambda: plan)
    with progress.shown():
        shown = [progress.take(line) for line in lines]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return shown, [line.split(" s  ")[1] for line in text.splitlines() if " s  " in line]


def test_a_phase_is_a_line_once_all_its_steps_are_done() -> None:
    shown, lines = taken(["= 2: look at n2", "+ 1: look at n1", "+ 3: write [x] on n1"], PLAN)
    assert shown == [True] * 3
    assert lines == ["look at n1, and 1 more", "write [x] on n1"]


def test_what_is_taken_back_is_printed_and_counts_again() -> None:
    shown, lines = taken(["+ 3: write [x] on n1", "- 3: write [x] on n1", "+ 3: write [x] on n1"], PLAN)
    assert shown == [True, False, True]
    assert lines == ["write [x] on n1"] * 2


def test_what_is_no_step_of_the_plan_is_left_to_be_printed() -> None:
    assert taken(["operation 3 continues where it stopped", "+ 9: unknown"], PLAN) == ([False, False], [])
    assert taken(["+ 1: look at n1"], []) == ([False], [])


BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
MB = 1024**2
COPY = Sample(2, BEGAN, 4.0, "data", 3, 12, 100 * MB, 300 * MB, "public.t[1]", 7)
LAG = Sample(3, BEGAN, 4.0, lag_bytes=12 * MB)
BUILD = Sample(3, BEGAN, 4.0, "indexes", 0, 3, 0, 3, "index public.t_pkey", 7)


def drawn(*works: Callable[[PhaseProgress], object]) -> list[str]:
    """Do one thing after the other with a terminal's display, and return what it showed after each."""
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    progress = PhaseProgress(console, "adding n4", lambda: PLAN)
    with progress.shown():
        for work in works:
            work(progress)
            # Making room draws it a last time.
            with progress.hidden():
                console.print("made room")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [part.rpartition("adding n4")[2] for part in text.split("made room")[: len(works)]]


def after(seconds: float, bytes_done: int | None, stage: str = "data") -> Sample:
    return replace(COPY, taken_at=BEGAN + timedelta(seconds=seconds), stage=stage, bytes_done=bytes_done)


@pytest.mark.parametrize(
    ("sample", "bytes_per_s", "said"),
    [
        (COPY, 10.0 * MB, "copy: 3 of 12 tables, 100 MB of about 300 MB, 10 MB/s, about 20 s left, now public.t[1]"),
        (COPY, None, "copy: 3 of 12 tables, 100 MB of about 300 MB, rate unknown, time left unknown, now public.t[1]"),
        (COPY, 0.0, "copy: 3 of 12 tables, 100 MB of about 300 MB, 0 B/s, time left unknown, now public.t[1]"),
        (
            replace(COPY, tables_total=None, bytes_total=None, table=None),
            1.0 * MB,
            "copy: 3 tables of an unknown number, 100 MB of an unknown total, 1 MB/s, time left unknown",
        ),
        # More than the source has: nobody knows how much more.
        (
            replace(COPY, bytes_done=400 * MB, tables_total=1, tables_done=None),
            1.0 * MB,
            "copy: unknown of 1 table, 400 MB of about 300 MB, 1 MB/s, time left unknown, now public.t[1]",
        ),
        (
            replace(COPY, stage="indexes", tables_done=12),
            None,
            "copy: 12 of 12 tables, building indexes and constraints, now public.t[1]",
        ),
        (
            replace(COPY, stage="verify", tables_done=2, bytes_done=None, bytes_total=None, table="public.t"),
            None,
            "comparison: 2 of 12 tables, comparing rows, now public.t",
        ),
        (LAG, None, "12 MB behind"),
        (replace(LAG, lag_bytes=0), None, "0 B behind"),
        (replace(LAG, lag_bytes=None), None, "an unknown amount behind"),
    ],
)
def test_a_sample_says_what_is_known(sample: Sample, bytes_per_s: float | None, said: str) -> None:
    assert describe(sample, bytes_per_s) == said


def test_a_rate_is_that_of_the_last_seconds_or_unknown() -> None:
    assert rate([]) is None
    assert rate([after(0, 0)]) is None
    assert rate([after(0, 0), after(0.5, 100)]) is None
    assert rate([after(0, 0), after(2, 100)]) == 50
    # Slow for long, then fast: the last ten seconds count.
    assert rate([after(0, 0), after(100, 100), after(110, 10_100)]) == 1000
    assert rate([after(0, 0, "structure"), after(2, 100)]) is None
    assert rate([after(0, 0), after(2, 100, "indexes")]) is None
    assert rate([after(0, None), after(2, None)]) is None
    assert rate([after(0, 100), after(2, 50)]) == 0


def test_plain_lines_come_with_rests_that_grow_to_a_minute() -> None:
    lines: list[str] = []
    plain = PlainProgress(lines.append)
    printed = []
    for second in range(2000):
        plain.measured(replace(COPY, waited_s=float(second), bytes_done=second), None)
        if len(lines) > len(printed):
            printed.append(second)
    rests = [later - earlier for earlier, later in itertools.pairwise(printed)]
    assert printed[0] == 2
    assert rests == sorted(rests)
    assert rests[0] >= 3
    assert rests[-1] == 60
    assert (
        lines[0] == "~ 2: copy: 3 of 12 tables, 2 B of about 300 MB, rate unknown, time left unknown, now public.t[1]"
    )
    plain.measured(replace(LAG, waited_s=1.0), None)
    plain.measured(replace(LAG, waited_s=None), None)
    plain.measured(LAG, None)
    assert lines[len(printed) :] == ["~ 3: 12 MB behind"]


def test_a_terminal_shows_a_wait_until_its_step_is_done() -> None:
    first, second, third = drawn(
        lambda progress: progress.measured(LAG, None),
        lambda progress: progress.measured(COPY, 10.0 * MB),
        lambda progress: (progress.take("+ 2: look at n2"), progress.measured(COPY, 10.0 * MB)),
    )
    assert "waiting" in first
    assert "12 MB behind" in first
    assert "3 of 12 tables" in second
    assert "100 MB of about 300 MB, 10 MB/s, about 20 s left, now public.t[1]" in second
    assert "tables" not in third


def test_a_terminal_shows_what_is_copied_and_what_is_built_beside_it() -> None:
    first, second = drawn(
        lambda progress: (progress.measured(COPY, None), progress.measured(BUILD, None)),
        lambda progress: (progress.take("+ 2: look at n2"), progress.measured(BUILD, None)),
    )
    assert first.count("copying") == 2
    assert second.count("copying") == 1


class Told(Watch):
    """Gives samples without a database."""

    def __init__(self, *told: Sample) -> None:
        super().__init__("host=none", 1, "add_node", "n4")
        self._told = list(told)
        self.closed = False

    def newest(self) -> list[Sample]:
        return [self._told.pop(0)] if self._told else []

    def close(self) -> None:
        self.closed = True


def test_samples_are_shown_with_their_rate_while_the_work_goes_on() -> None:
    shown: list[tuple[int | None, float | None]] = []
    both = threading.Event()

    def show(sample: Sample, bytes_per_s: float | None) -> None:
        shown.append((sample.bytes_done, bytes_per_s))
        if len(shown) == 2:
            both.set()

    watch = Told(after(0, 100), after(2, 300))
    with watching(watch, show):
        assert both.wait(30)
    assert shown == [(100, None), (300, 100)]


def test_a_database_that_does_not_answer_tells_nothing() -> None:
    watch = Watch("host=127.0.0.1 port=1 dbname=x password=s3cret", None, "add_node", "n4")
    assert watch.newest() == []
    watch.close()
