"""A Spock cluster in a few data structures: what it keeps, what it loses in a crash, what it sends to whom.

Every method is one atomic event; whoever drives the model decides in which order they happen. A commit that is
applied twice, or before the row it changes is there, raises Violation on the spot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import NamedTuple

STALE = 1000
"""A position that an origin from an earlier life of a node has: further than any log gets here."""

PARTS = 2
"""In how many parts a large table is copied: a row's key says in which it is."""

EPOCH = -1
"""The time of rows that were copied: before any commit."""

STRANGERS = 3
"""How many snapshots others export when a server has been started again."""


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


class Torn(Violation):
    """Of tables that are emptied together, or refer to each other, some were emptied and others kept their rows."""


class Returned(Violation):
    """What a copy restored on a new node came to a member."""


class Leftover(Violation):
    """Something of an operation is still there."""


class Stuck(Violation):
    """An operation neither ends nor can be brought to its end."""


class Table(IntEnum):
    """The tables: one with a key, the others without; HEADS and LINES, which belong together, are emptied at times."""

    ITEMS = 0
    LOG = 1
    HEADS = 2
    LINES = 3


PLACES = len(Table) * PARTS
"""Every part of every table has a number: a place."""


class Kind(Enum):
    """What a change does; only ITEMS takes more than APPEND and TRUNCATE, and no TRUNCATE."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    APPEND = "append"
    TRUNCATE = "truncate"


@dataclass(frozen=True)
class Change:
    """One row changed, or some tables emptied at once; the new value of a row is the number of its commit."""

    kind: Kind
    key: int = 0
    tables: tuple[Table, ...] = (Table.ITEMS,)

    @property
    def places(self) -> tuple[int, ...]:
        """Return the places that it changes."""
        parts = range(PARTS) if self.kind is Kind.TRUNCATE else (self.key % PARTS,)
        return tuple(table * PARTS + part for table in self.tables for part in parts)


@dataclass(frozen=True)
class Commit:
    """A user's transaction; it may change nothing, and no place twice."""

    number: int
    node: str
    changes: tuple[Change, ...] = ()

    def identify(self, change: Change) -> list[int]:
        """Return the numbers of one of its changes, one for each place, which say in what place they are."""
        return [self.number * PLACES + place for place in change.places]


@dataclass(frozen=True)
class Entry:
    """A commit as it stands in a node's WAL, or a mark there; its LSN is its place, counted from 1.

    A restore is what a copy has made: with DDL replication on it is sent to everybody who reads from there. The head is
    a commit with which the stream of a copy can begin: its worker takes a lock for as long as it lives.
    """

    commit: Commit | None
    local: bool = True
    published: bool = True
    is_restore: bool = False
    head_of: Stream | None = None


class Copy(Enum):
    """What a subscription has to do with a copy: Spock makes that of the structure, Zodan that of the rows."""

    NONE = "none"
    WANTED = "structure, wanted"
    BEGUN = "structure, begun"
    ROWS = "rows"


@dataclass(frozen=True)
class Subscription:
    """A row of spock.subscription."""

    enabled: bool
    forwards: bool = False
    copy: Copy = Copy.NONE


@dataclass(frozen=True)
class Unit:
    """What is copied in one transaction: some places. All units of a bundle are copied under one snapshot."""

    number: int
    places: tuple[int, ...]
    bundle: int = 0

    @property
    def tables(self) -> list[Table]:
        """Return the tables that it copies, wholly or in part."""
        return sorted({Table(place // PARTS) for place in self.places})


@dataclass
class Database:
    """What a node holds: rows, and in the same transactions its subscriptions and origins.

    seen has the changes that it took, times when the rows of ITEMS that were copied were changed last, as far as the
    node knows. marks has the units that a copy has finished, and where their snapshot is; positions the tables of which
    the stream of a copy leaves out what is before. files has the file of each table: a rewrite makes a new one, in
    which no older snapshot finds anything. discarded counts what Spock has set aside in its log instead of applying it.
    """

    registered: bool = False
    publishing: bool = True
    rows: dict[int, int] = field(default_factory=dict)
    bag: Counter[tuple[Table, int]] = field(default_factory=Counter)
    seen: set[int] = field(default_factory=set)
    times: dict[int, int] = field(default_factory=dict)
    marks: dict[int, int] = field(default_factory=dict)
    positions: dict[Table, int] = field(default_factory=dict)
    files: dict[Table, int] = field(default_factory=lambda: dict.fromkeys(Table, 1))
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
            times=dict(self.times),
            marks=dict(self.marks),
            positions=dict(self.positions),
            files=dict(self.files),
            subscriptions=dict(self.subscriptions),
            origins=dict(self.origins),
        )

    def take(self, commit: Commit, where: str, is_local: bool) -> None:
        """Carry out a commit; what comes from elsewhere loses against a row that was changed later."""
        for change in commit.changes:
            if self.has_seen(commit, change):
                raise Doubled(f"commit {commit.number} of {commit.node} came twice to {where}")
            if change.kind in (Kind.APPEND, Kind.TRUNCATE):
                self._carry_out(commit, change)
                continue
            if (change.kind is Kind.INSERT) == (change.key in self.rows):
                raise Dangling(
                    f"{change.kind.value} of row {change.key}, commit {commit.number} of {commit.node}, on {where}"
                )
            if is_local or self.times.get(change.key, EPOCH) <= commit.number:
                self._carry_out(commit, change)
        for change in commit.changes:
            self.seen.update(commit.identify(change))

    def has_seen(self, commit: Commit, change: Change) -> bool:
        """Tell whether one of a commit's changes is here, be it in a part of its tables."""
        return not self.seen.isdisjoint(commit.identify(change))

    def take_anyhow(self, commit: Commit) -> None:
        """Carry out a commit that is here already: rows are doubled, become what they were once, or come back."""
        for change in commit.changes:
            if change.kind is not Kind.UPDATE or change.key in self.rows:
                self._carry_out(commit, change)
            self.seen.update(commit.identify(change))

    def _carry_out(self, commit: Commit, change: Change) -> None:
        """Change rows as a change says."""
        if change.kind is Kind.TRUNCATE:
            for table in change.tables:
                self._empty(table)
                self.files[table] += 1
        elif change.kind is Kind.APPEND:
            self.bag[change.tables[0], change.key] += 1
        else:
            self.times.pop(change.key, None)
            self.rows.pop(change.key, None)
            if change.kind is not Kind.DELETE:
                self.rows[change.key] = commit.number

    def leave_out(self, commit: Commit, lsn: int) -> Commit:
        """Return a commit at an LSN without what tables are to leave out, as their positions say."""
        changes = []
        for change in commit.changes:
            tables = tuple(table for table in change.tables if self.positions.get(table, 0) < lsn)
            if tables and any(self.has_rows(table) for table in change.tables if table not in tables):
                raise Torn(f"commit {commit.number} of {commit.node} empties only {tables}")
            if tables:
                changes.append(replace(change, tables=tables))
        return replace(commit, changes=tuple(changes))

    def has_rows(self, table: Table) -> bool:
        """Tell whether a table has a row."""
        return bool(self.rows) if table is Table.ITEMS else any(found is table for found, _ in self.bag)

    def take_copy(self, other: Database, unit: Unit, lacking: set[Table], time: int) -> None:
        """Copy the rows of a unit from another node, but none of the tables that are lacking there."""
        places = {place for place in unit.places if place // PARTS not in lacking}
        for key, value in other.rows.items():
            if Table.ITEMS * PARTS + key % PARTS in places:
                self.rows[key] = value
                self.times[key] = time
        for (table, key), count in other.bag.items():
            if table * PARTS + key % PARTS in places:
                self.bag[table, key] += count
        self.seen.update(change for change in other.seen if change % PLACES in places)

    def would_collide(self, other: Database, unit: Unit) -> bool:
        """Tell whether a row with a key is there that a unit would bring."""
        return any(key in self.rows and Table.ITEMS * PARTS + key % PARTS in unit.places for key in other.rows)

    def clear(self, tables: Collection[Table] = tuple(Table)) -> None:
        """Delete all rows of some tables, and forget that they were there."""
        for table in tables:
            self._empty(table)
        self.seen = {change for change in self.seen if change % PLACES // PARTS not in tables}

    def _empty(self, table: Table) -> None:
        """Delete all rows of a table."""
        if table is Table.ITEMS:
            self.rows, self.times = {}, {}
        else:
            self.bag = Counter({place: count for place, count in self.bag.items() if place[0] is not table})


@dataclass
class Slot:
    """A replication slot: never behind where it was made, confirmed as far as the subscriber has flushed."""

    made: int
    confirmed: int


@dataclass
class Worker:
    """An apply worker and its walsender: one reading position, and the settings it was started with.

    One that restores begins with the copy of the structure, which is all that it is there for.
    Inside a transaction, begun says which, and discards that Spock takes it for one that has failed before. One that
    is orphaned has lost its walsender, and not yet noticed: it goes on with what it has received. It reads the
    positions of tables at the end of a transaction, so it knows none in its first. has_head says that it holds the lock
    of the head.
    """

    position: int
    forwards: bool
    restores: bool = False
    begun: int | None = None
    discards: bool = False
    is_first: bool = True
    is_orphaned: bool = False
    knows_positions: bool = False
    has_head: bool = False


@dataclass(eq=False)
class Snapshot:
    """A snapshot that a session holds on a node: a caller's, or one that keeps it when the caller is gone.

    It is of what was committed before lsn, and finds nothing in a file of a table that is younger than itself. After a
    crash of the node, another one may have the same name.
    """

    lsn: int
    data: Database
    files: dict[Table, int]
    name: int
    is_kept: bool = False


class Stage(Enum):
    """How far a session is with its unit."""

    SENT = "sent"
    READING = "reading"
    READ = "read"
    UNMARKED = "rows without mark"
    DONE = "done"


class Trouble(Enum):
    """Why a session has not copied its unit.

    It is gone, another one has copied it, it needs a later snapshot, or another time is no better.
    """

    LOST = "lost"
    DOUBLE = "double"
    STALE = "stale"
    FAILED = "failed"


@dataclass(frozen=True)
class Settings:
    """Which safeguards a session that copies has; the right one has all."""

    old_times: bool = True
    rewrites_seen: bool = True
    unit_marked: bool = True
    unit_flushed: bool = True


@dataclass(eq=False)
class Session:
    """A session on a new node that copies a unit from a provider, and what the caller asked it for.

    What it does in a transaction takes effect when it commits. One that has to wait for another with the same unit is
    blocked. An orphan's caller no longer hears of it. files has what was copied; nothing if the unit was there before.
    """

    copy: Stream
    unit: Unit
    asked: Snapshot
    lsn: int
    settings: Settings
    stage: Stage = Stage.SENT
    trouble: Trouble | None = None
    starts: int = 0
    left: list[Table] = field(default_factory=list)
    lacking: set[Table] = field(default_factory=set)
    files: dict[Table, int] | None = None
    is_blocked: bool = False
    is_orphan: bool = False


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
        # No position is 0.
        self.wal = [Entry(None)]
        self.flushed = 1
        self.slots: dict[Stream, Slot] = {}
        self.pending: list[Pending] = []
        self.starts = 1
        self.snapshots: list[Snapshot] = []
        # Those of others, and how many there were.
        self.strangers: list[Snapshot] = []
        self.exported = 0
        # Where a caller's session began to watch the transactions.
        self.watched: int | None = None
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
        self.sessions: list[Session] = []
        self.commits: list[Commit] = []
        self.last_change: dict[int, tuple[str, int]] = {}
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

    def commit(self, name: str, *changes: Change, published: bool | None = None, head_of: Stream | None = None) -> int:
        """Commit on a node, synchronously; return the LSN."""
        node = self.nodes[name]
        published = node.live.publishing if published is None else published
        commit = Commit(len(self.commits), name, changes)
        self.commits.append(commit)
        node.live.take(commit, name, is_local=True)
        node.wal.append(Entry(commit, published=published, head_of=head_of))
        if published:
            for change in changes:
                self.promised.update(commit.identify(change))
                if change.tables == (Table.ITEMS,):
                    self.last_change[change.key] = (name, commit.identify(change)[0])
        self.flush(name)
        return len(node.wal)

    def insert(self, name: str, *tables: Table) -> int:
        """Insert a new row into each of some tables, in one transaction."""
        kinds = {table: Kind.INSERT if table is Table.ITEMS else Kind.APPEND for table in tables}
        return self.commit(name, *(Change(kind, len(self.commits), (table,)) for table, kind in kinds.items()))

    def truncate(self, name: str, *tables: Table) -> int:
        """Empty some tables at once."""
        return self.commit(name, Change(Kind.TRUNCATE, tables=tables))

    def begin(self, name: str) -> None:
        """Insert a row in a transaction that stays open; whether it is published is decided now."""
        node = self.nodes[name]
        node.pending.append(Pending(Change(Kind.APPEND, len(self.commits), (Table.LOG,)), node.live.publishing))

    def end(self, name: str, number: int = 0) -> None:
        """Commit one of the open transactions of a node."""
        pending = self.nodes[name].pending.pop(number)
        self.commit(name, pending.change, published=pending.published)

    def may_change(self, name: str, key: int, counted: list[str]) -> bool:
        """Tell whether a node may change a row: its own last change, or one that all those counted have for good."""
        last = self.last_change.get(key)
        if last is None or key not in self.nodes[name].live.rows or last[1] not in self.nodes[name].live.seen:
            return False
        return last[0] == name or all(last[1] in self.nodes[other].durable.seen for other in counted)

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
        node.snapshots.clear()
        # Somebody else exports some at once.
        node.exported = STRANGERS
        node.strangers = [
            Snapshot(len(node.wal), node.live.clone(), dict(node.live.files), name + 1) for name in range(STRANGERS)
        ]
        node.watched = None
        for session in [session for session in self.sessions if session.copy.subscriber == name]:
            self._end_session(session, Trouble.LOST)
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

    def rewrite(self, name: str, table: Table) -> None:
        """Rewrite a table on a node, as ALTER TABLE does; nothing of it is sent."""
        self.nodes[name].live.files[table] += 1
        self.flush(name)

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
        return subscription.copy is not Copy.BEGUN and stream in self.nodes[provider].slots

    def start_worker(self, stream: Stream) -> None:
        """Start a worker: it begins a copy that is wanted, or streams from where slot and origin say."""
        provider, subscriber, _ = stream
        node = self.nodes[subscriber]
        subscription = node.live.subscriptions[stream]
        if subscription.copy is Copy.WANTED:
            self.create_slot(stream)
            node.live.subscriptions[stream] = replace(subscription, copy=Copy.BEGUN)
            self.flush(subscriber)
            self.workers[stream] = Worker(self.nodes[provider].slots[stream].made, subscription.forwards, restores=True)
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
        if stream.name == "structure":
            # It takes no replication set.
            return None
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
        if worker.restores or stream in node.held:
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
        if worker.restores:
            node.wal.append(Entry(None, is_restore=True))
            node.live.origins[stream] = worker.position
            node.live.subscriptions[stream] = replace(node.live.subscriptions[stream], copy=Copy.NONE)
            worker.restores = False
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
        worker.knows_positions = True
        worker.has_head |= entry.head_of == stream
        self._note(stream)
        if worker.is_orphaned:
            self.stop_worker(stream)
        elif node.paused:
            node.held.add(stream)
        return True

    def _take(self, stream: Stream, commit: Commit) -> None:
        """Carry out a commit that came; where something was discarded before, what builds on that is too."""
        node, worker = self.nodes[stream.subscriber], self.workers[stream]
        has_positions = bool(node.live.positions) and node.live.subscriptions[stream].copy is Copy.ROWS
        try:
            if has_positions and worker.knows_positions:
                commit = node.live.leave_out(commit, worker.position + 1)
            elif has_positions:
                there = [change for change in commit.changes if node.live.has_seen(commit, change)]
                node.live.take_anyhow(replace(commit, changes=tuple(there)))
                commit = replace(commit, changes=tuple(change for change in commit.changes if change not in there))
            node.live.take(commit, node.name, is_local=False)
        except Violation as violation:
            if isinstance(violation, Doubled) and stream in node.repeats:
                node.live.take_anyhow(commit)
            elif isinstance(violation, Dangling) and node.live.discarded:
                node.live.discarded += 1
                return
            else:
                self.is_broken = True
                raise
        node.wal.append(Entry(commit, local=False, published=node.live.publishing))

    # What sessions that copy do by themselves.

    def _end_session(self, session: Session, trouble: Trouble | None = None) -> None:
        """End what a session does, well or not."""
        session.trouble = trouble
        self.sessions.remove(session)

    def advance_session(self, session: Session) -> bool:
        """Let a session that copies go on to its next event; return whether there was one."""
        live, source = self.nodes[session.copy.subscriber].live, self.nodes[session.copy.provider]
        if session.stage is Stage.SENT:
            return self._begin_copying(session)
        if session.stage is Stage.READING and source.starts != session.starts:
            self._end_session(session, Trouble.STALE)
        elif session.stage is Stage.READING:
            # From here on the table is locked.
            table = session.left.pop()
            if source.live.files[table] != session.asked.files[table]:
                session.lacking.add(table)
            if session.lacking and session.settings.rewrites_seen:
                self._end_session(session, Trouble.STALE)
            elif not session.left:
                session.stage = Stage.READ
        elif session.stage is Stage.READ:
            if live.would_collide(session.asked.data, session.unit):
                self._end_session(session, Trouble.FAILED)
                return True
            time = EPOCH if session.settings.old_times else len(self.commits)
            live.take_copy(session.asked.data, session.unit, session.lacking, time)
            session.files = {table: session.asked.files[table] for table in session.unit.tables}
            session.stage = Stage.UNMARKED
            if session.settings.unit_marked:
                self._mark_unit(session)
            if session.settings.unit_flushed:
                self.flush(session.copy.subscriber)
        else:
            self._mark_unit(session)
            self.flush(session.copy.subscriber)
        return True

    def _begin_copying(self, session: Session) -> bool:
        """Let a session find out whether its unit is to be copied, and take up the snapshot that it was told."""
        live, source = self.nodes[session.copy.subscriber].live, self.nodes[session.copy.provider]
        number = session.unit.number
        if session.copy not in live.subscriptions:
            self._end_session(session, Trouble.FAILED)
        elif number in live.marks and session.is_blocked:
            self._end_session(session, Trouble.DOUBLE)
        elif number in live.marks:
            session.lsn = live.marks[number]
            session.stage = Stage.DONE
            self._end_session(session)
        elif any(other.unit.number == number and other.stage is not Stage.SENT for other in self.sessions):
            was_blocked, session.is_blocked = session.is_blocked, True
            return not was_blocked
        elif session.asked not in source.snapshots + source.strangers:
            self._end_session(session, Trouble.STALE)
        else:
            session.starts = source.starts
            session.left = session.unit.tables
            session.stage = Stage.READING
        return True

    def _mark_unit(self, session: Session) -> None:
        """Write down in the database of the new node that a unit is copied, and from which position."""
        live = self.nodes[session.copy.subscriber].live
        live.marks[session.unit.number] = session.lsn
        session.stage = Stage.DONE
        self._end_session(session)

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
            for session in list(self.sessions):
                while session in self.sessions and self.advance_session(session):
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

    def open_snapshot(self, name: str) -> Snapshot:
        """Export a snapshot on a node, with its LSN: what is before that is flushed."""
        self.flush(name)
        node = self.nodes[name]
        node.exported += 1
        node.snapshots.append(Snapshot(len(node.wal), node.live.clone(), dict(node.live.files), node.exported))
        return node.snapshots[-1]

    def keep_snapshot(self, name: str, snapshot: Snapshot) -> Snapshot:
        """Have a session keep a snapshot, in place of whoever holds it."""
        node = self.nodes[name]
        self.close_snapshot(name, snapshot)
        self.end_keepers(name)
        node.exported += 1
        node.snapshots.append(replace(snapshot, name=node.exported, is_kept=True))
        return node.snapshots[-1]

    def find_snapshot(self, name: str, exported: int, lsn: int | None) -> Snapshot | None:
        """Return the snapshot of a name that a session keeps for an LSN, or that anybody holds."""
        node = self.nodes[name]
        found = [
            snapshot
            for snapshot in node.snapshots + node.strangers
            if snapshot.name == exported and (lsn is None or (snapshot.is_kept and snapshot.lsn == lsn))
        ]
        return found[0] if found else None

    def end_keepers(self, name: str) -> None:
        """End the sessions on a node that keep a snapshot."""
        node = self.nodes[name]
        node.snapshots = [snapshot for snapshot in node.snapshots if not snapshot.is_kept]

    def watch(self, name: str) -> None:
        """Watch the transactions of a node from here on."""
        self.nodes[name].watched = len(self.nodes[name].wal)

    def find_head(self, copy: Stream) -> int | None:
        """Return the position right before the last head of a copy that was seen, and watch no longer."""
        node = self.nodes[copy.provider]
        seen = range(node.watched, len(node.wal)) if node.watched is not None else ()
        node.watched = None
        return max((place for place in seen if node.wal[place].head_of == copy), default=None)

    def close_snapshot(self, name: str, snapshot: Snapshot | None) -> None:
        """Let a snapshot go, if it is still there."""
        if snapshot in self.nodes[name].snapshots:
            self.nodes[name].snapshots.remove(snapshot)

    def send_unit(self, copy: Stream, unit: Unit, snapshot: Snapshot, lsn: int, settings: Settings) -> Session:
        """Tell a session on a new node to copy a unit; it does so by itself."""
        self.sessions.append(Session(copy, unit, snapshot, lsn, settings))
        return self.sessions[-1]

    def orphan(self, session: Session) -> None:
        """Break the connection between a session and its caller; neither end learns what the other does."""
        session.is_orphan = True

    def end_sessions(self, name: str) -> None:
        """End every session that copies on a node."""
        for session in [session for session in self.sessions if session.copy.subscriber == name]:
            self._end_session(session, Trouble.LOST)

    def forget_caller(self) -> None:
        """Let a caller be gone, and with it its snapshots, but not those that are kept.

        Its sessions go on with what they were told.
        """
        for node in self.nodes.values():
            node.snapshots = [snapshot for snapshot in node.snapshots if snapshot.is_kept]
            node.watched = None
        for session in self.sessions:
            self.orphan(session)

    def clear_units(self, name: str, units: list[Unit], with_rows: bool) -> None:
        """Take back what was copied of some units, which are all of their tables."""
        live = self.nodes[name].live
        if with_rows:
            live.clear({table for unit in units for table in unit.tables})
        for unit in units:
            live.marks.pop(unit.number, None)
        self.flush(name)

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
            if live.subscriptions[stream].copy is Copy.ROWS:
                live.marks, live.positions = {}, {}
            del live.subscriptions[stream]
            self.nodes[stream.subscriber].repeats.discard(stream)
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
