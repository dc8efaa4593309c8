"""How far an operation has come: on a terminal a line for each phase and live bars, elsewhere a line now and then."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from zodan_sql.client.journal import Step
from zodan_sql.client.samples import DATA, Sample, Watch, describe, describe_bytes, describe_tables, rate

#: How the server reports that a step is done, was done already, or is undone.
_STEP = re.compile(r"(?P<mark>[+=-]) (?P<ordinal>\d+): (?P<title>.*)", re.DOTALL)

#: Returns the plan of the operation under way, once the operation has begun.
ReadPlan = Callable[[], Sequence[Step]]

#: Takes a sample of a waiting step, and the rate of its copy in bytes a second.
ShowSample = Callable[[Sample, float | None], None]

#: Seconds between two queries for samples.
_LOOK_S = 0.5
#: Seconds that a step waits before a line reports it. Then the seconds to the next line: at first, a factor, at most.
_PATIENCE_S = 2.0
_REST_S = 3.0
_REST_GROWS = 1.5
_REST_LONGEST_S = 60.0


class Mode(StrEnum):
    """The values of --progress."""

    AUTO = "auto"
    PLAIN = "plain"
    NONE = "none"


def is_step(text: str) -> bool:
    """Return whether a line of the server is about a step."""
    return _STEP.fullmatch(text) is not None


@contextmanager
def watching(watch: Watch, show: ShowSample) -> Iterator[None]:
    """Show samples as they arrive, from a separate thread."""
    ended = threading.Event()

    def look() -> None:
        trails: dict[int, list[Sample]] = {}
        while not ended.wait(_LOOK_S):
            for sample in watch.newest():
                trail = trails.setdefault(sample.ordinal, [])
                if not trail or trail[-1] != sample:
                    trail.append(sample)
                if not ended.is_set():
                    show(sample, rate(trail))
        watch.close()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # Do not wait for a server that does not answer.
        thread.join(_LOOK_S)


class PlainProgress:
    """Prints a line now and then about a waiting step, at growing intervals."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print_line = print_line
        self._next: dict[int, tuple[float, float]] = {}

    def measured(self, sample: Sample, bytes_per_s: float | None) -> None:
        """Take a sample, and print a line if one is due."""
        waited = sample.waited_s or 0.0
        due, rest = self._next.get(sample.ordinal, (_PATIENCE_S, _REST_S))
        if waited < due:
            return
        self._print_line(f"~ {sample.ordinal}: {describe(sample, bytes_per_s)}")
        self._next[sample.ordinal] = (waited + rest, min(rest * _REST_GROWS, _REST_LONGEST_S))


class PhaseProgress:
    """Turns the server's lines, one for each step, into phases. Without a plan, it leaves the lines as they are."""

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
            TextColumn(
                "[dim]{task.fields[title]}", markup=True, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(text, total=None, count="", title="")
        #: Bars by ordinal: of steps that copy, which may run side by side, or of one that waits.
        self._waits: dict[int, TaskID] = {}
        # Steps come from one thread, samples from another.
        self._lock = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar; afterwards only the lines above it remain."""
        with self._bar:
            yield

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar while something prints past its console."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def take(self, text: str) -> bool:
        """Take a line of the server. Return True if this display shows its step, so that nobody else prints it."""
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
        with self._lock:
            if said["mark"] == "-":
                self._done.discard(step.ordinal)
            else:
                self._done.add(step.ordinal)
            self._end_wait(step.ordinal)
        self._bar.update(
            self._task,
            completed=len(self._done),
            total=len(self._plan),
            count=f"step {len(self._done)} of {len(self._plan)}",
            title=_unmarked(said["title"]),
        )
        if said["mark"] == "-":
            return False
        self._close_phase([other for other in self._plan.values() if other.phase == step.phase])
        return True

    def measured(self, sample: Sample, bytes_per_s: float | None) -> None:
        """Show a sample in its own bar: of a copy or a comparison at once, of a stream only after a while."""
        with self._lock:
            self._measured(sample, bytes_per_s)

    def _measured(self, sample: Sample, bytes_per_s: float | None) -> None:
        # The sample may be older than the line that reported its step done.
        if sample.ordinal in self._done or (sample.is_stream and (sample.waited_s or 0.0) < _PATIENCE_S):
            return
        if sample.ordinal not in self._waits:
            for other in list(self._waits) if sample.is_stream else []:
                self._end_wait(other)
            self._waits[sample.ordinal] = self._bar.add_task(
                "waiting" if sample.is_stream else "copying" if sample.is_copy else "comparing",
                total=None,
                count="",
                title="",
            )
        self._bar.update(
            self._waits[sample.ordinal],
            # Without a total, the bar shows only that something is going on.
            total=sample.bytes_total if sample.stage == DATA else None,
            completed=min(sample.bytes_done or 0, sample.bytes_total or 0),
            count=describe(sample) if sample.is_stream else describe_tables(sample),
            title=_unmarked("" if sample.is_stream else describe_bytes(sample, bytes_per_s)),
        )

    def _end_wait(self, ordinal: int) -> None:
        if ordinal in self._waits:
            self._bar.remove_task(self._waits.pop(ordinal))

    def _close_phase(self, phase: Sequence[Step]) -> None:
        if any(step.ordinal not in self._done for step in phase):
            return
        now = time.monotonic()
        more = f", and {len(phase) - 1} more" if len(phase) > 1 else ""
        self._console.print(
            f"  {phase[0].phase:>2}  {now - self._phase_began:>5.1f} s  {phase[0].title}{more}", overflow="ellipsis"
        )
        self._phase_began = now


def _unmarked(text: str) -> str:
    return text.replace("[", r"\[")
