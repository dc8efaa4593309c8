"""The protocols of docs/explanation/protocol.md as data, and an executor that runs, resumes and takes back such a plan.

The steps mirror sql/templates/plan, the executor sql/templates/run. A Variant leaves one of its safeguards out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from model.cluster_model import (
    PARTS,
    Cluster,
    Copy,
    Leftover,
    Pending,
    Session,
    Settings,
    Snapshot,
    Stage,
    Stream,
    Subscription,
    Table,
    Trouble,
    Unit,
)

FLIP_TRIES = 5
COPY_TRIES = 2
LANES = 2


def whole(*tables: Table) -> tuple[int, ...]:
    """Return the places of some tables."""
    return tuple(table * PARTS + part for table in tables for part in range(PARTS))


def in_parts(table: Table) -> list[tuple[int, ...]]:
    """Return the places of the units of a large table."""
    return [(place,) for place in whole(table)]


#: How the tables may be divided: the places of each unit, in the order in which they are begun.
LAYOUTS = [
    [*in_parts(Table.LOG), whole(Table.ITEMS, Table.HEADS), whole(Table.LINES)],
    [*in_parts(Table.ITEMS), whole(Table.LINES), whole(Table.LOG, Table.HEADS)],
    [whole(Table.LOG), whole(Table.ITEMS), whole(Table.HEADS, Table.LINES)],
    [*in_parts(Table.HEADS), *in_parts(Table.LINES), whole(Table.LOG, Table.ITEMS)],
    [whole(*Table)],
]

#: The bundle of all units where the stream of a copy has no head.
ALL = -1

Results = dict[str, Any]
Action = Callable[[Cluster, Results], Any]
Look = Callable[[Cluster, Results], bool]


@dataclass(frozen=True)
class Variant(Settings):
    """Which safeguards a protocol has; the right one has all."""

    origins_cleared: bool = True
    forwarded_copy: bool = True
    own_copy: bool = True
    barrier: bool = True
    advance_confirmed: bool = True
    pause: bool = True
    nudge: bool = True
    confirm: bool = True
    stream_end: bool = True
    forwarding_off: bool = True
    peer_slots_first: bool = True
    way_back_slots_first: bool = True
    position_of_source: bool = True
    position_of_copy: bool = True
    copy_dropped: bool = True
    resume_looks: bool = True
    take_back_resumes_apply: bool = True
    kept_connections: bool = True
    unpublish: bool = True
    settled: bool = True
    drain: bool = True
    durable: bool = True
    copy_ended: bool = True
    copy_begun_anew: bool = True
    drained_once: bool = True
    clean_takes_back_own: bool = True
    durable_turn: bool = True
    copy_takes_all_back: bool = True
    discards_seen: bool = True
    restarts_seen: bool = True
    slots_seen: bool = True
    approach_again: bool = True
    units_listed_first: bool = True
    snapshot_lsn: bool = True
    copy_emptied: bool = True
    lanes_ended: bool = True
    marks_compared: bool = True
    stream_from_snapshot: bool = True
    begun_stream_seen: bool = True
    bundle_whole: bool = True
    keeper_known: bool = True
    kept_positions: bool = True
    keepers_ended: bool = True
    files_compared: bool = True
    head_sent: bool = True
    head_before_snapshots: bool = True
    head_proved: bool = True
    stream_from_head: bool = True
    stream_before_snapshots: bool = True
    stream_before_last: bool = True
    own_positions: bool = True
    parted_cleared: bool = True


RIGHT = Variant()


class StepFailed(Exception):
    """A step failed on its node; not a violation: the operation stops, tries again or is taken up later."""


class StartOver(StepFailed):
    """The copy is not whole: it has to be made again."""


class Incomplete(StepFailed):
    """The node has joined, and something was discarded on it: no repetition brings that back."""


@dataclass(frozen=True)
class Step:
    """One statement on one node, with its done, undo and until.

    A section is taken back as a whole; approach is what is done again before a flip is tried again. units names the
    copy whose units are worked at when the statement has said which are done.
    """

    phase: str
    node: str
    title: str
    do: Action | None = None
    done: Look | None = None
    undo: Action | None = None
    until: Look | None = None
    section: str | None = None
    ref: str | None = None
    undo_needs: str | None = None
    units: Stream | None = None


# Statements that several steps use. One that is a generator is more than one event: what it has done at a yield stays.


def applied(cluster: Cluster, provider: str, subscriber: str, lsn: int) -> bool:
    """Tell whether a subscriber has applied what its provider committed before an LSN, by any of its subscriptions."""
    live = cluster.nodes[subscriber].live
    streams = [stream for stream in live.subscriptions if stream.provider == provider]
    if not any(live.subscriptions[stream].enabled for stream in streams):
        raise StepFailed(f"the subscription of {subscriber} from {provider} is gone or disabled")
    return any(live.origins.get(stream, 0) >= lsn for stream in streams)


def slot_step(phase: str, stream: Stream) -> Step:
    """Return the step that makes a slot for a subscription to come."""
    return Step(
        phase,
        stream.provider,
        f"create slot {stream}",
        do=lambda c, r: c.create_slot(stream),
        done=lambda c, r: stream in c.nodes[stream.provider].slots,
        undo=lambda c, r: c.drop_slot(stream),
        section="approach",
    )


def subscription_step(
    phase: str, stream: Stream, subscription: Subscription, variant: Variant, section: str | None = None
) -> Step:
    """Return the step that makes a subscription whose slot is there."""

    def create(cluster: Cluster, results: Results) -> None:
        if variant.origins_cleared:
            cluster.drop_origin(stream)
        cluster.create_subscription(stream, subscription)

    return Step(
        phase,
        stream.subscriber,
        f"create subscription {stream}",
        do=create,
        done=lambda c, r: stream in c.nodes[stream.subscriber].live.subscriptions,
        undo=lambda c, r: c.drop_subscription(stream),
        section=section,
    )


def event_step(phase: str, node: str, ref: str, section: str | None = None) -> Step:
    """Return the step that writes a sync event."""
    return Step(phase, node, f"sync event on {node}", do=lambda c, r: write_event(c, node), ref=ref, section=section)


def write_event(cluster: Cluster, name: str) -> int:
    """Write a sync event where there is a node; an interrupted removal may find none any more."""
    return cluster.mark(name) if cluster.nodes[name].live.registered else 0


def wait_step(phase: str, provider: str, subscriber: str, ref: str, section: str | None = None) -> Step:
    """Return the step that waits until the provider's sync event has been applied."""
    return Step(
        phase,
        subscriber,
        f"wait until {subscriber} has applied the sync event of {provider}",
        until=lambda c, r: applied(c, provider, subscriber, r[ref]),
        section=section,
    )


def set_registered(cluster: Cluster, name: str, registered: bool) -> None:
    """Create or drop the node row of a node."""
    cluster.nodes[name].live.registered = registered
    cluster.flush(name)


def empty(cluster: Cluster, name: str) -> None:
    """Drop every object that the copy brought, which waits for those who use it."""
    for session in [session for session in cluster.sessions if session.copy.subscriber == name]:
        while session in cluster.sessions:
            cluster.advance_session(session)
    cluster.nodes[name].live.clear()
    cluster.flush(name)


def prove_gone(cluster: Cluster, name: str, on: str) -> None:
    """Fail if anything of a node is left on a node."""
    try:
        cluster.check_gone(name, [on])
    except Leftover as left:
        raise StepFailed(str(left)) from left


# Design 4.


def clear_names(cluster: Cluster, new: str, on: str, variant: Variant) -> bool:
    """Make sure that the names of the new node's streams are free on a node."""
    node = cluster.nodes[on]
    if any(new in (stream.provider, stream.subscriber) for stream in node.slots):
        raise StepFailed("a slot of such a name is there already")
    for stream in list(node.live.origins):
        if variant.origins_cleared and new in (stream.provider, stream.subscriber):
            cluster.drop_origin(stream)
    return True


def is_restored(cluster: Cluster, stream: Stream) -> bool:
    """Tell whether the copy of the structure is complete; fail when it never will be."""
    subscription = cluster.nodes[stream.subscriber].live.subscriptions.get(stream)
    if subscription is None or not subscription.enabled:
        raise StepFailed("the subscription of the structure is gone or disabled")
    if subscription.copy is Copy.BEGUN and stream not in cluster.workers:
        raise StepFailed("the copy broke off")
    return subscription.copy is Copy.NONE


def make_copy_slot(cluster: Cluster, copy: Stream) -> int:
    """Make the slot of the copy; return its position."""
    cluster.create_slot(copy)
    return cluster.nodes[copy.provider].slots[copy].made


def list_units(layout: int, head: int | None) -> list[Unit]:
    """List what is to be copied; the parts of a table are one bundle, and without a head all units are."""
    units = [Unit(number, places) for number, places in enumerate(LAYOUTS[layout])]
    return [replace(unit, bundle=ALL if head is None else unit.tables[0]) for unit in units]


def find_start(results: Results, variant: Variant) -> int:
    """Return where the stream of a copy is to begin: at the one snapshot, or else at the head."""
    copied, slot = results["copied"], results["slot"]
    if not copied["tables"]:
        return max(copied["lsn"], slot) if variant.stream_from_snapshot else slot
    if not (variant.stream_before_snapshots and variant.stream_before_last):
        return min(copied["tables"].values()) if variant.stream_before_last else copied["lsn"]
    return results["head"] if variant.stream_from_head and variant.head_sent else slot


def begin_stream(cluster: Cluster, copy: Stream, results: Results, variant: Variant) -> Iterator[None]:
    """Let the stream of the copy begin at a position, which is set at once; harmless if it has begun.

    Tables of several snapshots have positions of their own.
    """
    live, tables = cluster.nodes[copy.subscriber].live, results["copied"]["tables"]
    if live.subscriptions[copy].enabled:
        return
    live.origins[copy] = find_start(results, variant)
    cluster.flush(copy.subscriber)
    yield
    live.marks = {}
    live.positions = dict(tables) if variant.own_positions else dict.fromkeys(tables, results["copied"]["lsn"])
    live.subscriptions[copy] = replace(live.subscriptions[copy], enabled=True)
    cluster.flush(copy.subscriber)


def prove_head(cluster: Cluster, copy: Stream) -> None:
    """Fail unless one worker has passed the positions of all tables, from the head on; they are of no use then."""
    live = cluster.nodes[copy.subscriber].live
    if not live.positions:
        return
    if copy not in cluster.workers or not cluster.workers[copy].has_head:
        raise StartOver("the stream was interrupted before it had passed all positions")
    live.positions = {}
    cluster.flush(copy.subscriber)


def can_continue(cluster: Cluster, copy: Stream, variant: Variant) -> bool:
    """Tell whether a copy is there and can go on; not if its stream has begun and is off, for it has no marks then."""
    live = cluster.nodes[copy.subscriber].live
    if copy not in live.subscriptions:
        return False
    return live.subscriptions[copy].enabled or not variant.begun_stream_seen or live.origins.get(copy, 0) == 0


def see_copy_slot(cluster: Cluster, copy: Stream, variant: Variant) -> None:
    """Fail if the slot of the copy is lost."""
    if variant.slots_seen and copy not in cluster.nodes[copy.provider].slots:
        raise StartOver("the slot of the copy is lost")


def has_switched(cluster: Cluster, stream: Stream, variant: Variant) -> bool:
    """Tell whether the new node has turned: the position of the source's direct stream is set last, and once."""
    live = cluster.nodes[stream.subscriber].live
    direct = live.subscriptions.get(stream)
    if variant.own_copy and variant.durable_turn:
        return live.origins.get(stream, 0) > 0
    return direct is not None and direct.enabled and (variant.own_copy or not direct.forwards)


def see_sound(cluster: Cluster, new: str, results: Results, variant: Variant) -> None:
    """Fail if what the copy brought is not what was there, or not everything that came after it was applied."""
    node, noted = cluster.nodes[new], results["note"]
    if variant.discards_seen and node.live.discarded > noted["discarded"]:
        raise StartOver("something was discarded")
    if variant.restarts_seen and node.repeats and node.starts > noted["starts"]:
        raise StartOver("the server was started again")


def see_whole(cluster: Cluster, new: str, results: Results, variant: Variant) -> None:
    """Fail if anything that came since the copy was discarded."""
    if variant.discards_seen and cluster.nodes[new].live.discarded > results["note"]["discarded"]:
        raise Incomplete("something was discarded")


def see_slot(cluster: Cluster, stream: Stream, start: int | None) -> None:
    """Fail if a slot is lost, or is beyond the position that its stream is to start at."""
    slot = cluster.nodes[stream.provider].slots.get(stream)
    if slot is None or (start is not None and slot.confirmed > start):
        raise StepFailed(f"the slot {stream} cannot be used")


def advance_slot(cluster: Cluster, stream: Stream, behind: Stream, variant: Variant) -> None:
    """Move a slot that waits to what the subscriber of another has confirmed, unless one is lost."""
    provider = cluster.nodes[stream.provider]
    slot, other = provider.slots.get(stream), provider.slots.get(behind)
    if slot is not None and other is not None and not cluster.is_active(stream):
        slot.confirmed = max(slot.confirmed, other.confirmed if variant.advance_confirmed else len(provider.wal))


def is_replicating(cluster: Cluster, stream: Stream) -> bool:
    """Tell whether a stream flows; fail when it never will."""
    subscription = cluster.nodes[stream.subscriber].live.subscriptions.get(stream)
    if subscription is None or not subscription.enabled:
        raise StepFailed(f"the subscription {stream} is gone or disabled")
    return stream in cluster.workers


def is_in_use(cluster: Cluster, stream: Stream) -> bool:
    """Tell whether somebody reads from a slot; fail when nobody ever will."""
    if stream not in cluster.nodes[stream.provider].slots:
        raise StepFailed(f"the slot {stream} is gone")
    return cluster.is_active(stream)


def positions(cluster: Cluster, source: str, peers: list[str]) -> dict[str, int]:
    """Return how far the source has applied its peers' commits."""
    return {peer: cluster.nodes[source].live.origins.get(Stream(peer, source), 0) for peer in peers}


def note_positions(cluster: Cluster, source: str, peers: list[str]) -> Iterator[None]:
    """Read the positions, then write a sync event."""
    found = positions(cluster, source, peers)
    yield
    return {"peers": found, "event": cluster.mark(source)}


def disable(cluster: Cluster, stream: Stream) -> None:
    """Disable a subscription if it is there; its worker goes on until it notices."""
    subscription = cluster.nodes[stream.subscriber].live.subscriptions.get(stream)
    if subscription is not None:
        cluster.alter_subscription(stream, replace(subscription, enabled=False))


def enable_again(cluster: Cluster, stream: Stream) -> None:
    """Enable the copy's subscription if it is there, and the direct streams are not on."""
    subscriptions = cluster.nodes[stream.subscriber].live.subscriptions
    if stream in subscriptions and not any(subscription.enabled for subscription in subscriptions.values()):
        cluster.alter_subscription(stream, replace(subscriptions[stream], enabled=True))


def confirm(found: dict[str, int], noted: dict[str, int]) -> None:
    """Fail if the source has applied anything since the positions were read."""
    if found != noted:
        raise StepFailed("apply went on before the stream had ended")


def switch(cluster: Cluster, new: str, starts: dict[str, int], forwards: bool) -> Iterator[None]:
    """Set where each direct stream starts, the source's last, and enable them all.

    A position is set at once, whatever becomes of the transaction.
    """
    live = cluster.nodes[new].live
    if any(Stream(provider, new) in cluster.workers for provider in starts):
        raise StepFailed("an origin is in use")
    for provider, position in starts.items():
        live.origins[Stream(provider, new)] = position
        cluster.flush(new)
        yield
    enable_streams(cluster, new, list(starts))
    if forwards:
        live.subscriptions[Stream(next(reversed(starts)), new)] = Subscription(enabled=True, forwards=True)
        cluster.flush(new)


def enable_streams(cluster: Cluster, new: str, providers: list[str]) -> None:
    """Enable every direct stream that is disabled."""
    subscriptions = cluster.nodes[new].live.subscriptions
    for stream in (Stream(provider, new) for provider in providers):
        if not subscriptions[stream].enabled:
            subscriptions[stream] = Subscription(enabled=True)
    cluster.flush(new)


def plan_addition(source: str, peers: list[str], new: str, variant: Variant = RIGHT, layout: int = 0) -> list[Step]:
    """Return the steps of an addition."""
    members = [source, *peers]
    copy = Stream(source, new, "copy") if variant.own_copy else Stream(source, new)
    # The source's comes last: Spock starts streams in this order, and what the source changes is what others wrote.
    made_before = [*peers, source] if variant.own_copy else peers

    steps = [
        *(
            Step(
                "clean",
                node,
                f"no stream of an earlier {new}",
                do=lambda c, r, node=node: clear_names(c, new, node, variant),
                undo=lambda c, r, node=node: prove_gone(c, new, node),
                section="once",
                ref=f"clean {node}",
                undo_needs=f"clean {node}" if variant.clean_takes_back_own else None,
            )
            for node in [*members, new]
        ),
        Step(
            "register",
            new,
            f"create node {new}",
            do=lambda c, r: set_registered(c, new, True),
            done=lambda c, r: c.nodes[new].live.registered,
            undo=lambda c, r: set_registered(c, new, False),
        ),
        *plan_copy(source, new, copy, variant, layout),
        Step("sound", new, "see that it is whole", do=lambda c, r: see_sound(c, new, r, variant), section="approach"),
        Step("sound", source, "see the slot", do=lambda c, r: see_copy_slot(c, copy, variant), section="approach"),
        event_step("level", source, "level", "approach"),
        wait_step("levelled", source, new, "level", "approach"),
    ]
    if variant.head_proved:
        steps.append(
            Step(
                "prepare",
                new,
                "see that it began with its head",
                do=lambda c, r: prove_head(c, copy),
                section="approach",
            )
        )
    if variant.peer_slots_first:
        steps += [slot_step("prepare", Stream(member, new)) for member in made_before]
    if variant.way_back_slots_first:
        steps += [slot_step("prepare", Stream(new, member)) for member in members]
    forwarding = Subscription(enabled=False)
    steps += [subscription_step("mark", Stream(member, new), forwarding, variant, "approach") for member in made_before]
    steps += [event_step("mark", peer, f"mark {peer}", "approach") for peer in peers]
    if variant.barrier:
        steps += [wait_step("barrier", peer, source, f"mark {peer}", "approach") for peer in peers]
    feeds = {member: copy if member == source else Stream(member, source) for member in members}
    steps += [
        Step(
            "advance",
            member,
            f"advance slot {Stream(member, new)}",
            do=lambda c, r, member=member: advance_slot(c, Stream(member, new), feeds[member], variant),
            section="approach",
        )
        for member in members
    ]
    steps += plan_flip(source, peers, copy, variant)
    if not variant.way_back_slots_first:
        steps += [slot_step("late way back", Stream(new, member)) for member in members]
    if variant.own_copy and variant.copy_dropped:
        steps.append(Step("way_back", new, f"drop {copy}", do=lambda c, r: c.drop_subscription(copy)))
    steps += [event_step("way_back", member, f"event {member}") for member in members]
    for member in members:
        steps.append(subscription_step("way_back", Stream(new, member), Subscription(enabled=True), variant))
    mesh = [Stream(new, member) for member in members] + [Stream(member, new) for member in members]
    for stream in mesh:
        steps.append(
            Step(
                "replicating",
                stream.subscriber,
                f"wait for {stream} to replicate",
                until=lambda c, r, stream=stream: is_replicating(c, stream),
            )
        )
    steps.append(event_step("prove", new, f"event {new}"))
    steps += [wait_step("proven", *stream[:2], f"event {stream.provider}") for stream in mesh]
    steps += [
        Step("whole", stream.provider, f"wait until {stream} is used", until=lambda c, r, s=stream: is_in_use(c, s))
        for stream in mesh
    ]
    steps.append(Step("whole", new, "see that nothing was discarded", do=lambda c, r: see_whole(c, new, r, variant)))
    return steps


def plan_copy(source: str, new: str, copy: Stream, variant: Variant, layout: int) -> list[Step]:
    """Return the steps that bring structure and rows, and begin the stream of everybody's changes."""
    structure = Stream(source, new, "structure")

    def is_direct(cluster: Cluster, results: Results) -> bool:
        return variant.own_copy and has_switched(cluster, Stream(source, new), variant)

    def is_there(cluster: Cluster, results: Results) -> bool:
        return is_direct(cluster, results) or copy in cluster.nodes[new].live.subscriptions

    def is_on(cluster: Cluster, results: Results) -> bool:
        subscription = cluster.nodes[new].live.subscriptions.get(copy)
        return is_direct(cluster, results) or (subscription is not None and subscription.enabled)

    def end_lanes(cluster: Cluster, results: Results) -> None:
        if variant.lanes_ended:
            cluster.end_sessions(new)

    def end_keepers(cluster: Cluster, results: Results) -> None:
        if variant.keepers_ended:
            cluster.end_keepers(source)

    def send_head(cluster: Cluster, results: Results) -> None:
        if variant.head_sent:
            cluster.commit(source, head_of=copy)

    def set_aside(cluster: Cluster, results: Results) -> None:
        if "units" not in results:
            raise StepFailed("the large tables are not known")

    steps = [
        Step(
            "note",
            new,
            "note what is there",
            do=lambda c, r: {"discarded": c.nodes[new].live.discarded, "starts": c.nodes[new].starts},
            done=is_there,
            undo=lambda c, r: empty(c, new),
            ref="note",
        ),
        Step("note", source, "watch the transactions", do=lambda c, r: c.watch(source)),
        Step(
            "slot",
            source,
            f"create slot {copy}",
            do=lambda c, r: make_copy_slot(c, copy),
            undo=lambda c, r: c.drop_slot(copy),
            ref="slot",
        ),
        Step("slot", source, "send the head", do=send_head),
        Step("copying", source, "find the head", do=lambda c, r: c.find_head(copy), ref="head"),
        Step("slot", source, "the slot that Spock will make", undo=lambda c, r: c.drop_slot(structure)),
        Step(
            "copying",
            new,
            f"create subscription {structure}",
            do=lambda c, r: c.create_subscription(structure, Subscription(True, copy=Copy.WANTED)),
            undo=lambda c, r: c.drop_subscription(structure),
        ),
        Step("structured", new, "wait for the structure", until=lambda c, r: is_restored(c, structure)),
        Step(
            # The subscription says that this is done: it must not be there before the journal has the units.
            "structured" if variant.units_listed_first else "units",
            source,
            "list the units",
            do=lambda c, r: list_units(layout, r["head"] if variant.head_sent else r["slot"]),
            ref="units",
        ),
        Step(
            "units",
            new,
            f"create subscription {copy}",
            do=lambda c, r: c.create_subscription(copy, Subscription(False, variant.forwarded_copy, Copy.ROWS)),
            done=lambda c, r: is_direct(c, r) or can_continue(c, copy, variant),
            undo=lambda c, r: c.drop_subscription(copy),
        ),
        Step("units", new, f"drop subscription {structure}", do=lambda c, r: c.drop_subscription(structure)),
        Step("aside", new, "set the indexes of large tables aside", do=set_aside),
        Step("aside", source, "end what keeps the snapshot", undo=end_keepers),
        Step("copied", new, "copy the rows", do=end_lanes, done=is_direct, undo=end_lanes, units=copy, ref="copied"),
        Step("streaming", source, "see that nothing keeps the snapshot", do=end_keepers),
        Step(
            "streaming",
            new,
            f"begin the stream of {copy}",
            do=lambda c, r: begin_stream(c, copy, r, variant),
            done=is_on,
            undo=lambda c, r: disable(c, copy),
        ),
    ]
    return [replace(step, section="copy") for step in steps]


def plan_flip(source: str, peers: list[str], copy: Stream, variant: Variant) -> list[Step]:
    """Return the steps of the flip."""
    new = copy.subscriber
    steps = []

    def look(cluster: Cluster, results: Results) -> None:
        confirm(positions(cluster, source, peers), results["flip"]["peers"])

    def see_slots(phase: str) -> list[Step]:
        looks = []
        for member in [source, *peers] if variant.slots_seen else []:
            ours, theirs = Stream(member, new), Stream(new, member)

            def start(results: Results, member: str = member) -> int:
                return results["flip"]["event"] if member == source else results["flip"]["peers"][member]

            def see(cluster: Cluster, results: Results, ours: Stream = ours, start: Any = start) -> None:
                see_slot(cluster, ours, start(results))

            looks.append(Step(phase, member, f"see slot {ours}", do=see))
            if variant.way_back_slots_first:
                looks.append(Step(phase, new, f"see slot {theirs}", do=lambda c, r, s=theirs: see_slot(c, s, None)))
        return looks

    if variant.pause:
        steps.append(
            Step(
                "pause",
                source,
                f"pause apply on {source}",
                do=lambda c, r: c.set_paused(source, True),
                undo=(lambda c, r: c.set_paused(source, False)) if variant.take_back_resumes_apply else None,
            )
        )
    if variant.nudge:
        steps += [Step("nudge", peer, f"nudge by {peer}", do=lambda c, r, peer=peer: c.commit(peer)) for peer in peers]
    steps += [
        Step("still", source, f"wait until {source} applies nothing any more", until=lambda c, r: c.is_still(source)),
        Step(
            "positions",
            source,
            f"read how far {source} has its peers, sync event",
            do=lambda c, r: note_positions(c, source, peers),
            ref="flip",
        ),
    ]
    if not variant.peer_slots_first:
        steps += [slot_step("late slots", Stream(member, new)) for member in [source, *peers]]
    steps.append(Step("caught_up", new, "wait for it", until=lambda c, r: applied(c, source, new, r["flip"]["event"])))
    if variant.confirm:
        steps.append(Step("held", source, f"see that {source} applies nothing", do=lambda c, r: look(c, r)))
    steps.append(Step("held", new, "see that it is whole", do=lambda c, r: see_sound(c, new, r, variant)))
    steps += see_slots("held")
    steps.append(
        Step(
            "detach",
            new,
            f"disable {copy}",
            do=lambda c, r: disable(c, copy),
            # Where the copy is the source's stream, nothing else is left to go on with.
            undo=None if variant.copy_begun_anew and variant.own_copy else lambda c, r: enable_again(c, copy),
        )
    )
    if variant.stream_end:
        steps.append(
            Step("detached", source, "wait for the stream's end", until=lambda c, r: not c.is_active(copy)),
        )
        if variant.copy_ended:
            steps.append(
                Step("detached", new, "wait for the worker's end", until=lambda c, r: copy not in c.workers),
            )
    if variant.confirm:
        steps.append(
            Step("confirm", source, f"confirm that {source} has applied nothing", do=lambda c, r: look(c, r)),
        )

    steps += see_slots("confirm")

    def turn(cluster: Cluster, results: Results) -> Iterator[None]:
        # As with the wait for the stream's end, which is of no use without it.
        if variant.copy_ended and variant.stream_end and copy in cluster.workers:
            raise StepFailed("the copy's origin is in use")
        starts = dict(results["flip"]["peers"])
        if not variant.position_of_source:
            starts = {peer: len(cluster.nodes[peer].wal) for peer in peers}
        starts[source] = cluster.nodes[new].live.origins[copy] if variant.position_of_copy else results["flip"]["event"]
        yield from switch(cluster, new, starts, forwards=not variant.forwarding_off)

    steps.append(
        Step(
            "switch",
            new,
            "turn to the direct streams",
            do=turn,
            # A copy without forwarding, made into the direct stream, looks like one that has switched.
            done=(lambda c, r: has_switched(c, Stream(source, new), variant))
            if variant.resume_looks and (variant.own_copy or variant.forwarded_copy)
            else None,
        )
    )
    if variant.durable_turn:
        steps.append(Step("enable", new, "enable", do=lambda c, r: enable_streams(c, new, [source, *peers])))
    if variant.pause:
        steps.append(Step("resume", source, "resume apply", do=lambda c, r: c.set_paused(source, False)))
    return [replace(step, section="flip") for step in steps]


# Design 5.


def unpublish(cluster: Cluster, name: str) -> None:
    """Take every table out of the replication sets: what is written from now on is sent to nobody."""
    cluster.nodes[name].live.publishing = False
    cluster.flush(name)


def have_ended(cluster: Cluster, name: str, noted: list[Pending]) -> bool:
    """Tell whether the transactions that were open at the mark have ended."""
    return not any(pending is other for pending in noted for other in cluster.nodes[name].pending)


def drained(cluster: Cluster, stream: Stream, lsn: int, flushes: bool) -> bool:
    """Tell whether a member has applied the target's last event, and flush; who let go of it has been waited for."""
    if stream not in cluster.nodes[stream.subscriber].live.subscriptions:
        return True
    if not applied(cluster, stream.provider, stream.subscriber, lsn):
        return False
    if flushes:
        cluster.mark(stream.subscriber)
    return True


def let_go(cluster: Cluster, stream: Stream) -> Iterator[None]:
    """Drop a subscription if it is there: its slot on the provider goes before the subscriber commits."""
    if stream in cluster.nodes[stream.subscriber].live.subscriptions:
        cluster.let_go(stream)
        yield
        cluster.drop_subscription(stream)


def disable_all(cluster: Cluster, name: str) -> None:
    """Disable every subscription of a node."""
    for stream in cluster.nodes[name].live.subscriptions:
        disable(cluster, stream)


def drop_all(cluster: Cluster, name: str) -> None:
    """Drop every subscription of a node, then its node row."""
    for stream in list(cluster.nodes[name].live.subscriptions):
        cluster.drop_subscription(stream)
    set_registered(cluster, name, False)


def plan_removal(target: str, members: list[str], variant: Variant = RIGHT) -> list[Step]:
    """Return the steps of a removal with drain."""
    return [*plan_drain(target, members, variant), *plan_withdraw(target, members)]


def plan_drain(target: str, members: list[str], variant: Variant) -> list[Step]:
    """Return the steps that make every member hold the same commits of the target."""
    steps = []
    if variant.unpublish:
        steps.append(
            Step(
                "unpublish",
                target,
                f"end what {target} publishes",
                do=lambda c, r: unpublish(c, target),
                done=lambda c, r: not c.nodes[target].live.publishing,
                section="final",
            )
        )
    if variant.settled:
        steps += [
            Step("mark", target, "mark", do=lambda c, r: list(c.nodes[target].pending), ref="mark"),
            Step("settled", target, "wait for those open", until=lambda c, r: have_ended(c, target, r["mark"])),
        ]
    if variant.drain:
        steps.append(event_step("drain", target, "drain"))
        for member in members:
            stream = Stream(target, member)
            steps.append(
                Step(
                    "drained",
                    member,
                    f"wait until {member} has applied everything of {target}, and flush it",
                    until=lambda c, r, stream=stream: drained(c, stream, r["drain"], variant.durable),
                    section="once" if variant.drained_once else None,
                )
            )
    return steps


def plan_withdraw(target: str, members: list[str]) -> list[Step]:
    """Return the steps that take the target out."""
    steps = []
    for member in members:
        stream = Stream(target, member)
        steps.append(Step("leave", member, f"drop {stream}", do=lambda c, r, s=stream: let_go(c, s)))
    steps.append(Step("leave", target, "disable all", do=lambda c, r: disable_all(c, target)))
    for member in members:
        stream = Stream(member, target)
        steps.append(Step("forget", member, f"drop slot {stream}", do=lambda c, r, s=stream: c.drop_slot(s)))
    for member in members:
        steps.append(Step("prove", member, "prove it", do=lambda c, r, member=member: prove_gone(c, target, member)))
    steps.append(Step("drop", target, "drop all", do=lambda c, r: drop_all(c, target)))
    steps.append(Step("proven", target, "prove it", do=lambda c, r: prove_gone(c, target, target)))
    return steps


# The executor.


@dataclass
class Task:
    """A unit in the journal of an operation.

    A spoiled one is to be cleared first, with its bundle. Of one that is done, files has the files of its tables, if
    they are known, and proved the last snapshot under which they were the same. One that has failed rests for a while.
    """

    unit: Unit
    state: str = "pending"
    snapshot: Snapshot | None = None
    lsn: int = 0
    spoiled: bool = False
    files: dict[Table, int] | None = None
    proved: int = 0
    is_resting: bool = False


@dataclass
class Operation:
    """A plan, its journal, and the process that runs it, which may die between any two events."""

    cluster: Cluster
    steps: list[Step]
    variant: Variant = RIGHT
    status: str = "planned"
    tasks: list[Task] = field(default_factory=list)
    snapshot: Snapshot | None = None
    kept_lsn: int | None = None
    failure: StepFailed | None = None
    done: set[int] = field(default_factory=set)
    attempted: set[int] = field(default_factory=set)
    results: Results = field(default_factory=dict)
    process: Iterator[None] | None = None
    connections: dict[str, int] = field(default_factory=dict)
    under_way: list[tuple[Step, Iterator[None], int]] = field(default_factory=list)
    waiting: bool = False
    impatient: bool = False
    flip_is_open: bool = False
    phase: str = ""
    pick: int = 0

    # What the caller of an operation does; each call of advance is one event.

    def call(self, rollback: bool = False) -> None:
        """Begin, resume or roll back, in a new process with new connections."""
        self._open()
        if rollback:
            self.process = self._rollback()
        else:
            if self.variant.resume_looks:
                self.done = {place for place in self.done if self.steps[place].section == "once"}
            self.process = self._run()

    def _open(self) -> None:
        """Connect to every node anew."""
        self.connections = {name: node.starts for name, node in self.cluster.nodes.items()}

    def advance(self, pick: int = 0) -> None:
        """Let the process go on to its next event."""
        self.pick = pick
        self.waiting = False
        assert self.process is not None
        if next(self.process, self) is self:
            self.process = None

    def kill(self) -> None:
        """End the process where it is; what the cluster has been told stays, and a statement goes on to its end."""
        for step, events, starts in self.under_way:
            if self.cluster.nodes[step.node].starts == starts:
                for _ in events:
                    pass
        self.under_way.clear()
        self.process = None
        self.impatient = False
        self.cluster.forget_caller()

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is left to be called."""
        return self.status in ("done", "incomplete", "rolled back")

    # What its process does; at each yield anything else may happen, its death included.

    def _run(self) -> Iterator[None]:
        self.status = "running"
        try:
            if self.variant.resume_looks:
                for section in ("flip", "copy"):
                    if any(self.steps[i].section == section for i in self.attempted):
                        yield from self._settle(section)
            flips = copies = place = 0
            phases = list(dict.fromkeys(step.phase for step in self.steps))
            while place < len(phases):
                try:
                    yield from self._run_phase(phases[place])
                    place += 1
                except StepFailed as failure:
                    section = next(step.section for step in self.steps if step.phase == phases[place])
                    flips += section == "flip"
                    copies += isinstance(failure, StartOver)
                    yield from self._retry(section, failure, flips >= FLIP_TRIES or copies >= COPY_TRIES)
                    place = phases.index(next(step.phase for i, step in enumerate(self.steps) if i not in self.done))
            self.status = "done"
        except Incomplete:
            self.status = "incomplete"
        except StepFailed:
            self.status = "failed"

    def _retry(self, section: str | None, failure: StepFailed, is_last: bool) -> Iterator[None]:
        """Settle what failed, to be tried again from where the new node is brought level; else fail again."""
        if section == "flip":
            self._open()
            yield from self._settle("flip")
        starts_over = isinstance(failure, StartOver)
        if is_last or not (section == "flip" or starts_over):
            raise failure
        if starts_over:
            yield from self._undo("copy")
        else:
            yield from self._settle("copy")
        has_turned = any(self.steps[i].section == "flip" for i in self.done)
        if self.variant.approach_again and not has_turned:
            self.done = {i for i in self.done if self.steps[i].section != "approach"}

    def _rollback(self) -> Iterator[None]:
        self.status = "rolling back"
        try:
            yield from self._undo(None)
            self.status = "rolled back"
        except StepFailed:
            self.status = "failed"

    def _reach(self, step: Step) -> None:
        """In the flip, fail if the node was restarted since the connection to it was opened; else open it again."""
        if self.connections[step.node] != self.cluster.nodes[step.node].starts:
            if self.variant.kept_connections and step.section == "flip":
                raise StepFailed(f"the connection to {step.node} is gone")
            self.connections[step.node] = self.cluster.nodes[step.node].starts

    def _settle(self, section: str) -> Iterator[None]:
        """Count a section's steps as done as far as the cluster shows it, or take all of it back."""
        places = [i for i, step in enumerate(self.steps) if step.section == section]
        for place in reversed(places):
            step = self.steps[place]
            if step.done is None:
                continue
            self._reach(step)
            if step.done(self.cluster, self.results):
                if self._is_hopeless(section, place):
                    break
                # A turn stands for everything before it.
                self.done.update(i for i in range(place + 1) if section == "flip" or i in places)
                for phase in dict.fromkeys(self.steps[i].phase for i in places if i > place):
                    yield from self._run_phase(phase)
                return
            yield
        yield from self._undo(section)

    def _is_hopeless(self, section: str, place: int) -> bool:
        """Tell whether the wait that follows in the section can never end."""
        for step in self.steps[place + 1 :]:
            if step.section == section and step.until is not None:
                try:
                    step.until(self.cluster, self.results)
                except StepFailed:
                    return True
                return False
        return False

    def _undo(self, section: str | None) -> Iterator[None]:
        """Take back a section with everything that was made after it, or all there is, last phase first."""
        first = next(i for i, step in enumerate(self.steps) if section in (None, step.section))
        for place in reversed(range(first, len(self.steps))):
            step = self.steps[place]
            if section is not None and step.section != section and not self.variant.copy_takes_all_back:
                continue
            is_ours = place in self.attempted and (step.undo_needs is None or step.undo_needs in self.results)
            if step.undo is not None and is_ours:
                yield
                self._reach(step)
                step.undo(self.cluster, self.results)
            self.done.discard(place)
        if any(self.steps[i].units for i in range(first, len(self.steps))):
            self.tasks.clear()
        # What was made on it is to be made again.
        self.done = {i for i in self.done if i < first or self.steps[i].section == "once"}
        self.flip_is_open = False

    def _run_phase(self, phase: str) -> Iterator[None]:
        """Run the steps of a phase side by side."""
        places = [i for i, step in enumerate(self.steps) if step.phase == phase and i not in self.done]
        jobs = []
        self.phase = phase
        for place in places:
            self.attempted.add(place)
            self.flip_is_open |= self.steps[place].section == "flip"
            jobs.append(self._run_step(place))
        while jobs:
            yield
            job = jobs[self.pick % len(jobs)]
            if next(job, self) is self:
                jobs.remove(job)

    def _go_through(self, step: Step, events: Iterator[None]) -> Iterator[None]:
        """Carry out a statement of several events, unless its node is restarted meanwhile; give its result."""
        job = (step, events, self.cluster.nodes[step.node].starts)
        self.under_way.append(job)
        try:
            while True:
                try:
                    next(events)
                except StopIteration as end:
                    return end.value
                yield
                if self.cluster.nodes[step.node].starts != job[2]:
                    raise StepFailed(f"{step.node} was restarted inside a statement")
        finally:
            if job in self.under_way:
                self.under_way.remove(job)

    def _run_step(self, place: int) -> Iterator[None]:
        """Look whether a step is done, else do it and wait; the journal learns of it last."""
        step = self.steps[place]
        result = None
        if step.done is not None:
            self._reach(step)
            if step.done(self.cluster, self.results):
                self.done.add(place)
                return
            yield
        if step.do is not None:
            self._reach(step)
            result = step.do(self.cluster, self.results)
            if isinstance(result, Iterator):
                result = yield from self._go_through(step, result)
            yield
        if step.units is not None:
            result = yield from self._run_units(step)
        if step.until is not None:
            while True:
                self._reach(step)
                if step.until(self.cluster, self.results):
                    break
                if self.impatient:
                    self.impatient = False
                    raise StepFailed("the wait ran out of its budget")
                self.waiting = True
                yield
        if step.ref is not None:
            self.results[step.ref] = result
        if step.ref == "units" and not self.tasks:
            self.tasks = [Task(unit) for unit in result]
        self.done.add(place)

    # What it does with units.

    def _is_done(self) -> bool:
        return all(task.state == "done" for task in self.tasks)

    def _bundles(self) -> list[list[Task]]:
        """Return the units, those of one bundle together."""
        numbers = dict.fromkeys(task.unit.bundle for task in self.tasks)
        return [[task for task in self.tasks if task.unit.bundle == number] for number in numbers]

    def _regain_snapshot(self, copy: Stream) -> None:
        """Take over the snapshot of an earlier caller, if a session keeps it that was not given up."""
        last = {
            (task.snapshot.name, task.lsn) if task.snapshot else None for task in self.tasks if task.state != "done"
        }
        self.snapshot = None
        if len(last) == 1 and (known := last.pop()) is not None:
            lsn = known[1] if self.variant.keeper_known else None
            found = self.cluster.find_snapshot(copy.provider, known[0], lsn)
            if found is not None and found.is_kept:
                self.snapshot = self.cluster.keep_snapshot(copy.provider, found)
            elif found is not None:
                self.snapshot = found
            self.kept_lsn = known[1]

    def _begin_units(self, copy: Stream, marks: dict[int, int]) -> None:
        """Find out what is still to be done: what the new node has counts, not what the journal says."""
        self._regain_snapshot(copy)
        current = self.kept_lsn if self.snapshot is not None else None
        found = {task.unit.number: marks.get(task.unit.number) for task in self.tasks}
        proved: dict[int, int] = {}
        for bundle in self._bundles():
            lsns = {found[task.unit.number] for task in bundle}
            if None in lsns or (len(lsns) > 1 and self.variant.marks_compared):
                continue
            is_known = all(task.state == "done" and task.lsn == found[task.unit.number] for task in bundle)
            proved[bundle[0].unit.bundle] = (
                min(task.proved for task in bundle) if is_known else max(lsn for lsn in lsns if lsn is not None)
            )
        for bundle in self._bundles():
            number = bundle[0].unit.bundle
            lsn = max((found[task.unit.number] or 0 for task in bundle), default=0)
            done = {found[task.unit.number] for task in bundle} - {None}
            is_current = current is not None and bool(done) and (done == {current} or not self.variant.kept_positions)
            # What was copied later than it was known that nothing before was rewritten begins again too.
            is_timely = lsn <= min(proved.values(), default=lsn) or not self.variant.files_compared
            is_kept = (number in proved or is_current) and is_timely
            is_begun = bool(done)
            for task in bundle:
                mark = found[task.unit.number]
                is_known = task.state == "done" and task.lsn == mark
                is_done = mark is not None and (is_kept or not self.variant.bundle_whole)
                task.state, task.snapshot = "done" if is_done else "pending", None if is_done else self.snapshot
                task.lsn = (mark or 0) if is_done else current or 0
                task.spoiled = is_begun and not is_kept and self.variant.bundle_whole
                task.files = task.files if is_done and is_known else None
                task.proved = proved.get(number, lsn) if is_done else 0

    def _run_units(self, step: Step) -> Iterator[None]:
        """Work at the units in several lanes, until all are done or one of them cannot be; give their positions."""
        copy, node = step.units, self.cluster.nodes[step.node]
        assert copy is not None and step.do is not None
        self._begin_units(copy, node.live.marks)
        self.failure = None
        lanes = [self._run_lane(copy) for _ in range(LANES)]
        while lanes:
            if self.connections[step.node] != node.starts and self.pick % 2:
                # It looks at the node now and then: a lost connection lets the step begin again.
                self._reach(step)
                self.cluster.forget_caller()
                step.do(self.cluster, self.results)
                self._begin_units(copy, node.live.marks)
                lanes = [self._run_lane(copy) for _ in range(LANES)]
            for lane in [lanes[(self.pick + number) % len(lanes)] for number in range(len(lanes))]:
                has_moved = next(lane, None)
                if has_moved is not False:
                    break
            if has_moved is None:
                lanes.remove(lane)
            self.waiting = has_moved is False
            if self.waiting and self.impatient:
                self.impatient = False
                self.failure = StepFailed("no unit was done in time")
            yield
        if self.failure is not None:
            if self.snapshot is not None and not self.snapshot.is_kept:
                self.cluster.close_snapshot(copy.provider, self.snapshot)
            raise self.failure
        self.cluster.close_snapshot(copy.provider, self.snapshot)
        lsns = {task.lsn for task in self.tasks}
        tables: dict[Table, int] = {}
        for task in self.tasks if len(lsns) > 1 else ():
            tables |= {table: max(task.lsn, tables.get(table, 0)) for table in task.unit.tables}
        return {"lsn": max(lsns, default=0), "tables": tables}

    def _pick_task(self) -> Task | None:
        """Return what a free lane is to work at, if there is anything.

        There is one snapshot at a time, so who needs another waits for all that is under way; and who is spoiled for
        what is under way in its bundle.
        """
        running = [task for task in self.tasks if task.state == "running"]
        tasks = [
            task
            for task in self.tasks
            if task.state == "pending"
            and not (task.is_resting and self.pick % 2)
            and not (running and task.snapshot is None)
            and not (task.spoiled and any(other.unit.bundle == task.unit.bundle for other in running))
        ]
        return min(tasks, key=lambda task: (task.snapshot is None, task.unit.number), default=None)

    def _run_lane(self, copy: Stream) -> Iterator[bool]:
        """Work at one unit after the other; at each yield say whether anything was done."""
        while self.failure is None and not self._is_done():
            task = self._pick_task()
            if task is None:
                yield False
                continue
            task.state, task.is_resting = "running", False
            yield from self._prepare_unit(copy, task)
            asked = task.snapshot
            if asked is None or task.state != "running":
                continue
            session = self.cluster.send_unit(copy, task.unit, asked, task.lsn, self.variant)
            yield True
            while session.stage is not Stage.DONE and session.trouble is None and not session.is_orphan:
                yield False
            if session.is_orphan or session.trouble is not None:
                self._fail_unit(copy, task, asked, Trouble.LOST if session.is_orphan else session.trouble)
            else:
                self._settle_unit(copy, task, session)
            yield True

    def _prepare_unit(self, copy: Stream, task: Task) -> Iterator[bool]:
        """Clear what a lost snapshot left, get a snapshot, and compare the files of what was copied under others."""
        while True:
            if task.spoiled:
                bundle = [other for other in self.tasks if other.unit.bundle == task.unit.bundle]
                self.cluster.clear_units(copy.subscriber, [o.unit for o in bundle], self.variant.copy_emptied)
                yield True
                for other in bundle:
                    other.spoiled = False
            elif task.snapshot is None:
                yield from self._take_snapshot(copy)
            elif self.variant.files_compared and self._unproved(task.lsn):
                if task.snapshot not in self.cluster.nodes[copy.provider].snapshots:
                    self._fail_unit(copy, task, task.snapshot, Trouble.STALE)
                    yield True
                    return
                files = task.snapshot.files
                yield True
                self._keep_units(task, files)
            else:
                return

    def _unproved(self, lsn: int) -> list[Task]:
        """Return what is done of which nobody knows whether it was rewritten before the snapshot at an LSN."""
        return [task for task in self.tasks if task.state == "done" and task.proved < lsn]

    def _keep_units(self, task: Task, files: dict[Table, int]) -> None:
        """Have those bundles copied again of which a table has another file in the snapshot of a unit.

        What is known of one part of a table holds for the others.
        """
        unproved = self._unproved(task.lsn)
        for number in {other.unit.bundle for other in unproved}:
            looked_at = [other for other in unproved if other.unit.bundle == number]
            known = {table: file for other in looked_at for table, file in (other.files or {}).items()}
            is_kept = all(known.get(table) == files[table] for other in looked_at for table in other.unit.tables)
            for other in [o for o in self.tasks if o.unit.bundle == number and o.state == "done"]:
                other.proved, other.spoiled = task.lsn, not is_kept
                if not is_kept:
                    other.state, other.snapshot, other.lsn = "pending", task.snapshot, task.lsn

    def _take_snapshot(self, copy: Stream) -> Iterator[bool]:
        """Get a snapshot for all that is to be done, and its LSN; a bundle that is partly done begins again."""
        lsn = self.cluster.mark(copy.provider) if not self.variant.snapshot_lsn else None
        if lsn is not None:
            yield True
        self.cluster.close_snapshot(copy.provider, self.snapshot)
        snapshot = self.snapshot = self.cluster.open_snapshot(copy.provider)
        # There may be no session to be had.
        if self.pick % 2:
            snapshot = self.snapshot = self.cluster.keep_snapshot(copy.provider, snapshot)
        yield True
        for bundle in self._bundles():
            if all(other.state == "done" for other in bundle):
                continue
            is_parted = any(other.state == "done" for other in bundle) and self.variant.parted_cleared
            for other in bundle:
                if other.state != "done" or is_parted:
                    other.snapshot, other.lsn = snapshot, snapshot.lsn if lsn is None else lsn
                    other.state = "pending" if other.state == "done" else other.state
                other.spoiled |= is_parted

    def _settle_unit(self, copy: Stream, task: Task, session: Session) -> None:
        """Write down that a unit is done, unless it is at another position."""
        if not self.variant.head_before_snapshots and all(other.state != "done" for other in self.tasks):
            self.results["head"] = self.cluster.commit(copy.provider, head_of=copy) - 1
        is_lost = session.lsn != task.lsn and self.variant.marks_compared
        task.state, task.spoiled = "pending" if is_lost else "done", is_lost
        task.proved, task.files = task.lsn, session.files
        if is_lost:
            task.snapshot, task.lsn = None, 0
        if self._is_done():
            self.cluster.close_snapshot(copy.provider, self.snapshot)

    def _fail_unit(self, copy: Stream, task: Task, asked: Snapshot, trouble: Trouble | None) -> None:
        """Have a unit tried again, under another snapshot if this one is of no use; or fail."""
        task.state = "failed" if trouble is Trouble.FAILED else "pending"
        task.is_resting = True
        if trouble is Trouble.STALE and task.snapshot is asked:
            self._lose_snapshot(copy)
        if trouble is Trouble.FAILED:
            self.failure = StepFailed("a unit cannot be copied")

    def _lose_snapshot(self, copy: Stream) -> None:
        """Have what is to be copied wait for another snapshot."""
        self.cluster.close_snapshot(copy.provider, self.snapshot)
        for task in self.tasks:
            if task.state not in ("done", "running"):
                task.snapshot, task.lsn = None, 0
