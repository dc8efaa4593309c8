"""A topology for other programs to lay out: Mermaid and Graphviz."""

from __future__ import annotations

from collections.abc import Sequence

from zodan_sql.client.topology import Health, Stream, node_names
from zodan_sql.showing.picture.words import describe, unreachable
from zodan_sql.words import size

#: The colour of each kind of line. Only good lines are solid, so nobody needs the colour.
COLOURS: dict[Health, str] = {"good": "#1a7f4b", "busy": "#b26a00", "off": "#6b7280", "bad": "#c62828"}
_DOT_STYLE: dict[Health, str] = {"good": "solid", "busy": "dashed", "off": "dotted", "bad": "dashed"}


def mermaid(streams: Sequence[Stream]) -> str:
    """Return a Mermaid flowchart."""
    nodes = node_names(streams)
    ids = {name: f"node{number}" for number, name in enumerate(nodes, start=1)}
    unread = unreachable(streams)
    lines = ["flowchart LR"]
    lines += [f'    {ids[name]}(["{_mermaid(name)}"]){":::bad" if name in unread else ""}' for name in nodes]
    styles = []
    drawn = [stream for stream in streams if stream.subscriber is not None]
    for number, stream in enumerate(drawn):
        arrow = "-->" if stream.health == "good" else "-.->"
        line = f'{ids[stream.provider]} {arrow}|"{_mermaid(_label(stream))}"| {ids[str(stream.subscriber)]}'
        lines.append(f"    {line}")
        styles.append(f"    linkStyle {number} stroke:{COLOURS[stream.health]}")
    lines += [*styles, f"    classDef bad stroke:{COLOURS['bad']},stroke-dasharray:4"]
    return "\n".join(lines) + "\n"


def dot(streams: Sequence[Stream]) -> str:
    """Return a Graphviz digraph for circo, which puts the nodes on a circle."""
    unread = unreachable(streams)
    lines = [
        "digraph topology {",
        "    layout=circo; mindist=2.5; pad=0.3;",
        '    node [shape=box, style=rounded, fontname="sans-serif"];',
        '    edge [fontname="sans-serif", fontsize=10];',
    ]
    for name in node_names(streams):
        lines.append(
            f"    {_dot(name)}" + (f' [color="{COLOURS["bad"]}", style="rounded,dashed"];' if name in unread else ";")
        )
    for stream in streams:
        if stream.subscriber is None:
            continue
        colour = COLOURS[stream.health]
        lines.append(
            f"    {_dot(stream.provider)} -> {_dot(stream.subscriber)} [label={_dot(_label(stream))}, "
            f'color="{colour}", fontcolor="{colour}", style={_DOT_STYLE[stream.health]}];'
        )
    return "\n".join([*lines, "}"]) + "\n"


def _label(stream: Stream) -> str:
    return (size(stream.lag_bytes) or "ok") if stream.health == "good" else describe(stream)


def _mermaid(text: str) -> str:
    return text.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def _dot(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
