"""A topology as SVG: nodes on a circle, a bent arrow for every stream, so that the two directions do not overlap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from zodan_sql.client.topology import Health, Stream, node_names
from zodan_sql.showing.picture.words import describe, missing, summary, unreachable
from zodan_sql.words import size

_NODE_HEIGHT = 40
_NODE_GAP = 7
_HEAD = 9
#: Distance of an arrow from the straight line at its ends, and how much more in its middle.
_ASIDE = 5.0
_BEND = 13.0
#: Place of the label on an arrow: near the subscriber, whose lag it shows, and away from the crossings.
_LABEL_AT = 0.66
#: With more nodes than this, the picture shows only notable lags, and one line for both directions.
_ROOMY = 5
_NOTABLE_LAG = 1024 * 1024
_MARGIN = 28
_LEGEND_WIDTH = 118
_LEGEND_HEIGHT = 54
_SAMPLES = 200

_WORDS: dict[Health, str] = {
    "good": "replicating",
    "busy": "in progress",
    "off": "switched off",
    "bad": "has a problem",
}

# No variables, because not every SVG renderer supports them. A renderer without media queries shows the light colours.
_STYLE = """
.zt { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; }
.zt .paper { fill: #ffffff; }
.zt .node rect { fill: #eef2f7; stroke: #475569; stroke-width: 1.5; }
.zt .node.bad rect { fill: #fdecec; stroke: #c62828; stroke-dasharray: 5 4; }
.zt .node.off rect { fill: #f3f4f6; stroke: #9ca3af; }
.zt .node text { fill: #111827; font-weight: 600; text-anchor: middle; }
.zt .node text.state { font-weight: 400; font-size: 11px; fill: #c62828; }
.zt .node.off text.state { fill: #6b7280; }
.zt .stream path { fill: none; stroke-width: 1.8; stroke: #1a7f4b; }
.zt .stream polygon { fill: #1a7f4b; }
.zt .crowd path { stroke-width: 1.2; }
.zt .stream text { font-size: 11px; text-anchor: middle; fill: #14532d; }
.zt .busy path { stroke: #b26a00; stroke-dasharray: 7 4; }
.zt .busy polygon { fill: #b26a00; }
.zt .busy text { fill: #8a5200; }
.zt .stream.off path { stroke: #6b7280; stroke-dasharray: 2 4; }
.zt .stream.off polygon { fill: #6b7280; }
.zt .stream.off text { fill: #4b5563; }
.zt .stream.bad path { stroke: #c62828; stroke-width: 2.4; stroke-dasharray: 9 4; }
.zt .stream.bad polygon { fill: #c62828; }
.zt .stream.bad text { fill: #b71c1c; font-weight: 600; }
.zt .none path { fill: none; stroke: #c62828; stroke-width: 1.2; stroke-dasharray: 1 6; stroke-linecap: round; }
.zt .said { fill: #374151; }
@media (prefers-color-scheme: dark) {
.zt .paper { fill: #11161d; }
.zt .node rect { fill: #1f2937; stroke: #94a3b8; }
.zt .node.bad rect { fill: #3b1618; stroke: #ef6b6b; }
.zt .node.off rect { fill: #1a202b; stroke: #6b7280; }
.zt .node text { fill: #f3f4f6; }
.zt .node text.state { fill: #ff9d9d; }
.zt .node.off text.state { fill: #9ca3af; }
.zt .stream path { stroke: #4cc38a; }
.zt .stream polygon { fill: #4cc38a; }
.zt .stream text { fill: #b7ebce; }
.zt .busy path { stroke: #f0b351; }
.zt .busy polygon { fill: #f0b351; }
.zt .busy text { fill: #f7d9a3; }
.zt .stream.off path { stroke: #9ca3af; }
.zt .stream.off polygon { fill: #9ca3af; }
.zt .stream.off text { fill: #c3c8d0; }
.zt .stream.bad path { stroke: #ef6b6b; }
.zt .stream.bad polygon { fill: #ef6b6b; }
.zt .stream.bad text { fill: #ffb1b1; }
.zt .none path { stroke: #ef6b6b; }
.zt .said { fill: #cbd5e1; }
}
"""


@dataclass(frozen=True)
class _Point:
    x: float
    y: float

    def __add__(self, other: _Point) -> _Point:
        return _Point(self.x + other.x, self.y + other.y)

    def __sub__(self, other: _Point) -> _Point:
        return _Point(self.x - other.x, self.y - other.y)

    def __mul__(self, by: float) -> _Point:
        return _Point(self.x * by, self.y * by)

    @property
    def length(self) -> float:
        return math.hypot(self.x, self.y)

    def __str__(self) -> str:
        return f"{self.x:.1f},{self.y:.1f}"


@dataclass(frozen=True)
class _Box:
    middle: _Point
    width: float

    def holds(self, point: _Point) -> bool:
        """Return whether a point is in the box or closer to it than the gap."""
        return (
            abs(point.x - self.middle.x) <= self.width / 2 + _NODE_GAP
            and abs(point.y - self.middle.y) <= _NODE_HEIGHT / 2 + _NODE_GAP
        )


@dataclass(frozen=True)
class _Curve:
    start: _Point
    control: _Point
    end: _Point

    def at(self, t: float) -> _Point:
        return self.start * (1 - t) ** 2 + self.control * (2 * t * (1 - t)) + self.end * t**2

    def part(self, first: float, last: float) -> _Curve:
        """Return the part of the curve between two places on it."""
        control = (
            self.start * ((1 - first) * (1 - last))
            + self.control * ((1 - first) * last + first * (1 - last))
            + self.end * (first * last)
        )
        return _Curve(self.at(first), control, self.at(last))


def svg(streams: Sequence[Stream]) -> str:
    """Return the picture, with colours for light and dark. It loads nothing from elsewhere."""
    said = summary(streams)
    kinds = [kind for kind in _WORDS if any(s.health == kind and s.subscriber for s in streams)]
    boxes = _place(streams)
    left, right = _reach([(box.middle.x, box.width / 2) for box in boxes.values()])
    top, bottom = _reach([(box.middle.y, _NODE_HEIGHT / 2) for box in boxes.values()])
    width = max(right - left + 2 * _MARGIN, len(kinds) * _LEGEND_WIDTH + _MARGIN, 7.2 * len(said) + _MARGIN)
    height = bottom - top + 2 * _MARGIN + _LEGEND_HEIGHT
    move = _Point((width - left - right) / 2, _MARGIN - top)
    boxes = {name: _Box(box.middle + move, box.width) for name, box in boxes.items()}
    parts = [
        f'<svg class="zt" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" role="img" aria-label="{escape(said)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
        *(_draw_gap(boxes[one], boxes[other]) for one, other in missing(streams)),
        *_draw_streams(streams, boxes),
        *_draw_labels(streams, boxes),
        *(_draw_node(name, box, streams) for name, box in boxes.items()),
        *_draw_legend(kinds, width, height - 42),
        f'<text class="said" x="{width / 2:.0f}" y="{height - 12:.0f}" text-anchor="middle">{escape(said)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place(streams: Sequence[Stream]) -> dict[str, _Box]:
    """Return a box for every node, on a circle around the origin."""
    nodes = node_names(streams)
    apart = {stream.provider: stream.status or "" for stream in streams if stream.subscriber is None}
    widths = {name: max(64.0, 8.5 * len(name) + 26, 6.5 * len(apart.get(name, "")) + 22) for name in nodes}
    count = max(len(nodes), 1)
    widest, each = max(widths.values(), default=0.0), 42.0 if count > _ROOMY else 54.0
    radius = max(130.0, each * count, (widest + 110) / (2 * math.sin(math.pi / count))) if count > 1 else 0.0
    # Three or more nodes start at the top; an even number has two nodes side by side there.
    begin = math.pi if count == 2 else -math.pi / 2 - (math.pi / count if count % 2 == 0 else 0)
    angles = {name: begin + 2 * math.pi * number / count for number, name in enumerate(nodes)}
    return {
        name: _Box(_Point(radius * math.cos(angle), radius * math.sin(angle)), widths[name])
        for name, angle in angles.items()
    }


def _reach(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the beginning and the end of all spans, each given by its middle and half its length."""
    return (
        min((middle - half for middle, half in spans), default=0.0),
        max((middle + half for middle, half in spans), default=0.0),
    )


def _arc(one: _Box, other: _Box, *, straight: bool = False) -> _Curve:
    """Return the curve from one node to another, on its own side of the straight line."""
    way = other.middle - one.middle
    aside = _Point(way.y, -way.x) * (0.0 if straight else 1 / way.length)
    near, far = aside * _ASIDE, aside * (_ASIDE + 2 * _BEND)
    whole = _Curve(one.middle + near, (one.middle + other.middle) * 0.5 + far, other.middle + near)
    places = [step / _SAMPLES for step in range(_SAMPLES + 1)]
    outside = [t for t in places if not one.holds(whole.at(t)) and not other.holds(whole.at(t))] or [0.3, 0.7]
    return whole.part(outside[0], outside[-1])


def _draw_streams(streams: Sequence[Stream], boxes: Mapping[str, _Box]) -> list[str]:
    """Draw streams with problems last, above the others."""
    of_pair = {(stream.provider, stream.subscriber): stream for stream in streams if stream.subscriber is not None}
    drawn, above, joined = [], [], set()
    for (one, other), stream in of_pair.items():
        back = of_pair.get((str(other), one))
        if stream.health != "good":
            above.append(_draw_stream(stream, boxes))
        elif len(boxes) > _ROOMY and back is not None and back.health == "good":
            if (other, one) not in joined:
                joined.add((one, other))
                drawn.append(_draw_both(stream, back, boxes))
        else:
            drawn.append(_draw_stream(stream, boxes))
    return drawn + above


def _draw_both(stream: Stream, back: Stream, boxes: Mapping[str, _Box]) -> str:
    arc = _arc(boxes[stream.provider], boxes[str(stream.subscriber)], straight=True)
    first, start = _head(arc.control, arc.start)
    second, end = _head(arc.control, arc.end)
    return (
        f'<g class="stream good crowd"><title>{escape(_told(stream))}\n{escape(_told(back))}</title>'
        f'<path d="M{start} L{end}"/>{first}{second}</g>'
    )


def _told(stream: Stream) -> str:
    return f"{stream.provider} to {stream.subscriber}, {stream.subscription}: {describe(stream)}"


def _head(come_from: _Point, tip: _Point) -> tuple[str, _Point]:
    """Return the head of an arrow, and the end of its line."""
    back = come_from - tip
    back *= 1 / (back.length or 1)
    across = _Point(-back.y, back.x) * (_HEAD * 0.45)
    foot = tip + back * _HEAD
    return f'<polygon points="{tip} {foot + across} {foot - across}"/>', foot


def _draw_stream(stream: Stream, boxes: Mapping[str, _Box]) -> str:
    arc = _arc(boxes[stream.provider], boxes[str(stream.subscriber)])
    head, foot = _head(arc.control, arc.end)
    return (
        f'<g class="stream {stream.health}"><title>{escape(_told(stream))}</title>'
        f'<path d="M{arc.start} Q{arc.control} {foot}"/>{head}</g>'
    )


def _draw_gap(one: _Box, other: _Box) -> str:
    arc = _arc(one, other)
    return (
        f'<g class="none"><title>there is no subscription</title><path d="M{arc.start} Q{arc.control} {arc.end}"/></g>'
    )


def _draw_labels(streams: Sequence[Stream], boxes: Mapping[str, _Box]) -> list[str]:
    """Draw the labels after all arrows, so that no arrow crosses one out."""
    drawn = []
    for stream in sorted(streams, key=lambda stream: stream.health != "good"):
        if stream.subscriber is None:
            continue
        notable = stream.health != "good" or (stream.lag_bytes or 0) >= _NOTABLE_LAG
        if not notable and len(boxes) > _ROOMY:
            continue
        words = size(stream.lag_bytes)
        if stream.health != "good":
            words = words if stream.lag_bytes else ""
            words = f"{'slot idle' if stream.status == 'replicating' else stream.status}{words and f', {words}'}"
        if words:
            place = _arc(boxes[stream.provider], boxes[stream.subscriber]).at(_LABEL_AT)
            width = 6.4 * len(words) + 6
            drawn.append(
                f'<g class="stream {stream.health}"><rect class="paper" x="{place.x - width / 2:.1f}" '
                f'y="{place.y - 7:.1f}" width="{width:.1f}" height="14" rx="4"/>'
                f'<text x="{place.x:.1f}" y="{place.y + 4:.1f}">{escape(words)}</text></g>'
            )
    return drawn


def _draw_node(name: str, box: _Box, streams: Sequence[Stream]) -> str:
    apart = next((s.status or "" for s in streams if s.subscriber is None and s.provider == name), "")
    kind = "bad" if name in unreachable(streams) else "off" if apart else ""
    left, top = box.middle.x - box.width / 2, box.middle.y - _NODE_HEIGHT / 2
    state = f'<text class="state" x="{box.middle.x:.1f}" y="{box.middle.y + 13:.1f}">{escape(apart)}</text>'
    return (
        f'<g class="node {kind}">'
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{_NODE_HEIGHT}" rx="9"/>'
        f'<text x="{box.middle.x:.1f}" y="{box.middle.y + (-2 if apart else 5):.1f}">{escape(name)}</text>'
        f"{state if apart else ''}</g>"
    )


def _draw_legend(kinds: Sequence[Health], width: float, y: float) -> list[str]:
    each = _LEGEND_WIDTH
    left = (width - each * len(kinds)) / 2 + 6
    return [
        f'<g class="stream {kind}"><path d="M{left + each * place:.0f},{y:.0f} h26"/></g>'
        f'<text class="said" x="{left + each * place + 32:.0f}" y="{y + 4:.0f}" font-size="12">{_WORDS[kind]}</text>'
        for place, kind in enumerate(kinds)
    ]
