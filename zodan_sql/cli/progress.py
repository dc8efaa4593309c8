"""How far an operation has come: on a terminal a line a phase and bars that live, elsewhere a line now and then."""

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

#: How the server tells that a step is done, was found done, or was taken back.
_STEP = re.compile(r"(?P<mark>[+=-]) (?P<ordinal>\d+): (?P<title>.*)", re.DOTALL)

#: Gives the plan of the operation under way, once it has begun.
ReadPlan = Callable[[], Sequence[Step]]

#: Takes a sample of a step that waits, and the rate of its copy in bytes a second.
ShowSample = Callable[[Sample, float | None], None]

#: Seconds between two looks at the samples.
_LOOK_S = 0.5
#: Seconds that a step waits before a line tells of it, and those until the next line: the first, a factor, the most.
_PATIENCE_S = 2.0
_REST_S = 3.0
_REST_GROWS = 1.5
_REST_LONGEST_S = 60.0


class Mode(StrEnum):
    """What --progress asks for."""

    AUTO = "auto"
    PLAIN = "plain"
    NONE = "none"


def is_step(text: str) -> bool:
    """Tell whether a line of the server is about a step."""
    return _STEP.fullmatch(text) is not None


@contextmanager
def watching(watch: Watch, show: ShowSample) -> Iterator[None]:
    """Show samples as they are taken, from a thread of its own."""
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
        # What a server does not answer is not waited for.
        thread.join(_LOOK_S)


class PlainProgress:
    """A line now and then about a step that waits, with rests that grow."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print_line = print_line
        self._next: dict[int, tuple[float, float]] = {}

    def measured(self, sample: Sample, bytes_per_s: float | None) -> None:
        """Take a sample, and print it if it is time to."""
        waited = sample.waited_s or 0.0
        due, rest = self._next.get(sample.ordinal, (_PATIENCE_S, _REST_S))
        if waited < due:
            return
        self._print_line(f"~ {sample.ordinal}: {describe(sample, bytes_per_s)}")
        self._next[sample.ordinal] = (waited + rest, min(rest * _REST_GROWS, _REST_LONGEST_S))


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
            TextColumn(
                "[dim]{task.fields[title]}", markup=True, table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(text, total=None, count="", title="")
        #: The bar of a step that waits, and which one that is.
        self._wait: TaskID | None = None
        self._waiting: int | None = None
        # Steps come from the one thread, samples from another.
        self._lock = threading.Lock()

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
        with self._lock:
            if said["mark"] == "-":
                self._done.discard(step.ordinal)
            else:
                self._done.add(step.ordinal)
            if step.ordinal == self._waiting:
                self._end_wait()
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
        """Show a sample in a bar of its own: of a copy at once, of a stream when it takes its time."""
        with self._lock:
            self._measured(sample, bytes_per_s)

    def _measured(self, sample: Sample, bytes_per_s: float | None) -> None:
        # It may have been taken before its step was told to be done.
        if sample.ordinal in self._done or (not sample.is_copy and (sample.waited_s or 0.0) < _PATIENCE_S):
            return
        if self._wait is None or sample.ordinal != self._waiting:
            self._end_wait()
            self._waiting = sample.ordinal
            self._wait = self._bar.add_task("copying" if sample.is_copy else "waiting", total=None, count="", title="")
        self._bar.update(
            self._wait,
            # Without a total the bar shows that something is going on, and no more.
            total=sample.bytes_total if sample.stage == DATA else None,
            completed=min(sample.bytes_done or 0, sample.bytes_total or 0),
            count=describe_tables(sample) if sample.is_copy else describe(sample),
            title=_unmarked(describe_bytes(sample, bytes_per_s) if sample.is_copy else ""),
        )

    def _end_wait(self) -> None:
        if self._wait is not None:
            self._bar.remove_task(self._wait)
        self._wait = self._waiting = None

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
