"""A topology as a table for a terminal: a row for each provider, a column for each subscriber."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zodan_sql.client.topology import Stream, node_names
from zodan_sql.showing.picture.words import unreachable
from zodan_sql.words import size

_CORNER = "from \\ to"
_GAP = 2


def matrix(streams: Sequence[Stream], width: int = 80) -> list[str]:
    """Return the lines of the table. A cell has the lag of a stream, or its problem.

    If the table is wider than ``width`` characters, the columns have numbers instead of names.
    """
    nodes = node_names(streams)
    wide = _draw(nodes, nodes, _cells(streams, nodes, tight=False))
    if not nodes or max(map(len, wide)) <= width:
        return wide
    rows = [f"{number} {name}" for number, name in enumerate(nodes, start=1)]
    tight = _cells(streams, nodes, tight=True)
    columns = [str(number) for number in range(1, len(nodes) + 1)]
    room = width - len(_draw(["x"], columns, tight)[0]) + len(_CORNER)
    return _draw([_cut(row, max(room, len(_CORNER))) for row in rows], columns, tight)


def _draw(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    label = max((len(text) for text in (_CORNER, *rows)), default=0)
    widths = [max(len(head), *(len(row[column]) for row in cells)) + _GAP for column, head in enumerate(columns)]
    lines = [
        f"{_CORNER:<{label}} │" + "".join(head.rjust(width) for head, width in zip(columns, widths, strict=True)),
        "─" * (label + 1) + "┼" + "─" * sum(widths),
    ]
    for name, row in zip(rows, cells, strict=False):
        lines.append(f"{name:<{label}} │" + "".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return lines


def _cells(streams: Sequence[Stream], nodes: Sequence[str], *, tight: bool) -> list[list[str]]:
    of_pair = {(stream.provider, stream.subscriber): stream for stream in streams}
    unread = unreachable(streams)
    return [[_cell(of_pair, unread, one, other, tight=tight) for other in nodes] for one in nodes]


def _cell(
    of_pair: Mapping[tuple[str, str | None], Stream], unread: set[str], one: str, other: str, *, tight: bool
) -> str:
    if one == other:
        return "·"
    stream = of_pair.get((one, other))
    if stream is None:
        return "?" if other in unread else "-"
    if stream.health == "good":
        lag = size(stream.lag_bytes) or "ok"
        return lag.replace(" ", "").removesuffix("B") or lag if tight else lag
    if stream.health == "bad":
        return "down" if stream.status in ("down", "replicating") else "bad"
    return stream.health


def _cut(text: str, width: int) -> str:
    """Shorten a text in its middle, because long names differ at their ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
