"""An operation on a terminal: a line for every phase that is done, and a bar below them that lives."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from zodan_sql.journal import Step

#: How the server tells that a step is done, was found done, or was taken back.
_STEP = re.compile(r"(?P<mark>[+=-]) (?P<ordinal>\d+): (?P<title>.*)", re.DOTALL)

#: Gives the plan of the operation under way, once it has begun.
ReadPlan = Callable[[], Sequence[Step]]


class PhaseProgress:
    """Turns the server's lines, a step each, into phases. Without a plan to read it leaves them as they are."""

    def __init__(self, console: Console, text: str, read_plan: ReadPlan) -> None:
        self._console = console
        self._read_plan = read_plan
        self._plan: dict[int, Step] | None = None
        self._done: set[int] = set()
        self._phase_began = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[title]}", markup=True),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(text, total=None, count="", title="")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar; afterwards only the lines above it are left."""
        with self._bar:
            yield

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Make room for what is printed past the console of the bar."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def take(self, text: str) -> bool:
        """Take a line of the server; tell whether it was a step that is shown here, and not to be printed."""
        said = _STEP.fullmatch(text)
        if said is None:
            return False
        if self._plan is None:
            self._plan = {step.ordinal: step for step in self._read_plan()}
            if said["mark"] == "-":
                self._done = set(self._plan)
        step = self._plan.get(int(said["ordinal"]))
        if step is None:
            return False
        if said["mark"] == "-":
            self._done.discard(step.ordinal)
        else:
            self._done.add(step.ordinal)
        self._bar.update(
            self._task,
            completed=len(self._done),
            total=len(self._plan),
            count=f"step {len(self._done)} of {len(self._plan)}",
            title=said["title"].replace("[", r"\["),
        )
        if said["mark"] == "-":
            return False
        self._close_phase([other for other in self._plan.values() if other.phase == step.phase])
        return True

    def _close_phase(self, phase: Sequence[Step]) -> None:
        if any(step.ordinal not in self._done for step in phase):
            return
        now = time.monotonic()
        more = f", and {len(phase) - 1} more" if len(phase) > 1 else ""
        self._console.print(
            f"  {phase[0].phase:>2}  {now - self._phase_began:>5.1f} s  {phase[0].title}{more}", overflow="ellipsis"
        )
        self._phase_began = now
