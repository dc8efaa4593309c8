"""The time axis of the charts of a page. It leaves out the time in which nothing ran."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zodan_sql.words import span

#: Idle time longer than both is left out: these seconds, and this part of all the time in which something ran.
_IDLE_S = 5.0
_IDLE_PART = 0.15
#: Width of a gap for idle time, as a part of the whole axis.
CUT = 0.03

WIDTH = 1000.0
#: Width of the labels left of the axis.
LABEL = 92.0
_TICKS = 8
#: Half the width of a label: no label is closer to the right edge.
_HALF_LABEL = 24.0
_NICE_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400, 604800)


@dataclass(frozen=True)
class Part:
    """A stretch of time in which something ran, in seconds since the beginning."""

    begin: float
    end: float


class Axis:
    """Maps a moment, in seconds, to its place on a line from 0 to 1."""

    def __init__(self, parts: Iterable[Part]) -> None:
        spans: list[tuple[float, float]] = []
        for begin, end in sorted((part.begin, part.end) for part in parts):
            if spans and begin <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((begin, end))
        busy = sum(end - begin for begin, end in spans)
        longest = max(_IDLE_S, _IDLE_PART * busy)
        #: Stretches of time between the idle times that are left out.
        self.stretches: list[tuple[float, float]] = []
        for begin, end in spans:
            if self.stretches and begin - self.stretches[-1][1] <= longest:
                self.stretches[-1] = (self.stretches[-1][0], end)
            else:
                self.stretches.append((begin, end))
        self.length = sum(end - begin for begin, end in self.stretches) or 1.0
        self._scale = max(0.1, 1 - CUT * (len(self.stretches) - 1)) / self.length

    def place(self, moment: float) -> float:
        """Return the place of a moment. A moment that is left out is at the end of the stretch before it."""
        place = 0.0
        for begin, end in self.stretches:
            place += max(0.0, min(moment, end) - begin) * self._scale
            if moment <= end:
                break
            place += CUT
        return min(place, 1.0)


def ticks(axis: Axis) -> list[tuple[float, str]]:
    """Return the marks of an axis: where each is, and its label, the time since the beginning."""
    each = next((nice for nice in _NICE_S if axis.length / nice <= _TICKS), _NICE_S[-1])
    found: list[tuple[float, str]] = []
    for number, (begin, end) in enumerate(axis.stretches):
        first = int(begin / each) * each
        moments = [begin] if number else []
        moments += [first + each * count for count in range(int((end - first) / each) + 1)]
        for moment in moments:
            if begin <= moment <= end:
                at = x(axis.place(moment))
                if all(abs(at - other) > 45 for other, _ in found):
                    found.append((at, span(moment) if moment else "0"))
    return found


def x(place: float) -> float:
    """Return the distance of a place on the axis from the left edge of a chart."""
    return LABEL + place * (WIDTH - LABEL - 8)


def grid(axis: Axis, top: float, bottom: float) -> list[str]:
    """Return the marks of an axis as SVG: lines with their labels, and stripes for idle time that is left out."""
    lines = [
        f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 6:.0f}" y2="{bottom:.1f}"/>'
        f'<text x="{min(at, x(1) - _HALF_LABEL):.1f}" y="{top - 11:.0f}" text-anchor="middle">{label}</text>'
        for at, label in ticks(axis)
    ]
    cuts = [
        f'<rect class="cut" x="{x(axis.place(end)):.1f}" y="{top - 6:.0f}" width="{CUT * (WIDTH - LABEL):.1f}" '
        f'height="{bottom - top + 6:.1f}"><title>nothing ran for {span(begin - end)}</title></rect>'
        for (_, end), (begin, _) in zip(axis.stretches, axis.stretches[1:], strict=False)
    ]
    return [*lines, *cuts]
