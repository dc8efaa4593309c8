"""An operation on a terminal: phases as they are done, and nothing lost that is not a step."""

from __future__ import annotations

import io

from rich.console import Console

from zodan_sql.cli.progress import PhaseProgress
from zodan_sql.journal import Step

PLAN = [
    Step(1, 1, "n1", "look at n1", "pending", None, None),
    Step(1, 2, "n2", "look at n2", "pending", None, None),
    Step(2, 3, "n1", "write [x] on n1", "pending", None, None),
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
    assert taken(["operation 3 is taken up again", "+ 9: unknown"], PLAN) == ([False, False], [])
    assert taken(["+ 1: look at n1"], []) == ([False], [])
