"""A Spock cluster in a few data structures: what it keeps, what it loses in a crash, what it sends to whom.

Every method is one atomic event; whoever drives the model decides in which order they happen. A commit that is
applied twice, or before the row it changes is there, raises Violation on the spot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum

Stream = tuple[str, str]
"""Provider and subscriber: names a subscription, its slot and its origin, as spock_gen_slot_name does."""


class Violation(AssertionError):
    """The cluster has done what must never happen."""


class Doubled(Violation):
    """A commit was applied twice."""


class Dangling(Violation):
    """A commit was applied before what it depends on."""


class Lost(Violation):
    """A commit is missing where it has to be."""


class Different(Violation):
    """Nodes do not hold the same rows."""


class Leftover(Violation):
    """Something of an operation is still there."""


class Stuck(Violation):
    """An operation neither ends nor can be brought to its end."""


class Kind(Enum):
    """What a change does; a table without a key takes only APPEND."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    APPEND = "append"


@dataclass(frozen=True)
class Change:
    """One row changed; the new value is the number of its commit."""

    kind: Kind
    key: int


@dataclass(frozen=True)
class Commit:
    """A user's transaction, or a sync event when it changes nothing."""

    number: int
    node: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A commit as it stands in a node's WAL; its LSN is its place there, counted from 1."""

    commit: Commit
    local: bool
    published: bool


class Copy(Enum):
    """How far a subscription's copy of the data is."""

    NONE = "r"
    WANTED = "i"
    BEGUN = "d"


@dataclass(frozen=True)
class Subscription:
    """A row of spock.subscription."""

    enabled: bool
    forwards: bool = False
    copy: Copy = Copy.NONE


@dataclass
class Database:
    """What a node holds: rows, and in the same transactions its subscriptions and origins."""

    registered: bool = False
    publishing: bool = True
    rows: dict[int, int] = field(default_factory=dict)
    bag: Counter[int] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    subscriptions: dict[Stream, Subscription] = field(default_factory=dict)
    origins: dict[Stream, int] = field(default_factory=dict)

    def clone(self) -> Database:
        """Return a copy that shares nothing that changes."""
        return replace(
            self,
            rows=dict(self.rows),
            bag=Counter(self.bag),
            seen=set(self.seen),
            subscriptions=dict(self.subscriptions),
            origins=dict(self.origins),
        )

    def take(self, commit: Commit, where: str) -> None:
        """Carry out the changes of a commit."""
        if commit.number in self.seen:
            raise Doubled(f"commit {commit.number} of {commit.node} came twice to {where}")
        for change in commit.changes:
            if change.kind is Kind.APPEND:
                self.bag[change.key] += 1
                continue
            if (change.kind is Kind.INSERT) == (change.key in self.rows):
                raise Dangling(
                    f"{change.kind.value} of row {change.key}, commit {commit.number} of {commit.node}, on {where}"
                )
            if change.kind is Kind.DELETE:
                del self.rows[change.key]
            else:
                self.rows[change.key] = commit.number
        self.seen.add(commit.number)


@dataclass
class Slot:
    """A replication slot: never behind where it was made, confirmed as far as the subscriber has flushed."""

    made: int
    confirmed: int


@dataclass
class Worker:
    """An apply worker and its walsender: one reading position, and the settings it was started with."""

    position: int
    forwards: bool
    snapshot: Database | None = None


class Node:
    """A server: what it holds, what of that is flushed, its WAL and its slots."""

    def __init__(self, name: str, registered: bool) -> None:
        self.name = name
        self.live = Database(registered=registered)
        self.durable = self.live.clone()
        self.wal: list[Entry] = []
        self.flushed = 0
        self.slots: dict[Stream, Slot] = {}
        self.paused = False
        self.starts = 1

    def flush(self) -> None:
        """Make everything so far durable."""
        self.durable = self.live.clone()
        self.flushed = len(self.wal)


class Cluster:
    """Nodes, the workers between them, and the list of everything that users were promised to keep."""

    def __init__(self, members: list[str], blanks: list[str]) -> None:
        self.nodes = {name: Node(name, name in members) for name in [*members, *blanks]}
        self.workers: dict[Stream, Worker] = {}
        self.commits: list[Commit] = []
        self.last_change: dict[int, Commit] = {}
        self.promised: set[int] = set()
        self.is_broken = False
        for provider in members:
            for subscriber in members:
                if provider != subscriber:
                    self.create_slot((provider, subscriber))
                    self.nodes[subscriber].live.subscriptions[provider, subscriber] = Subscription(enabled=True)
        for node in self.nodes.values():
            node.flush()

    # What users do.

    def commit(self, name: str, *changes: Change) -> int:
        """Commit on a node, synchronously; return the LSN."""
        node = self.nodes[name]
        commit = Commit(len(self.commits), name, changes)
        self.commits.append(commit)
        node.live.take(commit, name)
        node.wal.append(Entry(commit, local=True, published=node.live.publishing))
        if node.live.publishing:
            if changes:
                self.promised.add(commit.number)
            for change in changes:
                self.last_change[change.key] = commit
        self.flush(name)
        return len(node.wal)

    def insert(self, name: str, keyed: bool) -> int:
        """Insert a row with a new key, or a row into the table that has none."""
        return self.commit(name, Change(Kind.INSERT if keyed else Kind.APPEND, len(self.commits)))

    def may_change(self, name: str, key: int, counted: list[str]) -> bool:
        """Tell whether a node may change a row: its own last change, or one that all those counted have for good."""
        last = self.last_change.get(key)
        if last is None or key not in self.nodes[name].live.rows or last.number not in self.nodes[name].live.seen:
            return False
        return last.node == name or all(last.number in self.nodes[other].durable.seen for other in counted)

    # What servers do by themselves.

    def flush(self, name: str) -> None:
        """Flush a node's WAL, and tell its providers how far it is."""
        node = self.nodes[name]
        node.flush()
        for (provider, subscriber), position in node.durable.origins.items():
            slot = self.nodes[provider].slots.get((provider, subscriber))
            if slot is not None and (provider, subscriber) in self.workers:
                slot.confirmed = max(slot.confirmed, position)

    def crash(self, name: str) -> None:
        """Kill a server and start it again: what was not flushed is gone, what slots confirmed may be forgotten."""
        node = self.nodes[name]
        node.live = node.durable.clone()
        del node.wal[node.flushed :]
        node.paused = False
        node.starts += 1
        for slot in node.slots.values():
            slot.confirmed = slot.made
        for stream in [stream for stream in self.workers if name in stream]:
            del self.workers[stream]

    def can_start(self, stream: Stream) -> bool:
        """Tell whether the worker of a subscription can be started."""
        provider, subscriber = stream
        subscription = self.nodes[subscriber].live.subscriptions.get(stream)
        if subscription is None or not subscription.enabled or stream in self.workers:
            return False
        if subscription.copy is Copy.WANTED:
            return stream not in self.nodes[provider].slots
        return subscription.copy is Copy.NONE and stream in self.nodes[provider].slots

    def start_worker(self, stream: Stream) -> None:
        """Start a worker: it begins a copy that is wanted, or streams from where slot and origin say."""
        provider, subscriber = stream
        node = self.nodes[subscriber]
        subscription = node.live.subscriptions[stream]
        if subscription.copy is Copy.WANTED:
            self.create_slot(stream)
            node.live.subscriptions[stream] = replace(subscription, copy=Copy.BEGUN)
            self.flush(subscriber)
            snapshot = self.nodes[provider].live.clone()
            self.workers[stream] = Worker(self.nodes[provider].slots[stream].made, subscription.forwards, snapshot)
        else:
            start = max(self.nodes[provider].slots[stream].confirmed, node.live.origins.get(stream, 0))
            self.workers[stream] = Worker(start, subscription.forwards)

    def can_stop(self, stream: Stream) -> bool:
        """Tell whether a worker is running whose subscription is disabled."""
        return stream in self.workers and not self.nodes[stream[1]].live.subscriptions[stream].enabled

    def stop_worker(self, stream: Stream) -> None:
        """End a worker and its walsender, between two transactions."""
        del self.workers[stream]

    def apply(self, stream: Stream) -> bool:
        """Let a worker take one commit, or finish its copy; return whether there was one to take."""
        provider, subscriber = stream
        worker, node, source = self.workers[stream], self.nodes[subscriber], self.nodes[provider]
        if worker.snapshot is not None:
            node.live.rows = worker.snapshot.rows
            node.live.bag = worker.snapshot.bag
            node.live.seen = worker.snapshot.seen
            node.live.origins[stream] = worker.position
            node.live.subscriptions[stream] = replace(node.live.subscriptions[stream], copy=Copy.NONE)
            worker.snapshot = None
            self.flush(subscriber)
            return True
        if node.paused:
            return False
        while worker.position < source.flushed:
            entry = source.wal[worker.position]
            worker.position += 1
            if (entry.local or worker.forwards) and (entry.published or not entry.commit.changes):
                try:
                    node.live.take(entry.commit, subscriber)
                except Violation:
                    self.is_broken = True
                    raise
                node.live.origins[stream] = worker.position
                node.wal.append(Entry(entry.commit, local=False, published=node.live.publishing))
                return True
        return False

    def settle_down(self) -> None:
        """Let everything that can go on by itself do so, until nothing can."""
        moved = True
        while moved:
            moved = False
            for node in self.nodes.values():
                # Others wait only for what is forwarded to them: the rest may stay unflushed.
                forwards = any(stream[0] == node.name and worker.forwards for stream, worker in self.workers.items())
                if forwards and node.flushed < len(node.wal):
                    self.flush(node.name)
                    moved = True
                for stream in list(node.live.subscriptions):
                    if self.can_start(stream):
                        self.start_worker(stream)
                        moved = True
                    elif self.can_stop(stream):
                        self.stop_worker(stream)
                        moved = True
                    while stream in self.workers and self.apply(stream):
                        moved = True

    # What a caller does through SQL.

    def create_slot(self, stream: Stream) -> None:
        """Make a slot; it is consistent where the provider's WAL ends."""
        self.flush(stream[0])
        position = len(self.nodes[stream[0]].wal)
        self.nodes[stream[0]].slots[stream] = Slot(position, position)

    def drop_slot(self, stream: Stream) -> None:
        """Drop a slot if it is there, after its walsender."""
        self.workers.pop(stream, None)
        self.nodes[stream[0]].slots.pop(stream, None)

    def create_subscription(self, stream: Stream, subscription: Subscription) -> None:
        """Make a subscription; an origin of an earlier life goes."""
        node = self.nodes[stream[1]]
        node.live.origins.pop(stream, None)
        node.live.subscriptions[stream] = subscription
        self.flush(stream[1])

    def alter_subscription(self, stream: Stream, subscription: Subscription) -> None:
        """Change a subscription; its worker learns of it only when it is started again."""
        self.nodes[stream[1]].live.subscriptions[stream] = subscription
        self.flush(stream[1])

    def drop_subscription(self, stream: Stream) -> None:
        """Drop a subscription if it is there, its origin and the slot on its provider."""
        node = self.nodes[stream[1]]
        if stream in node.live.subscriptions:
            self.drop_slot(stream)
            del node.live.subscriptions[stream]
            node.live.origins.pop(stream, None)
            self.flush(stream[1])

    # What has to hold.

    def check_equal(self, names: list[str]) -> None:
        """Raise if a promised commit is missing on one of these nodes, or their rows differ."""
        for name in names:
            missing = self.promised - self.nodes[name].live.seen
            if missing:
                raise Lost(f"commits {sorted(missing)} are not on {name}")
        first = self.nodes[names[0]].live
        for name in names[1:]:
            if (self.nodes[name].live.rows, self.nodes[name].live.bag) != (first.rows, first.bag):
                raise Different(f"{name} does not hold what {names[0]} holds")

    def check_gone(self, name: str) -> None:
        """Raise if a subscription, a slot, an origin or the node row of a node is left anywhere."""
        for node in self.nodes.values():
            for streams in (node.live.subscriptions, node.live.origins, node.slots):
                for stream in streams:
                    if name in stream:
                        raise Leftover(f"{stream} is still on {node.name}")
        if self.nodes[name].live.registered:
            raise Leftover(f"{name} is still a node")

    def check_streams(self, names: list[str]) -> None:
        """Raise unless the streams between these nodes are a full mesh, enabled, and there are no other slots."""
        mesh = {(provider, subscriber) for provider in names for subscriber in names if provider != subscriber}
        for node in self.nodes.values():
            if node.paused:
                raise Leftover(f"apply is still paused on {node.name}")
            for stream in node.slots:
                if stream not in mesh:
                    raise Leftover(f"slot {stream} is still on {node.name}")
        for stream in mesh:
            if self.nodes[stream[1]].live.subscriptions.get(stream) != Subscription(enabled=True):
                raise Lost(f"subscription {stream} does not replicate")
