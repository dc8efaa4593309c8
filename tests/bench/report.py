"""What was measured: printed as it comes, and at the end a table for each kind, of medians."""

from __future__ import annotations

from collections import defaultdict
from statistics import median

from rich.console import Console
from rich.table import Table

#: A median of repetitions takes those that have a value.
Values = dict[str, float | None]


class Report:
    """Collects the repetitions of each measurement."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._kinds: dict[str, dict[str, list[Values]]] = defaultdict(lambda: defaultdict(list))

    def add(self, kind: str, what: str, values: Values) -> None:
        """Take one repetition of ``what``, and print it."""
        self._kinds[kind][what].append(values)
        self.note(f"{what}: " + ", ".join(f"{name} {_shown(value)}" for name, value in values.items()))

    def note(self, text: str) -> None:
        """Print a line that belongs to no table."""
        self._console.print(text, highlight=False)

    def show(self) -> None:
        """Print all tables."""
        for kind, measured in self._kinds.items():
            columns = list(dict.fromkeys(name for every in measured.values() for one in every for name in one))
            table = Table(title=kind, title_justify="left", show_edge=False)
            table.add_column("what")
            for name in columns:
                table.add_column(name, justify="right")
            for what, every in measured.items():
                table.add_row(what, *(_shown(_median([one.get(name) for one in every])) for name in columns))
            self._console.print()
            self._console.print(table)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
