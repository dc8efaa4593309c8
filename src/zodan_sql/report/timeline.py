"""Steps in time: an axis that leaves out the time in which nothing ran, and a Gantt chart of lanes by node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from zodan_sql.report.record import RecordedStep

#: Nothing running for longer than this, and than that part of all the time in which something ran, is left out.
_IDLE_S = 5.0
_IDLE_PART = 0.15
#: What is left of it on the axis, as a part of the whole.
_CUT = 0.03

_WIDTH = 1000.0
_LABEL = 92.0
_BAR = 15.0
_PITCH = 19.0
_LANE_GAP = 9.0
_TOP = 26.0
_THINNEST = 2.5
_TICKS = 8
_NICE_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400, 604800)


@dataclass(frozen=True)
class Bar:
    """A step that has begun, in seconds since the first one."""

    step: RecordedStep
    begin: float
    end: float

    @property
    def kind(self) -> str:
        """work, wait, check, failed, undone or running: how it is coloured."""
        if self.step.state in ("failed", "undone", "running"):
            return self.step.state
        if self.step.checks:
            return "check"
        return "wait" if self.step.until_sql else "work"


class Axis:
    """Where on a line, from 0 to 1, a moment lies."""

    def __init__(self, bars: Iterable[Bar]) -> None:
        spans: list[tuple[float, float]] = []
        for begin, end in sorted((bar.begin, bar.end) for bar in bars):
            if spans and begin <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((begin, end))
        busy = sum(end - begin for begin, end in spans)
        longest = max(_IDLE_S, _IDLE_PART * busy)
        #: Stretches of time without an idle while in between.
        self.stretches: list[tuple[float, float]] = []
        for begin, end in spans:
            if self.stretches and begin - self.stretches[-1][1] <= longest:
                self.stretches[-1] = (self.stretches[-1][0], end)
            else:
                self.stretches.append((begin, end))
        self.length = sum(end - begin for begin, end in self.stretches) or 1.0
        self._scale = max(0.1, 1 - _CUT * (len(self.stretches) - 1)) / self.length

    def place(self, moment: float) -> float:
        """Return the place of a moment; one that is left out lies at the end of the stretch before it."""
        place = 0.0
        for begin, end in self.stretches:
            place += max(0.0, min(moment, end) - begin) * self._scale
            if moment <= end:
                break
            place += _CUT
        return min(place, 1.0)


def bars(steps: Sequence[RecordedStep], now: datetime) -> list[Bar]:
    """Return the steps that have begun; one that runs lasts until ``now``."""
    begun = [(step, step.started_at) for step in steps if step.started_at is not None]
    if not begun:
        return []
    first = min(started for _, started in begun)
    found = []
    for step, started in begun:
        # A step that was to run again when its caller died keeps an end from before its beginning.
        finished = step.finished_at or (now if step.state == "running" else started)
        begin = (started - first).total_seconds()
        found.append(Bar(step, begin, max(begin, (finished - first).total_seconds())))
    return found


def gantt(drawn: Sequence[Bar], nodes: Sequence[str]) -> str:
    """Return the chart as SVG, a lane a node; its colours are the page's."""
    axis = Axis(drawn)
    lanes: list[str] = []
    parts: list[str] = []
    y = _TOP
    for number, node in enumerate(nodes):
        rows = _pack([bar for bar in drawn if bar.step.node == node], axis)
        height = max(1, len(rows)) * _PITCH + _LANE_GAP
        if number % 2 == 0:
            lanes.append(f'<rect class="lane" x="0" y="{y:.1f}" width="{_WIDTH:.0f}" height="{height:.1f}"/>')
        parts.append(f'<text class="node" x="8" y="{y + _LANE_GAP / 2 + 13:.1f}">{escape(_cut(node))}</text>')
        for row, members in enumerate(rows):
            parts += [_draw(bar, axis, y + _LANE_GAP / 2 + row * _PITCH) for bar in members]
        y += height
    grid = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6:.0f}" y2="{y:.1f}"/>'
        f'<text x="{x:.1f}" y="{_TOP - 11:.0f}" text-anchor="middle">{label}</text>'
        for x, label in _ticks(axis)
    ]
    cuts = [
        f'<rect class="cut" x="{_x(axis.place(end)):.1f}" y="{_TOP - 6:.0f}" width="{_CUT * (_WIDTH - _LABEL):.1f}" '
        f'height="{y - _TOP + 6:.1f}"><title>nothing ran for {span(begin - end)}</title></rect>'
        for (_, end), (begin, _) in zip(axis.stretches, axis.stretches[1:], strict=False)
    ]
    return (
        f'<svg class="gantt" viewBox="0 0 {_WIDTH:.0f} {y + 6:.0f}" role="img" aria-label="steps in time, by node">'
        + "\n".join([*lanes, *grid, *cuts, *parts])
        + "</svg>"
    )


def span(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _pack(of_node: Sequence[Bar], axis: Axis) -> list[list[Bar]]:
    """Lay bars into as few rows as they need so that none hides another."""
    rows: list[list[Bar]] = []
    ends: list[float] = []
    thinnest = _THINNEST / (_WIDTH - _LABEL)
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
    left, right = _x(axis.place(bar.begin)), _x(axis.place(bar.end))
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


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    each = next((nice for nice in _NICE_S if axis.length / nice <= _TICKS), _NICE_S[-1])
    found: list[tuple[float, str]] = []
    for number, (begin, end) in enumerate(axis.stretches):
        first = int(begin / each) * each
        moments = [begin] if number else []
        moments += [first + each * count for count in range(int((end - first) / each) + 1)]
        for moment in moments:
            if begin <= moment <= end:
                x = _x(axis.place(moment))
                if all(abs(x - other) > 45 for other, _ in found):
                    found.append((x, span(moment) if moment else "0"))
    return found


def _x(place: float) -> float:
    return _LABEL + place * (_WIDTH - _LABEL - 8)


def _cut(name: str) -> str:
    return name if len(name) <= 10 else f"{name[:5]}…{name[-4:]}"
