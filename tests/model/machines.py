"""State machines that interleave users, servers, crashes and the caller of an operation in every order.

A rule is one event, or a few of one kind. When an example ends, the operation is brought to its end (resumed or rolled
back as often as it takes), the servers come to rest, and what has to hold is checked.
"""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Literal, get_args

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from model.cluster_model import STALE, Change, Cluster, Kind, Leftover, Stream, Stuck, Table
from model.protocol import LAYOUTS, RIGHT, Operation, Variant, disable, plan_addition, plan_removal

SOURCE, NEW, TARGET = "S", "N", "T"
PEERS = ["A", "B"]
CALLS_TO_FINISH = 12
Fault = Literal["discard", "forget", "rewrite", "lose slot", "switch off", "cut off"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
EVENTS_TO_FINISH = 2000
PACE = 6
TURNS = 120
ACTORS = ["caller"] * 8 + ["session"] * 8 + ["server"] * 3 + ["user"] * 3 + ["owner"] * 2
ACTORS += ["rewrite", "snapshot", "death", "cut"]
#: Where a caller of a schedule gets no help: while rows are copied, and the stream passes the positions of all tables.
SCHEDULED = ["copied", "streaming", "sound", "level", "levelled"]

# Where an example's trouble may begin: the flip and what leads to it, above all.
ADDITION_PHASES = ["clean", "copying", "structured", "units", "copied", "copied", "copied", "copied", "streaming"]
ADDITION_PHASES += ["levelled", "prepare", "mark", "barrier", "way_back", "proven"]
ADDITION_PHASES += [
    "mark",
    "pause",
    "nudge",
    "positions",
    "caught_up",
    "detach",
    "detached",
    "confirm",
    "switch",
    "enable",
    "resume",
]
REMOVAL_PHASES = ["unpublish", "mark", "settled", "drain", "drained", "drained", "leave", "leave", "forget", "prove"]
REMOVAL_PHASES += ["drop", "proven"]

numbers = st.integers(0, 7)

#: What an insert may concern.
CHOICES = [(Table.LOG,), (Table.ITEMS,), (Table.ITEMS, Table.LOG)]

#: What one node alone writes to, and empties: nobody's rows depend on another order.
OWNED = [(Table.HEADS,), (Table.LINES,), (Table.HEADS, Table.LINES)]


class ClusterMachine(RuleBasedStateMachine):
    """Users, servers and crashes; what the operation is, subclasses say."""

    cluster: Cluster
    operation: Operation
    rolls_back: bool

    def __init__(self, variant: Variant = RIGHT) -> None:
        super().__init__()
        self.variant = variant
        self.pace = PACE

    # What subclasses say.

    def nodes_to_write_on(self) -> list[str]:
        """Return the nodes whose users may write now."""
        raise NotImplementedError

    def nodes_that_count(self) -> list[str]:
        """Return the nodes that must have a row before it is handed on (see Cluster.may_change)."""
        raise NotImplementedError

    def may_roll_back(self) -> bool:
        """Tell whether the operation can be taken back."""
        raise NotImplementedError

    def check(self) -> None:
        """Check what has to hold when the operation is over and everything is at rest."""
        raise NotImplementedError

    def begin(self, operation: Operation, phase: str, rolls_back: bool) -> None:
        """Call the operation, and let it go on up to a phase, while users insert a row on a node in each."""
        self.operation = operation
        self.rolls_back = rolls_back
        operation.call()
        number = 0
        while operation.process is not None and operation.phase != phase:
            last = operation.phase
            self.go_on(1, 0, True)
            # Also between the slot of a copy and the head.
            if operation.phase != last or operation.phase == "slot":
                number += 1
                self.insert(number, CHOICES[number % len(CHOICES)])

    def go_on(self, events: int, pick: int, helped: bool) -> None:
        """Let the caller go on; helped, the servers do whatever it waits for."""
        waited = False
        for _ in range(events):
            if self.operation.process is None:
                return
            self.operation.advance(pick)
            if self.operation.waiting:
                if not helped:
                    return
                if waited:
                    # A resumed operation can come to the barrier while its first caller's pause still holds.
                    self.let_pauses_expire()
                if self.operation.phase == "settled":
                    self.end_transactions()
                self.cluster.settle_down()
            waited = self.operation.waiting

    # Users.

    @rule(node=numbers, tables=st.sampled_from(CHOICES))
    def insert(self, node: int, tables: tuple[Table, ...]) -> None:
        """Insert a row, or one into each table."""
        names = self.nodes_to_write_on()
        self.cluster.insert(names[node % len(names)], *tables)

    @rule(node=numbers, row=numbers, kind=st.sampled_from([Kind.UPDATE, Kind.UPDATE, Kind.DELETE]))
    def change(self, node: int, row: int, kind: Kind) -> None:
        """Change one of the youngest rows that a node may change, be it its own or handed to it."""
        names = self.nodes_to_write_on()
        name = names[node % len(names)]
        counted = self.nodes_that_count()
        keys = [key for key in self.cluster.nodes[name].live.rows if self.cluster.may_change(name, key, counted)]
        if keys:
            self.cluster.commit(name, Change(kind, keys[-1 - row % len(keys)]))

    def end_transactions(self) -> None:
        """Commit every open transaction."""
        for name, node in self.cluster.nodes.items():
            while node.pending:
                self.cluster.end(name)

    # Servers.

    def _pick_stream(self, number: int, streams: list[Stream]) -> Stream | None:
        return sorted(streams)[number % len(streams)] if streams else None

    @rule(number=st.integers(0, 11), commits=st.integers(0, 4), begins=st.booleans())
    def apply(self, number: int, commits: int, begins: bool) -> None:
        """Let one apply worker take some commits, and perhaps begin one more."""
        stream = self._pick_stream(number, list(self.cluster.workers))
        for _ in range(commits):
            if stream not in self.cluster.workers or not self.cluster.apply(stream):
                return
        if stream in self.cluster.workers and begins:
            self.cluster.begin_apply(stream)

    @rule(number=numbers)
    def start_or_stop_worker(self, number: int) -> None:
        """Let one worker start, or notice that it was disabled."""
        streams = [stream for node in self.cluster.nodes.values() for stream in node.live.subscriptions]
        stopping = [stream for stream in streams if self.cluster.can_stop(stream)]
        stream = self._pick_stream(number, [s for s in streams if self.cluster.can_start(s)] + stopping)
        if stream in stopping:
            self.cluster.stop_worker(stream)
        elif stream is not None:
            self.cluster.start_worker(stream)

    @rule(number=numbers)
    def flush(self, number: int) -> None:
        """Flush one node's WAL."""
        self.cluster.flush(list(self.cluster.nodes)[number % len(self.cluster.nodes)])

    @rule(flush=st.booleans())
    def rest(self, flush: bool) -> None:
        """Let a while pass: all workers do what they can."""
        self.cluster.settle_down()
        for name in self.cluster.nodes if flush else ():
            self.cluster.flush(name)

    @rule(number=numbers)
    def crash(self, number: int) -> None:
        """Kill a server and start it again."""
        self.cluster.crash(list(self.cluster.nodes)[number % len(self.cluster.nodes)])

    @precondition(lambda self: any(node.paused for node in self.cluster.nodes.values()))
    @rule()
    def pause_expires(self) -> None:
        """Let a pause end by itself."""
        self.let_pauses_expire()

    def let_pauses_expire(self) -> None:
        """End every pause."""
        for name in self.cluster.nodes:
            self.cluster.set_paused(name, False)

    # The caller.

    @precondition(lambda self: self.operation.process is not None)
    @rule(events=st.integers(1, PACE), pick=numbers, helped=st.booleans())
    def proceed(self, events: int, pick: int, helped: bool) -> None:
        """Let the operation go on."""
        self.go_on(min(events, self.pace), pick, helped)

    @precondition(lambda self: self.operation.waiting and self.operation.process is not None)
    @rule()
    def budget_runs_out(self) -> None:
        """Let the wait that the operation is in fail."""
        self.operation.impatient = True
        self.operation.advance()

    @precondition(lambda self: self.operation.process is not None)
    @rule()
    def kill_caller(self) -> None:
        """Kill the session that runs the operation."""
        self.operation.kill()

    @precondition(lambda self: self.operation.process is None and not self.operation.is_over)
    @rule()
    def call_again(self) -> None:
        """Resume the operation, or roll it back, as this example does."""
        self.operation.call(rollback=self.rolls_back and self.may_roll_back())

    # The end.

    def teardown(self) -> None:
        """Bring everything to its end and check it."""
        if not hasattr(self, "operation") or self.cluster.is_broken:
            return
        calls = 0
        while not self.operation.is_over:
            if self.operation.process is None:
                calls += 1
                if calls > CALLS_TO_FINISH:
                    raise Stuck("the operation does not come to an end")
                self.call_again()
            self.go_on(EVENTS_TO_FINISH, 0, True)
            if self.operation.process is not None:
                raise Stuck("the operation waits for ever")
        self.end_transactions()
        self.cluster.settle_down()
        self.check()


class AdditionMachine(ClusterMachine):
    """N joins S and one or two others.

    Rows are handed on only when every node that counts has them, as a steady mesh needs it. N counts from the pause
    on, while its caller lives, and for good when it has switched; late says that it counts only then.
    faults says what else goes wrong: Spock discards what comes to N, forgets in a crash of N how far it is, tables are
    rewritten, slots that wait are lost, direct streams are switched off, connections break. One member writes to the
    tables that are emptied at times.
    """

    def __init__(
        self,
        variant: Variant = RIGHT,
        late: bool = False,
        phases: list[str] = ADDITION_PHASES,
        faults: Collection[Fault] = FAULTS,
        takes_back: bool = True,
        pace: int = PACE,
        turns: int = 0,
    ) -> None:
        super().__init__(variant)
        self.takes_back = takes_back
        self.turns = turns
        self.pace = pace
        self.phases = phases
        self.late = late
        self.faults = faults

    @initialize(
        peers=st.integers(1, 2),
        phase=st.integers(0, len(ADDITION_PHASES) - 1),
        rolls_back=st.booleans(),
        rows=st.integers(0, 3),
        stale=st.booleans(),
        layout=st.integers(0, len(LAYOUTS) - 1),
        owner=st.sampled_from([0, 0, 1]),
        schedule=st.integers(0, 2**16 - 1),
    )
    def call(
        self,
        peers: int,
        phase: int,
        rolls_back: bool,
        rows: int,
        stale: bool = False,
        layout: int = 0,
        owner: int = 0,
        schedule: int = 0,
    ) -> None:
        """Make a cluster in which not everything has arrived yet, and begin; stale leaves origins of an earlier N.

        If the phase is that of the rows, it goes on by the schedule, a number that stands for one of many: what is
        rare enough there would not be found by rules that are all as likely. owner says who writes to some tables.
        """
        # Origins that nobody clears stop a rollback, which would hide what they do to a join.
        rolls_back = rolls_back and self.takes_back and self.variant.origins_cleared
        self.members = [SOURCE, *PEERS[:peers]]
        self.owner = self.members[owner]
        self.cluster = Cluster(self.members, [NEW])
        self.cluster.settle_down()
        for member in self.members if stale else ():
            for stream in (Stream(NEW, member), Stream(member, NEW)):
                self.cluster.nodes[stream.subscriber].live.origins[stream] = STALE
                self.cluster.flush(stream.subscriber)
        for number in range(rows):
            for name in self.members:
                self.cluster.insert(name, Table(number % 2))
            self.cluster.insert(self.owner, *OWNED[-1])
        steps = plan_addition(SOURCE, self.members[1:], NEW, self.variant, layout)
        self.begin(Operation(self.cluster, steps, self.variant), self.phases[phase % len(self.phases)], rolls_back)
        chance = Random(schedule)
        for _ in range(self.turns + schedule % TURNS):
            if self.phases[phase % len(self.phases)] == "copied" and not self._has_passed("levelled"):
                self._take_turn(chance.choice(ACTORS), chance.randrange(12))

    def _has_passed(self, phase: str) -> bool:
        """Tell whether the operation is over, or further than a phase."""
        phases = list(dict.fromkeys(step.phase for step in self.operation.steps))
        return self.operation.is_over or self.operation.phase in phases[phases.index(phase) + 1 :]

    def _take_turn(self, who: str, number: int) -> None:
        """Let the caller, a session that copies, a server or a user do one thing, or something break or die."""
        copy = Stream(SOURCE, NEW, "copy")
        if who == "caller" and self.operation.process is None:
            self.call_again()
        elif who == "caller":
            self.go_on(1 + number % 4, number, helped=self.operation.phase not in SCHEDULED)
        elif who == "session" and self.cluster.sessions:
            self.copy(number, 1 + number % 4)
        elif who == "user":
            self.cluster.insert(SOURCE, *CHOICES[number % len(CHOICES)])
        elif who == "owner":
            self.write_owned(OWNED[number % len(OWNED)] if number > 3 else OWNED[-1], empties=number < 4)
        elif who == "server":
            self._serve(number)
        elif who == "rewrite" and "rewrite" in self.faults:
            self.rewrite(Table(number % len(Table)))
        elif who == "snapshot" and "cut off" in self.faults:
            self.cluster.close_snapshot(SOURCE, next(iter(self.cluster.nodes[SOURCE].snapshots), None))
        elif who == "death" and number % 2:
            self.cluster.crash(NEW if number % 4 == 1 else SOURCE)
        elif who == "death" and self.operation.process is not None:
            self.kill_caller()
            self.call_again()
        elif who == "cut" and "cut off" in self.faults and copy in self.cluster.workers:
            self.cluster.cut(copy)
        elif who == "cut" and "cut off" in self.faults and self.cluster.sessions:
            self.cluster.orphan(self.cluster.sessions[number % len(self.cluster.sessions)])

    def _serve(self, number: int) -> None:
        """Let a worker that has to do with S or N start, or take a transaction."""
        streams = [Stream(SOURCE, NEW, "copy"), *(Stream(peer, SOURCE) for peer in self.members[1:])]
        stream = streams[number % len(streams)]
        if self.cluster.can_start(stream):
            self.cluster.start_worker(stream)
        if stream in self.cluster.workers:
            self.cluster.apply(stream)

    def _has_joined(self) -> bool:
        return 0 < self.cluster.nodes[NEW].live.origins.get(Stream(SOURCE, NEW), 0) != STALE

    @property
    def _is_under_way(self) -> bool:
        return hasattr(self, "operation") and not self.operation.is_over

    @precondition(lambda self: "discard" in self.faults and self._is_under_way and self.operation.phase != "whole")
    @rule(number=numbers)
    def discard(self, number: int) -> None:
        """Let Spock set aside a transaction that came to N."""
        stream = self._pick_stream(number, [stream for stream in self.cluster.workers if stream.subscriber == NEW])
        if stream is not None:
            self.cluster.discard(stream)

    @rule(tables=st.sampled_from(OWNED), empties=st.booleans())
    def write_owned(self, tables: tuple[Table, ...], empties: bool) -> None:
        """Insert a row into each of the tables that have one writer, or empty them at once."""
        if empties:
            self.cluster.truncate(self.owner, *tables)
        else:
            self.cluster.insert(self.owner, *tables)

    @precondition(lambda self: "rewrite" in self.faults and self._is_under_way)
    @rule(table=st.sampled_from(Table))
    def rewrite(self, table: Table) -> None:
        """Rewrite a table on S."""
        self.cluster.rewrite(SOURCE, table)

    @precondition(lambda self: hasattr(self, "cluster") and self.cluster.sessions)
    @rule(number=numbers, events=st.integers(1, 4))
    def copy(self, number: int, events: int) -> None:
        """Let one of the sessions that copy go on."""
        session = self.cluster.sessions[number % len(self.cluster.sessions)]
        for _ in range(events):
            if session in self.cluster.sessions:
                self.cluster.advance_session(session)

    @precondition(lambda self: "cut off" in self.faults and hasattr(self, "cluster") and self.cluster.sessions)
    @rule(number=numbers, is_snapshot=st.booleans())
    def cut_off(self, number: int, is_snapshot: bool) -> None:
        """Break the connection between the caller and a session that copies, or one that holds a snapshot."""
        snapshots = self.cluster.nodes[SOURCE].snapshots
        if not is_snapshot:
            self.cluster.orphan(self.cluster.sessions[number % len(self.cluster.sessions)])
        elif snapshots:
            self.cluster.close_snapshot(SOURCE, snapshots[number % len(snapshots)])

    @precondition(lambda self: "forget" in self.faults and self._is_under_way and not self._has_joined())
    @rule()
    def crash_and_forget(self) -> None:
        """Kill N and start it again, without how far its copy's stream was."""
        self.cluster.crash(NEW)
        self.cluster.set_back(Stream(SOURCE, NEW, "copy"))

    @precondition(lambda self: "lose slot" in self.faults and self._is_under_way and self._may_lose_slots())
    @rule(number=numbers)
    def lose_slot(self, number: int) -> None:
        """Let a member or N drop a slot that waits for its stream."""
        slots = [s for node in self.cluster.nodes.values() for s in node.slots if NEW in s and self._waits(s)]
        stream = self._pick_stream(number, slots)
        if stream is not None:
            self.cluster.lose_slot(stream)

    def _waits(self, slot: Stream) -> bool:
        # That of the copy is in use as soon as its stream is on; Spock's own of the structure always is.
        subscription = self.cluster.nodes[NEW].live.subscriptions.get(slot)
        return slot.name == "direct" or (slot.name == "copy" and (subscription is None or not subscription.enabled))

    def _may_lose_slots(self) -> bool:
        # Between the last look at them and the turn nothing can be done, and after it they are in use.
        is_turning = self.operation.phase in ("confirm", "switch") and self.operation.process is not None
        return not self._has_joined() and not is_turning

    @precondition(lambda self: "switch off" in self.faults and self._is_under_way and self._may_switch_off())
    @rule(number=numbers)
    def switch_off(self, number: int) -> None:
        """Disable a direct stream of N, as Spock does by itself, or a person."""
        stream = Stream(self.members[number % len(self.members)], NEW)
        if stream in self.cluster.nodes[NEW].live.subscriptions:
            disable(self.cluster, stream)

    def _may_switch_off(self) -> bool:
        # Later the operation has seen it replicate, and it is nobody's fault but theirs.
        return self._has_joined() and (self.operation.process is None or self.operation.phase in ("switch", "enable"))

    def nodes_to_write_on(self) -> list[str]:
        """Return the members, and N once it has switched."""
        joined = self._has_joined() and not self.rolls_back
        return [*self.members, NEW] if joined else self.members

    def nodes_that_count(self) -> list[str]:
        """Return the members, and N when it is about to switch or has."""
        flips = self.operation.flip_is_open and self.operation.process is not None and not self.late
        return [*self.members, NEW] if self._has_joined() or flips else self.members

    def may_roll_back(self) -> bool:
        """Return true: users of N who have written there do not roll back, see nodes_to_write_on."""
        return True

    def forget_stale(self) -> None:
        """Drop what an earlier N left: an operation that was taken back before it cleared that leaves it."""
        for node in self.cluster.nodes.values():
            for stream in [stream for stream, position in node.live.origins.items() if position == STALE]:
                self.cluster.drop_origin(stream)

    def check(self) -> None:
        """Check that all nodes are equal, or that nothing of N is left, or that it is told what was discarded."""
        if self.operation.status == "incomplete":
            assert self.cluster.nodes[NEW].live.discarded
            return
        joined = self.operation.status == "done"
        nodes = [*self.members, NEW] if joined else self.members
        if not joined:
            self.forget_stale()
        self.cluster.check_streams(nodes)
        live = self.cluster.nodes[NEW].live
        if live.marks or live.positions or self.cluster.nodes[SOURCE].snapshots:
            raise Leftover("something of the copy is left")
        if not joined:
            self.cluster.check_gone(NEW)
            if live.seen:
                raise Leftover(f"rows of the copy are still on {NEW}")
        self.cluster.check_equal(nodes)


class RemovalMachine(ClusterMachine):
    """T leaves S and one or two others."""

    def __init__(self, variant: Variant = RIGHT, phases: list[str] = REMOVAL_PHASES) -> None:
        super().__init__(variant)
        self.phases = phases

    @initialize(
        peers=st.integers(1, 2),
        phase=st.integers(0, len(REMOVAL_PHASES) - 1),
        rows=st.integers(0, 3),
        opens=st.booleans(),
    )
    def call(self, peers: int, phase: int, rows: int, opens: bool) -> None:
        """Make a cluster in which not everything has arrived yet, and begin; opens a transaction on T before."""
        self.members = [SOURCE, *PEERS[:peers]]
        self.cluster = Cluster([*self.members, TARGET], [])
        self.cluster.settle_down()
        for number in range(rows):
            for name in [*self.members, TARGET]:
                self.cluster.insert(name, Table(number % 2))
        if opens:
            self.cluster.begin(TARGET)
        # What is committed before the call is promised to reach everybody; what comes later, as far as T publishes.
        steps = plan_removal(TARGET, self.members, self.variant)
        self.begin(
            Operation(self.cluster, steps, self.variant), self.phases[phase % len(self.phases)], rolls_back=False
        )

    def _publishes(self) -> bool:
        return self.cluster.nodes[TARGET].live.publishing

    def nodes_to_write_on(self) -> list[str]:
        """Return the members, and T while it publishes."""
        return [*self.members, TARGET] if self._publishes() else self.members

    @precondition(lambda self: not self.cluster.nodes[TARGET].live.publishing)
    @rule(tables=st.sampled_from(CHOICES))
    def insert_in_vain(self, tables: tuple[Table, ...]) -> None:
        """Insert a row on T that nobody is to get any more."""
        self.cluster.insert(TARGET, *tables)

    @precondition(lambda self: self._publishes() and not self.cluster.nodes[TARGET].pending)
    @rule()
    def begin_on_target(self) -> None:
        """Write a row on T in a transaction that stays open."""
        self.cluster.begin(TARGET)

    @precondition(lambda self: self.cluster.nodes[TARGET].pending)
    @rule()
    def end_on_target(self) -> None:
        """Commit it."""
        self.cluster.end(TARGET)

    def nodes_that_count(self) -> list[str]:
        """Return the members, and T while it is a node."""
        return [*self.members, TARGET] if self.cluster.nodes[TARGET].live.registered else self.members

    def may_roll_back(self) -> bool:
        """Return false: from its first step on a removal can only be finished."""
        return False

    def check(self) -> None:
        """Check that the others are equal and that nothing of T is left."""
        self.cluster.check_streams(self.members)
        self.cluster.check_gone(TARGET)
        self.cluster.check_equal(self.members)
