"""The texts that belong to a picture."""

from __future__ import annotations

from collections.abc import Sequence

from zodan_sql.client.topology import REPLICATING, UNREACHABLE, Stream, node_names
from zodan_sql.words import size


def describe(stream: Stream) -> str:
    """Return the state of a stream, or of a node without streams: status, slot and lag."""
    facts = [stream.status or "status unknown"]
    # A stream with another status reads from no slot anyway.
    if stream.active is False and stream.status == REPLICATING:
        facts.append("nobody reads from its slot")
    if stream.lag_bytes is not None:
        facts.append(f"{size(stream.lag_bytes)} behind")
    return ", ".join(facts)


def summary(streams: Sequence[Stream]) -> str:
    """Return a summary of the whole cluster in one line."""
    nodes, real = node_names(streams), [stream for stream in streams if stream.subscriber is not None]
    good = [stream for stream in real if stream.health == "good"]
    said = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}, {len(good)} of {len(real)} streams replicate"
    lags = [stream.lag_bytes for stream in real if stream.lag_bytes is not None]
    return said + (f", at most {size(max(lags))} behind" if lags else "")


def troubles(streams: Sequence[Stream]) -> list[str]:
    """Return a line for every node and stream with a problem, and for every missing stream."""
    found = [
        f"{stream.provider} → {stream.subscriber}  {stream.subscription}: {describe(stream)}"
        if stream.subscriber
        else f"{stream.provider}  {describe(stream)}"
        for stream in streams
        if stream.health != "good"
    ]
    return found + [f"{provider} → {subscriber}  there is no subscription" for provider, subscriber in missing(streams)]


def missing(streams: Sequence[Stream]) -> list[tuple[str, str]]:
    """Return the pairs of a full mesh without a stream. Nodes that are alone or unreachable do not count."""
    apart = {stream.provider for stream in streams if stream.subscriber is None}
    there = {(stream.provider, stream.subscriber) for stream in streams}
    nodes = [name for name in node_names(streams) if name not in apart]
    return [(one, other) for one in nodes for other in nodes if one != other and (one, other) not in there]


def unreachable(streams: Sequence[Stream]) -> set[str]:
    """Return the nodes that Zodan could not reach to read their subscriptions."""
    return {stream.provider for stream in streams if stream.subscriber is None and stream.status == UNREACHABLE}
