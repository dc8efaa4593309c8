"""Steps over time: a Gantt chart with a lane for each node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from zodan_sql.showing.report.axis import LABEL, WIDTH, Axis, Part, grid, x
from zodan_sql.showing.report.record import RecordedStep
from zodan_sql.words import span

_BAR = 15.0
_PITCH = 19.0
_LANE_GAP = 9.0
_TOP = 26.0
_THINNEST = 2.5


@dataclass(frozen=True)
class Bar(Part):
    """A step that has begun, in seconds since the first step."""

    step: RecordedStep

    @property
    def kind(self) -> str:
        """The kind of the bar, which decides its colour: work, wait, check, failed, undone or running."""
        if self.step.state in ("failed", "undone", "running"):
            return self.step.state
        if self.step.kind == "verify":
            return "check"
        return "wait" if self.step.until_sql else "work"


def bars(steps: Sequence[RecordedStep], now: datetime) -> list[Bar]:
    """Return the steps that have begun; a running step lasts until ``now``."""
    begun = [(step, step.started_at) for step in steps if step.started_at is not None]
    if not begun:
        return []
    first = min(started for _, started in begun)
    found = []
    for step, started in begun:
        # If the caller died before a step ran again, the step keeps an end from before its beginning.
        finished = step.finished_at or (now if step.state == "running" else started)
        begin = (started - first).total_seconds()
        found.append(Bar(begin, max(begin, (finished - first).total_seconds()), step))
    return found


def gantt(drawn: Sequence[Bar], nodes: Sequence[str]) -> str:
    """Return the chart as SVG in the colours of the page, with a lane for each node."""
    axis = Axis(drawn)
    lanes: list[str] = []
    parts: list[str] = []
    y = _TOP
    for number, node in enumerate(nodes):
        rows = _pack([bar for bar in drawn if bar.step.node == node], axis)
        height = max(1, len(rows)) * _PITCH + _LANE_GAP
        if number % 2 == 0:
            lanes.append(f'<rect class="lane" x="0" y="{y:.1f}" width="{WIDTH:.0f}" height="{height:.1f}"/>')
        parts.append(f'<text class="node" x="8" y="{y + _LANE_GAP / 2 + 13:.1f}">{escape(_cut(node))}</text>')
        for row, members in enumerate(rows):
            parts += [_draw(bar, axis, y + _LANE_GAP / 2 + row * _PITCH) for bar in members]
        y += height
    return (
        f'<svg class="gantt" viewBox="0 0 {WIDTH:.0f} {y + 6:.0f}" role="img" aria-label="steps over time, by node">'
        + "\n".join([*lanes, *grid(axis, _TOP, y), *parts])
        + "</svg>"
    )


def _pack(of_node: Sequence[Bar], axis: Axis) -> list[list[Bar]]:
    """Put bars into as few rows as possible, so that no bar hides another."""
    rows: list[list[Bar]] = []
    ends: list[float] = []
    thinnest = _THINNEST / (WIDTH - LABEL)
    for bar in sorted(of_node, key=lambda bar: (bar.begin, bar.step.ordinal)):
        begin = axis.place(bar.begin)
        row = next((number for number, end in enumerate(ends) if end <= begin + 1e-9), len(rows))
        if row == len(rows):
            rows.append([])
            ends.append(0.0)
        rows[row].append(bar)
        ends[row] = max(axis.place(bar.end), begin + thinnest)
    return rows


def _draw(bar: Bar, axis: Axis, y: float) -> str:
    left, right = x(axis.place(bar.begin)), x(axis.place(bar.end))
    width = max(right - left, _THINNEST - 0.5)
    said = f"{bar.step.ordinal}: {bar.step.title} ({span(bar.end - bar.begin)})"
    number = (
        f'<text class="number" x="{left + width / 2:.1f}" y="{y + 11.5:.1f}">{bar.step.ordinal}</text>'
        if width > 17
        else ""
    )
    return (
        f'<g class="bar {bar.kind}"><title>{escape(said)}</title>'
        f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_BAR:.0f}" rx="2"/>{number}</g>'
    )


def _cut(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:5]}…{name[-4:]}"
