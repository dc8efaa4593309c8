"""The state of a whole cluster: which node streams to which, and what nobody uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from zodan_sql.client.connection import OnMessage, Where, read_rows

#: good: it replicates. off: it is switched off or alone. busy: it is in progress. bad: it has a problem.
Health = Literal["good", "busy", "off", "bad"]

ALONE = "alone"
REPLICATING = "replicating"
UNREACHABLE = "unreachable"

_HEALTH: dict[str | None, Health] = {
    REPLICATING: "good",
    ALONE: "off",
    "disabled": "off",
    "initializing": "busy",
    "init": "busy",
    "sync_structure": "busy",
    "sync_data": "busy",
    "sync_constraints": "busy",
    "sync_wait": "busy",
    "catchup": "busy",
}

# lag_bytes is a difference of positions: a whole number that psycopg would otherwise return as a Decimal.
_TOPOLOGY = """
SELECT t.provider, t.subscriber, t.subscription, t.status, t.active, t.lag_bytes::bigint AS lag_bytes
  FROM zodan.topology(%(through)s) AS t
"""
_RESCAN = "SELECT r.node, r.kind, r.name, r.reason, r.statement, r.certain FROM zodan.rescan(%(through)s) AS r"


@dataclass(frozen=True)
class Stream:
    """A row of zodan.topology: a subscription; or a node that is alone or unreachable, without a subscriber."""

    provider: str
    subscriber: str | None
    subscription: str | None
    status: str | None
    active: bool | None
    lag_bytes: int | None

    @property
    def health(self) -> Health:
        """The verdict on the status. A stream is bad if Spock says replicating but nobody reads from the slot."""
        health = _HEALTH.get(self.status, "bad")
        return "bad" if health == "good" and self.active is False else health


@dataclass(frozen=True)
class Leftover:
    """A row of zodan.rescan: what nobody uses, and the statement that removes it on that node.

    ``certain`` is False if somebody else may still need it, such as a subscriber outside the cluster.
    """

    node: str
    kind: str
    name: str
    reason: str
    statement: str
    certain: bool


def streams(where: Where, through: str) -> list[Stream]:
    """Return the streams of the cluster of the member ``through``; the call runs in ``where``. Raises ZodanError."""
    return read_rows(where, _TOPOLOGY, {"through": through}, Stream)


def rescan(where: Where, through: str, on_message: OnMessage) -> list[Leftover]:
    """Return the leftovers in the cluster of the member ``through``. Warnings name the nodes out of reach."""
    return read_rows(where, _RESCAN, {"through": through}, Leftover, on_message)


def masked(streams: Iterable[Stream], redact: Callable[[str], str]) -> list[Stream]:
    """Return a topology with its texts redacted. Do this before drawing: masking a picture could break its syntax."""
    return [
        replace(
            stream,
            provider=redact(stream.provider),
            subscriber=stream.subscriber and redact(stream.subscriber),
            subscription=stream.subscription and redact(stream.subscription),
            status=stream.status and redact(stream.status),
        )
        for stream in streams
    ]


def node_names(streams: Iterable[Stream]) -> list[str]:
    """Return the names of a topology's nodes in natural order: n2 before n10."""
    names = {name for stream in streams for name in (stream.provider, stream.subscriber) if name is not None}
    return sorted(names, key=_natural)


def _natural(name: str) -> tuple[str, int, str]:
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    return head, int(digits or -1), name
