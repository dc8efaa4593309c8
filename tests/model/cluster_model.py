"""A Spock cluster in a few data structures: what it keeps, what it loses in a crash, what it sends to whom.

Every method is one atomic event; whoever drives the model decides in which order they happen. A commit that is
applied twice, or before the row it changes is there, raises Violation on the spot.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

STALE = 1000
"""A position that an origin from an earlier life of a node has: further than any log gets here."""


class Stream(NamedTuple):
    """Provider and subscriber, and a name where a second stream is between them.

    It names a subscription, its slot and its origin, as spock_gen_slot_name does.
    """

    provider: str
    subscriber: str
    name: str = "direct"


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


class Returned(Violation):
    """What a copy restored on a new node came to a member."""


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
    """A user's transaction; it may change nothing."""

    number: int
    node: str
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A commit as it stands in a node's WAL, or a mark there; its LSN is its place, counted from 1.

    A restore is what a copy has made: with DDL replication on it is sent to everybody who reads from there.
    """

    commit: Commit | None
    local: bool = True
    published: bool = True
    is_restore: bool = False


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
    """What a node holds: rows, and in the same transactions its subscriptions and origins.

    discarded counts what Spock has set aside in its log instead of applying it.
    """

    registered: bool = False
    publishing: bool = True
    rows: dict[int, int] = field(default_factory=dict)
    bag: Counter[int] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    subscriptions: dict[Stream, Subscription] = field(default_factory=dict)
    origins: dict[Stream, int] = field(default_factory=dict)
    discarded: int = 0

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

    def take_again(self, commit: Commit) -> None:
        """Carry out a commit once more: rows with a key end as they were, others are there twice."""
        for change in commit.changes:
            if change.kind is Kind.APPEND:
                self.bag[change.key] += 1


@dataclass
class Slot:
    """A replication slot: never behind where it was made, confirmed as far as the subscriber has flushed."""

    made: int
    confirmed: int


@dataclass
class Worker:
    """An apply worker and its walsender: one reading position, and the settings it was started with.

    Inside a transaction, begun says which, and discards that Spock takes it for one that has failed before. One that
    is orphaned has lost its walsender, and not yet noticed: it goes on with what it has received.
    """

    position: int
    forwards: bool
    snapshot: Database | None = None
    files: int = 0
    begun: int | None = None
    discards: bool = False
    is_first: bool = True
    is_orphaned: bool = False


@dataclass(frozen=True)
class Pending:
    """A transaction of a user that has written and not yet committed."""

    change: Change
    published: bool


class Node:
    """A server: what it holds, what of that is flushed, its WAL and its slots."""

    def __init__(self, name: str, registered: bool) -> None:
        self.name = name
        self.live = Database(registered=registered)
        self.durable = self.live.clone()
        self.wal: list[Entry] = []
        self.flushed = 0
        self.slots: dict[Stream, Slot] = {}
        self.pending: list[Pending] = []
        self.starts = 1
        # The file of the table without a key: a rewrite makes a new one, which no older snapshot can read.
        self.files = 1
        # Streams whose origin went back in a crash, and the data did not: Spock 5.
        self.repeats: set[Stream] = set()
        # Shared memory: the pause, who has noticed it, and which transaction was begun last under each name.
        self.paused = False
        self.held: set[Stream] = set()
        self.begun: dict[Stream, int] = {}

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
                    stream = Stream(provider, subscriber)
                    self.create_slot(stream)
                    self.nodes[subscriber].live.subscriptions[stream] = Subscription(enabled=True)
        for node in self.nodes.values():
            node.flush()

    # What users do.

    def commit(self, name: str, *changes: Change, published: bool | None = None) -> int:
        """Commit on a node, synchronously; return the LSN."""
        node = self.nodes[name]
        published = node.live.publishing if published is None else published
        commit = Commit(len(self.commits), name, changes)
        self.commits.append(commit)
        node.live.take(commit, name)
        node.wal.append(Entry(commit, published=published))
        if published:
            if changes:
                self.promised.add(commit.number)
            for change in changes:
                self.last_change[change.key] = commit
        self.flush(name)
        return len(node.wal)

    def insert(self, name: str, keyed: bool) -> int:
        """Insert a row with a new key, or a row into the table that has none."""
        return self.commit(name, Change(Kind.INSERT if keyed else Kind.APPEND, len(self.commits)))

    def begin(self, name: str) -> None:
        """Insert a row in a transaction that stays open; whether it is published is decided now."""
        node = self.nodes[name]
        node.pending.append(Pending(Change(Kind.APPEND, len(self.commits)), node.live.publishing))

    def end(self, name: str, number: int = 0) -> None:
        """Commit one of the open transactions of a node."""
        pending = self.nodes[name].pending.pop(number)
        self.commit(name, pending.change, published=pending.published)

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
        for stream, position in node.durable.origins.items():
            slot = self.nodes[stream.provider].slots.get(stream)
            if slot is not None and stream in self.workers:
                slot.confirmed = max(slot.confirmed, position)

    def set_paused(self, name: str, paused: bool) -> None:
        """Pause the apply workers of a node, or let them go on."""
        node = self.nodes[name]
        node.paused = paused
        if not paused:
            node.held.clear()

    def crash(self, name: str) -> None:
        """Kill a server and start it again: what was not flushed is gone, what slots confirmed may be forgotten."""
        node = self.nodes[name]
        node.live = node.durable.clone()
        del node.wal[node.flushed :]
        node.pending.clear()
        self.set_paused(name, False)
        node.begun.clear()
        node.starts += 1
        for slot in node.slots.values():
            slot.confirmed = slot.made
        for stream in [stream for stream in self.workers if name in (stream.provider, stream.subscriber)]:
            self.cut(stream)

    def set_back(self, stream: Stream) -> None:
        """Let a subscriber forget in a crash how far it is in a stream, and keep what it has applied: Spock 5."""
        slot = self.nodes[stream.provider].slots.get(stream)
        node = self.nodes[stream.subscriber]
        if slot is not None and node.live.origins.get(stream, 0) > slot.made:
            slot.confirmed = node.live.origins[stream] = slot.made
            node.repeats.add(stream)
            node.flush()

    def rewrite(self, name: str) -> None:
        """Rewrite the table without a key on a node, as ALTER TABLE does; nothing of it is sent."""
        self.nodes[name].files += 1

    def discard(self, stream: Stream) -> None:
        """Let a worker fail to apply its next transaction, and set it aside."""
        if self.begin_apply(stream):
            self.workers[stream].discards = True
            self.apply(stream)

    def lose_slot(self, stream: Stream) -> None:
        """Let a provider drop a slot that nobody reads from."""
        if not self.is_active(stream):
            self.nodes[stream.provider].slots.pop(stream, None)

    def can_start(self, stream: Stream) -> bool:
        """Tell whether the worker of a subscription can be started."""
        provider, subscriber, _ = stream
        subscription = self.nodes[subscriber].live.subscriptions.get(stream)
        if subscription is None or not subscription.enabled or stream in self.workers:
            return False
        if subscription.copy is Copy.WANTED:
            return stream not in self.nodes[provider].slots
        return subscription.copy is Copy.NONE and stream in self.nodes[provider].slots

    def start_worker(self, stream: Stream) -> None:
        """Start a worker: it begins a copy that is wanted, or streams from where slot and origin say."""
        provider, subscriber, _ = stream
        node = self.nodes[subscriber]
        subscription = node.live.subscriptions[stream]
        if subscription.copy is Copy.WANTED:
            self.create_slot(stream)
            node.live.subscriptions[stream] = replace(subscription, copy=Copy.BEGUN)
            self.flush(subscriber)
            source = self.nodes[provider]
            made = source.slots[stream].made
            self.workers[stream] = Worker(made, subscription.forwards, source.live.clone(), source.files)
            node.repeats.discard(stream)
        else:
            start = max(self.nodes[provider].slots[stream].confirmed, node.live.origins.get(stream, 0))
            self.workers[stream] = Worker(start, subscription.forwards)

    def can_stop(self, stream: Stream) -> bool:
        """Tell whether a worker is running whose subscription is disabled."""
        return self.is_active(stream) and not self.nodes[stream.subscriber].live.subscriptions[stream].enabled

    def stop_worker(self, stream: Stream) -> None:
        """End a worker and its walsender, perhaps inside a transaction: its name keeps what it had begun."""
        self.nodes[stream.subscriber].held.discard(stream)
        del self.workers[stream]

    def cut(self, stream: Stream) -> None:
        """End a worker by the loss of its connection: it forgets the transaction that it was in."""
        if self.workers[stream].begun is not None:
            self.nodes[stream.subscriber].begun.pop(stream, None)
        self.stop_worker(stream)

    def lose_connection(self, stream: Stream) -> None:
        """Break the connection of a worker: its walsender is gone, and what it has wholly received it still applies."""
        if self.workers[stream].begun is None:
            self.cut(stream)
        else:
            self.workers[stream].is_orphaned = True

    def is_active(self, stream: Stream) -> bool:
        """Tell whether somebody streams from a slot."""
        return stream in self.workers and not self.workers[stream].is_orphaned

    def _find_next(self, stream: Stream) -> Entry | None:
        """Move a worker past what it is not sent, and give what comes next."""
        worker, source = self.workers[stream], self.nodes[stream.provider]
        while worker.position < source.flushed:
            entry = source.wal[worker.position]
            is_sent = entry.commit is None or entry.published or not entry.commit.changes
            if is_sent and (entry.local or worker.forwards):
                return entry
            worker.position += 1
        return None

    def begin_apply(self, stream: Stream) -> bool:
        """Let a worker begin the next transaction that changes something; return whether it is inside one."""
        worker, node = self.workers[stream], self.nodes[stream.subscriber]
        if worker.begun is not None:
            return True
        if worker.snapshot is not None or stream in node.held:
            return False
        entry = self._find_next(stream)
        if entry is None or entry.commit is None or not entry.commit.changes:
            return False
        worker.discards = worker.is_first and node.begun.get(stream) == worker.position
        worker.begun = node.begun[stream] = worker.position
        worker.is_first = False
        if node.paused:
            node.held.add(stream)
        return True

    def is_still(self, name: str) -> bool:
        """Tell whether a paused node seems to apply nothing any more; what is inside a transaction cannot be seen."""
        for stream in self.workers:
            if stream.subscriber == name and stream not in self.nodes[name].held:
                entry = self._find_next(stream)
                if entry is not None and (entry.commit is None or not entry.commit.changes):
                    return False
        return True

    def _note(self, stream: Stream) -> None:
        """Move a subscriber's origin past what a worker has read."""
        worker = self.workers[stream]
        worker.position += 1
        self.nodes[stream.subscriber].live.origins[stream] = worker.position

    def apply(self, stream: Stream) -> bool:
        """Let a worker take one commit or mark, or finish its copy; return whether there was one to take.

        A pause is noticed before the first change of a transaction and after the end of one. So who is idle still
        takes marks and one transaction that changes nothing, and who has begun before still ends what it is in.
        """
        subscriber = stream.subscriber
        worker, node = self.workers[stream], self.nodes[subscriber]
        if worker.snapshot is not None:
            node.wal.append(Entry(None, is_restore=True))
            node.live.rows = worker.snapshot.rows
            node.live.bag = worker.snapshot.bag
            if worker.files != self.nodes[stream.provider].files:
                node.live.bag.clear()
            node.live.seen = worker.snapshot.seen
            node.live.origins[stream] = worker.position
            node.live.subscriptions[stream] = replace(node.live.subscriptions[stream], copy=Copy.NONE)
            worker.snapshot = None
            self.flush(subscriber)
            return True
        if stream in node.held:
            return False
        entry = self._find_next(stream)
        if entry is None:
            return False
        if entry.is_restore:
            self.is_broken = True
            raise Returned(f"what {stream.provider} restored came to {subscriber}")
        if entry.commit is None:
            self._note(stream)
            return True
        if entry.commit.changes:
            self.begin_apply(stream)
            if stream in node.held:
                return False
            if worker.discards:
                node.live.discarded += 1
            else:
                self._take(stream, entry.commit)
            worker.begun, worker.discards = None, False
        self._note(stream)
        if worker.is_orphaned:
            self.stop_worker(stream)
        elif node.paused:
            node.held.add(stream)
        return True

    def _take(self, stream: Stream, commit: Commit) -> None:
        """Carry out a commit that came; where something was discarded before, what builds on that is too."""
        node = self.nodes[stream.subscriber]
        try:
            node.live.take(commit, node.name)
        except Violation as violation:
            if isinstance(violation, Doubled) and stream in node.repeats:
                node.live.take_again(commit)
            elif isinstance(violation, Dangling) and node.live.discarded:
                node.live.discarded += 1
                return
            else:
                self.is_broken = True
                raise
        node.wal.append(Entry(commit, local=False, published=node.live.publishing))

    def settle_down(self) -> None:
        """Let everything that can go on by itself do so, until nothing can."""
        moved = True
        while moved:
            moved = False
            for node in self.nodes.values():
                # Others wait only for what is forwarded to them: the rest may stay unflushed.
                forwards = any(
                    stream.provider == node.name and worker.forwards for stream, worker in self.workers.items()
                )
                if forwards and node.flushed < len(node.wal):
                    self.flush(node.name)
                    moved = True
                for stream in list(node.live.subscriptions):
                    if self.can_start(stream):
                        self.start_worker(stream)
                        moved = True
                    elif self.can_stop(stream):
                        # It reads on until it looks whether it is to end.
                        self.begin_apply(stream)
                        self.stop_worker(stream)
                        moved = True
                    while stream in self.workers and self.apply(stream):
                        moved = True

    # What a caller does through SQL.

    def mark(self, name: str) -> int:
        """Write a sync event: a mark in the WAL, which is flushed; return the LSN."""
        self.nodes[name].wal.append(Entry(None))
        self.flush(name)
        return len(self.nodes[name].wal)

    def create_slot(self, stream: Stream) -> None:
        """Make a slot; it is consistent where the provider's WAL ends."""
        self.flush(stream.provider)
        position = len(self.nodes[stream.provider].wal)
        self.nodes[stream.provider].slots[stream] = Slot(position, position)

    def drop_slot(self, stream: Stream) -> None:
        """Drop a slot if it is there, after its walsender."""
        if self.is_active(stream):
            self.cut(stream)
        self.nodes[stream.provider].slots.pop(stream, None)

    def create_subscription(self, stream: Stream, subscription: Subscription) -> None:
        """Make a subscription; an origin of that name stays as it is."""
        self.nodes[stream.subscriber].live.subscriptions[stream] = subscription
        self.flush(stream.subscriber)

    def drop_origin(self, stream: Stream) -> None:
        """Drop an origin if it is there."""
        self.nodes[stream.subscriber].live.origins.pop(stream, None)
        self.flush(stream.subscriber)

    def alter_subscription(self, stream: Stream, subscription: Subscription) -> None:
        """Change a subscription; its worker learns of it only when it is started again."""
        self.nodes[stream.subscriber].live.subscriptions[stream] = subscription
        self.flush(stream.subscriber)

    def let_go(self, stream: Stream) -> None:
        """Do what comes first when a subscription is dropped: end its worker, drop the slot on its provider."""
        if stream in self.workers:
            self.stop_worker(stream)
        self.drop_slot(stream)

    def drop_subscription(self, stream: Stream) -> None:
        """Drop a subscription if it is there, the slot on its provider and its origin."""
        live = self.nodes[stream.subscriber].live
        if stream in live.subscriptions:
            self.let_go(stream)
            del live.subscriptions[stream]
            self.drop_origin(stream)

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

    def check_gone(self, name: str, on: list[str] | None = None) -> None:
        """Raise if a subscription, a slot, an origin or the node row of a node is left anywhere, or on some nodes."""
        for node in (self.nodes[other] for other in on or self.nodes):
            for streams in (node.live.subscriptions, node.live.origins, node.slots):
                for stream in streams:
                    if name in (stream.provider, stream.subscriber):
                        raise Leftover(f"{stream} is still on {node.name}")
            if node.name == name and node.live.registered:
                raise Leftover(f"{name} is still a node")

    def check_streams(self, names: list[str]) -> None:
        """Raise unless the streams between these nodes are a full mesh, enabled, and there are no others."""
        mesh = {Stream(provider, subscriber) for provider in names for subscriber in names if provider != subscriber}
        for node in self.nodes.values():
            if node.paused:
                raise Leftover(f"apply is still paused on {node.name}")
            for streams in (node.live.subscriptions, node.live.origins, node.slots):
                for stream in streams:
                    if stream not in mesh:
                        raise Leftover(f"{stream} is still on {node.name}")
        for stream in mesh:
            subscription = self.nodes[stream.subscriber].live.subscriptions.get(stream)
            if subscription is None or not subscription.enabled:
                raise Lost(f"subscription {stream} does not replicate")
