"""The units of a copy over time: a chart with a lane for each session, and what its bars say in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from zodan_sql.client.journal import Unit
from zodan_sql.showing.report.axis import WIDTH, Axis, Part, grid, x
from zodan_sql.words import size, span

#: Units that are drawn and listed: those that took longest.
MOST = 500
#: What a phase does with its units, and the colour of its bars.
_PHASES = {"copied": ("copied", "work"), "indexes": ("built", "wait"), "analyzed": ("analyzed", "check")}
_BAR = 15.0
_PITCH = 24.0
_TOP = 26.0
_THINNEST = 1.0


@dataclass(frozen=True)
class UnitBar(Part):
    """A unit that a session has begun, in seconds since the first step."""

    unit: Unit
    lane: int

    @property
    def kind(self) -> str:
        """The kind of the bar, which decides its colour."""
        return (
            self.unit.state
            if self.unit.state in ("failed", "running")
            else _PHASES.get(self.unit.phase_name, ("", "work"))[1]
        )

    @property
    def what(self) -> str:
        """What the session does with the unit, in a word."""
        word = _PHASES.get(self.unit.phase_name, (self.unit.phase_name, ""))[0]
        return word if self.unit.state == "done" else f"{word}: {self.unit.state}"

    @property
    def took(self) -> str:
        """How long the last try took; empty if nobody heard of its end."""
        return "" if self.unit.finished_at is None and self.unit.state != "running" else span(self.end - self.begin)

    @property
    def words(self) -> str:
        """The whole bar in words."""
        facts = [
            "" if self.unit.rows is None else f"{self.unit.rows:,} rows",
            size(self.unit.bytes),
            self.took,
            f"{self.unit.attempts} tries" if self.unit.attempts > 1 else "",
            self.unit.error or "",
        ]
        return f"{self.what} {self.unit.title}: " + ", ".join(filter(None, facts))


def bars(units: Sequence[Unit], first: datetime, now: datetime) -> list[UnitBar]:
    """Return the units that a session has begun, the longest of them; a running unit lasts until ``now``."""
    found = []
    for unit in units:
        if unit.started_at is None or unit.lane is None:
            continue
        # If the caller died before it could hear of the end, the unit has none.
        finished = unit.finished_at or (now if unit.state == "running" else unit.started_at)
        begin = (unit.started_at - first).total_seconds()
        found.append(UnitBar(begin, max(begin, (finished - first).total_seconds()), unit, unit.lane))
    longest = sorted(found, key=lambda bar: bar.begin - bar.end)[:MOST]
    return sorted(longest, key=lambda bar: (bar.begin, bar.lane))


def draw(drawn: Sequence[UnitBar]) -> str:
    """Return the chart as SVG in the colours of the page, with a lane for each session."""
    axis = Axis(drawn)
    lanes = sorted({bar.lane for bar in drawn})
    bottom = _TOP + _PITCH * len(lanes)
    parts: list[str] = []
    for row in range(0, len(lanes), 2):
        top = _TOP + _PITCH * row
        parts.append(f'<rect class="lane" x="0" y="{top:.1f}" width="{WIDTH:.0f}" height="{_PITCH:.0f}"/>')
    parts += grid(axis, _TOP, bottom)
    for row, lane in enumerate(lanes):
        top = _TOP + _PITCH * row + (_PITCH - _BAR) / 2
        parts.append(f'<text class="node" x="8" y="{top + 12:.1f}">session {lane}</text>')
        for bar in drawn:
            if bar.lane == lane:
                left, right = x(axis.place(bar.begin)), x(axis.place(bar.end))
                parts.append(
                    f'<g class="bar {bar.kind}"><title>{escape(bar.words)}</title>'
                    f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 0.5, _THINNEST):.1f}"'
                    f' height="{_BAR:.0f}" rx="2"/></g>'
                )
    return (
        f'<svg class="lanes" viewBox="0 0 {WIDTH:.0f} {bottom + 6:.0f}" role="img"'
        ' aria-label="units of the copy over time, by session">' + "\n".join(parts) + "</svg>"
    )
