"""Charts of measurements over time, as inline SVG: the rate of the copy, and the lag of the streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import groupby

from zodan_sql.client.samples import DATA, Sample
from zodan_sql.showing.report.axis import LABEL, WIDTH, Axis, Part, grid, x
from zodan_sql.words import size, span

_TOP = 26.0
_HEIGHT = 150.0
_LINES = 4
_DOTS = 60
#: A rate covers at least these seconds and this part of the copy, because shorter ones are noise.
_SHORTEST_S = 0.5
_PART = 1 / 60

#: A moment, in seconds since the first step, and a number of bytes, None if unknown.
Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """The points of one line of a chart, with its title and the number beside it (0 for none)."""

    number: int
    title: str
    points: list[Point]


def copy_rate(samples: Sequence[Sample], first: datetime) -> list[Point]:
    """Return the rate of a copy in bytes a second, while it copied rows."""
    known = [
        ((sample.taken_at - first).total_seconds(), sample.bytes_done)
        for sample in samples
        if sample.stage == DATA and sample.bytes_done is not None
    ]
    if len(known) < 2:
        return []
    shortest = max(_SHORTEST_S, (known[-1][0] - known[0][0]) * _PART)
    points: list[Point] = []
    since, then = known[0]
    for at, done in known[1:]:
        if at - since >= shortest:
            points.append((at, max(0, done - then) / (at - since)))
            since, then = at, done
    # The line begins where the copy does.
    return [(known[0][0], points[0][1]), *points] if points else []


def lags(samples: Iterable[Sample], titles: Mapping[int, str], first: datetime) -> list[Series]:
    """Return the lag of the stream that each step waited for, one series for each step."""
    streams = sorted((sample for sample in samples if sample.is_stream), key=lambda each: each.ordinal)
    found = []
    for ordinal, members in groupby(streams, key=lambda each: each.ordinal):
        points: list[Point] = []
        for sample in members:
            at = (sample.taken_at - first).total_seconds()
            # A wait ends when nothing is missing. What follows is another try of the step.
            points += [(at, None)] if points and points[-1][1] == 0 else []
            points.append((at, sample.lag_bytes))
        found.append(Series(ordinal, titles.get(ordinal, ""), points))
    return found


def draw(series: Sequence[Series], label: str, per: str = "") -> str:
    """Return a chart as SVG in the colours of the page. ``per`` follows the sizes, such as /s."""
    axis = Axis(Part(each.points[0][0], each.points[-1][0]) for each in series)
    highest = max((value or 0.0 for each in series for _, value in each.points), default=0.0)
    step = _nice(highest)
    top = max(step, step * -(-highest // step))
    bottom = _TOP + _HEIGHT

    def y(value: float) -> float:
        return bottom - value / top * _HEIGHT

    levels = []
    for level in (step * number for number in range(round(top / step) + 1)):
        said, at = size(level) + per if level else "0", y(level)
        levels += [
            f'<line class="grid" x1="{LABEL:.0f}" x2="{WIDTH:.0f}" y1="{at:.1f}" y2="{at:.1f}"/>',
            f'<text x="{LABEL - 10:.0f}" y="{at + 4:.1f}" text-anchor="end">{said}</text>',
        ]
    drawn = [part for each in series for part in _line(each, axis, y, filled=len(series) == 1)]
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH:.0f} {bottom + 10:.0f}" role="img" aria-label="{escape(label)}">'
        + "\n".join([*levels, *grid(axis, _TOP, bottom), *drawn])
        + "</svg>"
    )


def _line(series: Series, axis: Axis, y: Callable[[float], float], *, filled: bool) -> list[str]:
    parts: list[str] = []
    runs: list[list[tuple[float, float]]] = [[]]
    for moment, value in series.points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x(axis.place(moment)), y(value)))
    for run in filter(None, runs):
        path = " ".join(f"{at:.1f},{height:.1f}" for at, height in run)
        if filled and len(run) > 1:
            parts.append(f'<polygon points="{run[0][0]:.1f},{y(0):.1f} {path} {run[-1][0]:.1f},{y(0):.1f}"/>')
        parts.append(f'<polyline points="{path}"/>')
    # Many dots would hide the line, so they are small and only show their values.
    radius = 2.4 if len(series.points) <= _DOTS else 1
    for moment, value in series.points:
        if value is not None:
            said = escape(f"{series.title}: {size(value)}, {span(moment)} after the start")
            at, height = x(axis.place(moment)), y(value)
            parts.append(f'<circle cx="{at:.1f}" cy="{height:.1f}" r="{radius}"><title>{said}</title></circle>')
    highest = max(((value, moment) for moment, value in series.points if value), default=None)
    if series.number and highest is not None:
        at, height = x(axis.place(highest[1])), y(highest[0])
        parts.append(f'<text class="number" x="{at + 4:.1f}" y="{height - 7:.1f}">{series.number}</text>')
    return parts


def _nice(highest: float) -> float:
    """Return the step between the lines of a chart: a round size that makes only a few lines."""
    unit = 1.0
    while True:
        for count in (1, 2, 5, 10, 20, 50, 100, 200, 500):
            if highest <= unit * count * _LINES:
                return unit * count
        unit *= 1024
