"""The protocols of design 4 and 5 as data, and an executor that runs, resumes and takes back such a plan.

The steps mirror sql/templates/plan, the executor sql/templates/run. A Variant leaves one of its safeguards out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from model.cluster_model import Cluster, Copy, Leftover, Stream, Subscription

FLIP_TRIES = 5

Results = dict[str, Any]
Action = Callable[[Cluster, Results], Any]
Look = Callable[[Cluster, Results], bool]


@dataclass(frozen=True)
class Variant:
    """Which safeguards a protocol has; the right one has all."""

    forwarded_copy: bool = True
    barrier: bool = True
    pause: bool = True
    confirm: bool = True
    stream_end: bool = True
    forwarding_off: bool = True
    peer_slots_first: bool = True
    way_back_slots_first: bool = True
    position_of_source: bool = True
    resume_looks: bool = True
    take_back_resumes_apply: bool = True
    kept_connections: bool = True
    unpublish: bool = True
    drain: bool = True


RIGHT = Variant()


class StepFailed(Exception):
    """A step failed on its node; not a violation: the operation stops, tries again or is taken up later."""


@dataclass(frozen=True)
class Step:
    """One statement on one node, with its done, undo and until."""

    phase: str
    node: str
    title: str
    do: Action | None = None
    done: Look | None = None
    undo: Action | None = None
    until: Look | None = None
    section: str | None = None
    ref: str | None = None


# Statements that several steps use.


def applied(cluster: Cluster, stream: Stream, lsn: int) -> bool:
    """Tell whether the subscriber has applied its provider's commits up to an LSN."""
    subscription = cluster.nodes[stream[1]].live.subscriptions.get(stream)
    if subscription is None or not subscription.enabled:
        raise StepFailed(f"subscription {stream} is gone or disabled")
    return cluster.nodes[stream[1]].live.origins.get(stream, 0) >= lsn


def slot_step(phase: str, stream: Stream) -> Step:
    """Return the step that makes a slot for a subscription to come."""
    return Step(
        phase,
        stream[0],
        f"create slot {stream}",
        do=lambda c, r: c.create_slot(stream),
        done=lambda c, r: stream in c.nodes[stream[0]].slots,
        undo=lambda c, r: c.drop_slot(stream),
    )


def subscription_step(phase: str, stream: Stream, subscription: Subscription, section: str | None = None) -> Step:
    """Return the step that makes a subscription."""
    return Step(
        phase,
        stream[1],
        f"create subscription {stream}",
        do=lambda c, r: c.create_subscription(stream, subscription),
        done=lambda c, r: stream in c.nodes[stream[1]].live.subscriptions,
        undo=lambda c, r: c.drop_subscription(stream),
        section=section,
    )


def event_step(phase: str, node: str, ref: str) -> Step:
    """Return the step that writes a sync event."""
    return Step(phase, node, f"sync event on {node}", do=lambda c, r: c.commit(node), ref=ref)


def wait_step(phase: str, stream: Stream, ref: str, section: str | None = None) -> Step:
    """Return the step that waits until the provider's sync event has been applied."""
    return Step(
        phase,
        stream[1],
        f"wait until {stream[1]} has applied the sync event of {stream[0]}",
        until=lambda c, r: applied(c, stream, r[ref]),
        section=section,
    )


def set_registered(cluster: Cluster, name: str, registered: bool) -> None:
    """Create or drop the node row of a node."""
    cluster.nodes[name].live.registered = registered
    cluster.flush(name)


def empty(cluster: Cluster, name: str) -> None:
    """Drop every object that the copy brought."""
    live = cluster.nodes[name].live
    live.rows, live.seen = {}, set()
    live.bag.clear()
    cluster.flush(name)


def prove_gone(cluster: Cluster, name: str) -> None:
    """Fail if anything of a node is left."""
    try:
        cluster.check_gone(name)
    except Leftover as left:
        raise StepFailed(str(left)) from left


# Design 4.


def is_copied(cluster: Cluster, stream: Stream) -> bool:
    """Tell whether the copy is complete; fail when it never will be."""
    subscription = cluster.nodes[stream[1]].live.subscriptions.get(stream)
    if subscription is None or not subscription.enabled:
        raise StepFailed("the subscription of the copy is gone or disabled")
    if subscription.copy is Copy.BEGUN and stream not in cluster.workers:
        raise StepFailed("the copy broke off")
    return subscription.copy is Copy.NONE


def has_switched(cluster: Cluster, stream: Stream) -> bool:
    """Tell whether the new node has turned to the direct streams."""
    return cluster.nodes[stream[1]].live.subscriptions.get(stream) == Subscription(enabled=True)


def positions(cluster: Cluster, source: str, peers: list[str]) -> dict[str, int]:
    """Return how far the source has applied its peers' commits."""
    return {peer: cluster.nodes[source].live.origins.get((peer, source), 0) for peer in peers}


def set_paused(cluster: Cluster, name: str, paused: bool) -> None:
    """Pause or resume the apply workers of a node."""
    cluster.nodes[name].paused = paused


def disable(cluster: Cluster, stream: Stream) -> None:
    """Disable a subscription; its worker goes on until it notices."""
    subscription = cluster.nodes[stream[1]].live.subscriptions[stream]
    cluster.alter_subscription(stream, replace(subscription, enabled=False))


def enable(cluster: Cluster, stream: Stream) -> None:
    """Enable a subscription if it is there."""
    subscription = cluster.nodes[stream[1]].live.subscriptions.get(stream)
    if subscription is not None:
        cluster.alter_subscription(stream, replace(subscription, enabled=True))


def confirm(found: dict[str, int], noted: dict[str, int]) -> None:
    """Fail if the source has applied anything since the positions were read."""
    if found != noted:
        raise StepFailed("apply went on before the stream had ended")


def switch(cluster: Cluster, main: Stream, peers: list[str], starts: dict[str, int], forwards: bool) -> None:
    """In one transaction: end the forwarding, set where each direct stream starts, enable them all."""
    source, new = main
    if any((peer, new) in cluster.workers for peer in peers):
        raise StepFailed("an origin is in use")
    live = cluster.nodes[new].live
    for peer in peers:
        live.origins[peer, new] = starts[peer]
        live.subscriptions[peer, new] = Subscription(enabled=True)
    live.subscriptions[source, new] = Subscription(enabled=True, forwards=forwards)
    cluster.flush(new)


def plan_addition(source: str, peers: list[str], new: str, variant: Variant = RIGHT) -> list[Step]:
    """Return the steps of an addition (design 4)."""
    main = (source, new)
    members = [source, *peers]
    steps = [
        *(Step("clean", node, f"nothing of {new} is left", undo=lambda c, r: prove_gone(c, new)) for node in members),
        Step(
            "register",
            new,
            f"create node {new}",
            do=lambda c, r: set_registered(c, new, True),
            done=lambda c, r: c.nodes[new].live.registered,
            undo=lambda c, r: set_registered(c, new, False),
        ),
        Step("note", new, "note what is there", undo=lambda c, r: empty(c, new), section="copy"),
        Step("note", source, "the slot that the copy will make", undo=lambda c, r: c.drop_slot(main), section="copy"),
        subscription_step("copying", main, Subscription(True, variant.forwarded_copy, Copy.WANTED), "copy"),
        Step("copied", new, "wait for the copy", until=lambda c, r: is_copied(c, main), section="copy"),
        event_step("level", source, "level"),
        wait_step("levelled", main, "level"),
    ]
    if variant.peer_slots_first:
        steps += [slot_step("prepare", (peer, new)) for peer in peers]
    if variant.way_back_slots_first:
        steps += [slot_step("prepare", (new, member)) for member in members]
    for peer in peers:
        steps.append(subscription_step("mark", (peer, new), Subscription(enabled=False)))
        steps.append(event_step("mark", peer, f"mark {peer}"))
    if variant.barrier:
        steps += [wait_step("barrier", (peer, source), f"mark {peer}") for peer in peers]
    steps += plan_flip(source, peers, new, variant)
    if not variant.way_back_slots_first:
        steps += [slot_step("late way back", (new, member)) for member in members]
    steps += [subscription_step("way back", (new, member), Subscription(enabled=True)) for member in members]
    mesh = [(new, member) for member in members] + [(member, new) for member in members]
    for stream in mesh:
        steps.append(
            Step(
                "replicating",
                stream[1],
                f"wait for {stream} to replicate",
                until=lambda c, r, stream=stream: stream in c.workers,
            )
        )
    steps += [event_step("prove", node, f"event {node}") for node in [*members, new]]
    steps += [wait_step("proven", stream, f"event {stream[0]}") for stream in mesh]
    return steps


def plan_flip(source: str, peers: list[str], new: str, variant: Variant) -> list[Step]:
    """Return the steps of the flip (design 4, step 7)."""
    main = (source, new)
    steps = []
    if variant.pause:
        steps.append(
            Step(
                "pause",
                source,
                f"pause apply on {source}",
                do=lambda c, r: set_paused(c, source, True),
                undo=(lambda c, r: set_paused(c, source, False)) if variant.take_back_resumes_apply else None,
            )
        )
    steps += [
        Step(
            "positions",
            source,
            f"read how far {source} has its peers, sync event",
            do=lambda c, r: {"peers": positions(c, source, peers), "event": c.commit(source)},
            ref="flip",
        ),
    ]
    if not variant.peer_slots_first:
        steps += [slot_step("late slots", (peer, new)) for peer in peers]
    steps += [
        Step("caught up", new, "wait for it", until=lambda c, r: applied(c, main, r["flip"]["event"])),
        Step(
            "detach",
            new,
            f"disable {main}",
            do=lambda c, r: disable(c, main),
            undo=lambda c, r: enable(c, main),
        ),
    ]
    if variant.stream_end:
        steps.append(Step("detached", source, "wait for the stream's end", until=lambda c, r: main not in c.workers))
    if variant.confirm:
        steps.append(
            Step(
                "confirm",
                source,
                f"confirm that {source} has applied nothing meanwhile",
                do=lambda c, r: confirm(positions(c, source, peers), r["flip"]["peers"]),
            )
        )

    def turn(cluster: Cluster, results: Results) -> None:
        starts = results["flip"]["peers"]
        if not variant.position_of_source:
            starts = {peer: len(cluster.nodes[peer].wal) for peer in peers}
        switch(cluster, main, peers, starts, forwards=not variant.forwarding_off)

    steps.append(
        Step(
            "switch",
            new,
            "turn to the direct streams",
            do=turn,
            # A copy without forwarding looks like one that has switched.
            done=(lambda c, r: has_switched(c, main)) if variant.resume_looks and variant.forwarded_copy else None,
        )
    )
    if variant.pause:
        steps.append(Step("resume", source, "resume apply", do=lambda c, r: set_paused(c, source, False)))
    return [replace(step, section="flip") for step in steps]


# Design 5.


def unpublish(cluster: Cluster, name: str) -> None:
    """Take every table out of the replication sets: what is committed from now on is sent to nobody."""
    cluster.nodes[name].live.publishing = False
    cluster.flush(name)


def drained(cluster: Cluster, stream: Stream, lsn: int) -> bool:
    """Tell whether a member has applied the target's last event; one that let go of it has been waited for."""
    return stream not in cluster.nodes[stream[1]].live.subscriptions or applied(cluster, stream, lsn)


def drop_all(cluster: Cluster, name: str) -> None:
    """Drop every subscription of a node, then its node row."""
    for stream in list(cluster.nodes[name].live.subscriptions):
        cluster.drop_subscription(stream)
    set_registered(cluster, name, False)


def plan_removal(target: str, members: list[str], variant: Variant = RIGHT) -> list[Step]:
    """Return the steps of a removal with drain (design 5)."""
    steps = []
    if variant.unpublish:
        steps.append(
            Step(
                "unpublish",
                target,
                f"end what {target} publishes",
                do=lambda c, r: unpublish(c, target),
                done=lambda c, r: not c.nodes[target].live.publishing,
            )
        )
    if variant.drain:
        steps.append(
            Step(
                "drain",
                target,
                f"last sync event on {target}",
                do=lambda c, r: c.commit(target) if c.nodes[target].live.registered else 0,
                ref="drain",
            )
        )
        for member in members:
            steps.append(
                Step(
                    "drained",
                    member,
                    f"wait until {member} has applied everything of {target}",
                    until=lambda c, r, stream=(target, member): drained(c, stream, r["drain"]),
                )
            )
    for member in members:
        stream = (target, member)
        steps.append(Step("leave", member, f"drop {stream}", do=lambda c, r, s=stream: c.drop_subscription(s)))
    steps.append(Step("drop", target, "drop all", do=lambda c, r: drop_all(c, target)))
    for member in members:
        stream = (member, target)
        steps.append(Step("forget", member, f"drop slot {stream}", do=lambda c, r, s=stream: c.drop_slot(s)))
    steps.append(Step("prove", target, "prove that nothing is left", do=lambda c, r: prove_gone(c, target)))
    return steps


# The executor.


@dataclass
class Operation:
    """A plan, its journal, and the process that runs it, which may die between any two events."""

    cluster: Cluster
    steps: list[Step]
    variant: Variant = RIGHT
    status: str = "planned"
    done: set[int] = field(default_factory=set)
    attempted: set[int] = field(default_factory=set)
    results: Results = field(default_factory=dict)
    process: Iterator[None] | None = None
    connections: dict[str, int] = field(default_factory=dict)
    waiting: bool = False
    impatient: bool = False
    flip_is_open: bool = False
    phase: str = ""
    pick: int = 0

    # What the caller of an operation does; each call of advance is one event.

    def call(self, rollback: bool = False) -> None:
        """Begin, resume or roll back, in a new process with new connections."""
        self.connections = {name: node.starts for name, node in self.cluster.nodes.items()}
        if rollback:
            self.process = self._rollback()
        else:
            if self.variant.resume_looks:
                self.done.clear()
            self.process = self._run()

    def advance(self, pick: int = 0) -> None:
        """Let the process go on to its next event."""
        self.pick = pick
        self.waiting = False
        assert self.process is not None
        if next(self.process, self) is self:
            self.process = None

    def kill(self) -> None:
        """End the process where it is; what the cluster has been told stays."""
        self.process = None
        self.impatient = False

    @property
    def is_over(self) -> bool:
        """Tell whether nothing is left to be called."""
        return self.status in ("done", "rolled back")

    # What its process does; at each yield anything else may happen, its death included.

    def _run(self) -> Iterator[None]:
        self.status = "running"
        try:
            if self.variant.resume_looks:
                for section in ("flip", "copy"):
                    if any(self.steps[i].section == section for i in self.attempted):
                        yield from self._settle(section)
            tries = 0
            phases = list(dict.fromkeys(step.phase for step in self.steps))
            place = 0
            while place < len(phases):
                try:
                    yield from self._run_phase(phases[place])
                    place += 1
                except StepFailed:
                    section = next(step.section for step in self.steps if step.phase == phases[place])
                    tries += 1
                    if section != "flip":
                        raise
                    yield from self._settle("flip")
                    if tries >= FLIP_TRIES:
                        raise
                    place = phases.index(next(step.phase for step in self.steps if step.section == "flip"))
            self.status = "done"
        except StepFailed:
            self.status = "failed"

    def _rollback(self) -> Iterator[None]:
        self.status = "rolling back"
        try:
            yield from self._undo(None)
            self.status = "rolled back"
        except StepFailed:
            self.status = "failed"

    def _reach(self, step: Step) -> None:
        """Fail if the node was restarted since the connection to it was opened."""
        if self.variant.kept_connections and self.connections[step.node] != self.cluster.nodes[step.node].starts:
            raise StepFailed(f"the connection to {step.node} is gone")

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
                self.done.update(i for i in places if i <= place)
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
        """Take back a section, or everything, last phase first."""
        for place in reversed(range(len(self.steps))):
            step = self.steps[place]
            if section is not None and step.section != section:
                continue
            if step.undo is not None:
                yield
                self._reach(step)
                step.undo(self.cluster, self.results)
            self.done.discard(place)
        if section != "copy":
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
            yield
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
        self.done.add(place)
