"""Every statement about slots, origins and subscriptions does what it says, alone and on one server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

import psycopg
import pytest

from support.statements import ODD, forgotten, run, value
from zodan_sql.sandbox import Node, wait_until

_PROVIDER = "provider " + ODD
_PEER = "peer " + ODD
_SETS = ["default", "ddl_sql"]

#: The version of PostgreSQL whose slots can be marked for failover.
_FIRST_WITH_FAILOVER = 170000


@dataclass
class Nodes:
    """Three nodes on one server: the database with Zodan, which subscribes, and two that it subscribes to."""

    server: Node
    here: psycopg.Connection[Any]
    there: psycopg.Connection[Any]
    peer: psycopg.Connection[Any]

    @property
    def dsns(self) -> dict[str, str]:
        """The connection strings of the two by the names of the nodes."""
        return {
            name: self.server.dsn(dbname=connection.info.dbname)
            for name, connection in ((_PROVIDER, self.there), (_PEER, self.peer))
        }

    def run(self, name: str, on: psycopg.Connection[Any] | None = None, **parameters: Any) -> dict[str, Any]:
        """Run a statement on the subscriber, or on another node."""
        return run(self.here, name, on=on, dsns=self.dsns, **parameters)

    def slot_of(self, subscription: str, provider: str = _PROVIDER) -> str:
        """Return the name that Spock gives the slot and the origin of a subscription."""
        query = "SELECT spock.spock_gen_slot_name(current_database(), %s, %s)"
        return str(value(self.here, query, provider, subscription))

    def subscribe(self, subscription: str = "sub_a", enabled: bool = False, provider: str = _PROVIDER) -> str:
        """Make a slot and a subscription that uses it; return the name of the slot."""
        slot = self.slot_of(subscription, provider)
        self.run("create_slot", on=self.there if provider == _PROVIDER else self.peer, slot=slot)
        self.run(
            "create_subscription",
            slot=slot,
            subscription=subscription,
            provider=provider,
            sets=_SETS,
            forward=[],
            enabled=str(enabled).lower(),
        )
        return slot

    def advance(self, origin: str, lsn: str) -> None:
        """Set the position of an origin that no worker uses."""
        self.here.execute("SELECT pg_replication_origin_advance(%s, %s)", [origin, lsn])

    def position(self, origin: str) -> str | None:
        """Return the position of an origin."""
        query = "SELECT remote_lsn::text FROM pg_replication_origin_status WHERE external_id = %s"
        found: str | None = value(self.here, query, origin)
        return found

    @contextmanager
    def worker(self, subscription: str) -> Iterator[psycopg.Connection[Any]]:
        """Open a session inside a transaction that reads like the apply worker of a subscription."""
        sub_id = value(self.here, "SELECT sub_id FROM spock.subscription WHERE sub_name = %s", subscription)
        with self.server.connect(dbname=self.here.info.dbname, autocommit=False) as connection:
            connection.execute(f"SET application_name = 'spock apply 1:{sub_id}'".encode())
            connection.execute("SELECT pg_current_xact_id()")
            yield connection

    @contextmanager
    def reader(self, slot: str) -> Iterator[None]:
        """Make a slot on the provider, of a plugin that every server allows, and stream from it until it is dropped."""
        self.there.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        program: list[Any] = [self.server.engine.pg_bin / "pg_recvlogical"]
        program += ["--start", "--no-loop", "--file=-", f"--slot={slot}", f"--dbname={self.dsns[_PROVIDER]}"]
        program += ["--option=proto_version=1", "--option=publication_names=nothing"]
        with subprocess.Popen(program, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: "" if slot in _active(self.there) else "not yet", 10, "the stream")
            yield
            process.terminate()


@pytest.fixture(scope="module")
def all_nodes(zodan: psycopg.Connection[Any], server: Node) -> Iterator[Nodes]:
    for dbname in ("stream_provider", "stream_peer"):
        with server.connect(dbname="postgres") as admin:
            admin.execute(f"CREATE DATABASE {dbname}".encode())
    with server.connect(dbname="stream_provider") as there, server.connect(dbname="stream_peer") as peer:
        for connection in (there, peer):
            connection.execute("CREATE EXTENSION spock CASCADE; CREATE EXTENSION dblink")
        for connection, name in ((there, _PROVIDER), (peer, _PEER), (zodan, "here " + ODD)):
            connection.execute("SELECT spock.node_create(%s, %s)", [name, server.dsn(dbname=connection.info.dbname)])
        there.execute("CREATE PUBLICATION nothing")
        # psycopg hands on the context of Spock's warnings, with the statement. dblink, which Zodan uses, shows none.
        zodan.execute("SET client_min_messages = error")
        yield Nodes(server, zodan, there, peer)


@pytest.fixture
def nodes(all_nodes: Nodes) -> Iterator[Nodes]:
    """Return the nodes; what a test leaves of subscriptions, slots and origins is removed."""
    before = _origins(all_nodes.here)
    yield all_nodes
    all_nodes.here.execute("SELECT spock.sub_drop(sub_name, true) FROM spock.subscription")
    for connection in (all_nodes.there, all_nodes.peer):
        for slot in _slots(connection):
            run(all_nodes.here, "drop_slot", on=connection, slot=slot)
    for origin in _origins(all_nodes.here) - before:
        wait_until(lambda origin=origin: _drop_origin(all_nodes.here, origin), 10, "the origin to be free")  # type: ignore[misc]


def _origins(connection: psycopg.Connection[Any]) -> set[str]:
    return {name for (name,) in connection.execute("SELECT roname FROM pg_replication_origin")}


def _drop_origin(connection: psycopg.Connection[Any], origin: str) -> str:
    try:
        run(connection, "drop_origin", origin=origin)
    except psycopg.errors.ObjectInUse as error:
        return str(error)
    return ""


def _slots(connection: psycopg.Connection[Any]) -> list[str]:
    query = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
    return [name for (name,) in connection.execute(query.encode())]


def _active(connection: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in connection.execute("SELECT slot_name FROM pg_replication_slots WHERE active")]


def test_every_statement_is_run_here() -> None:
    assert forgotten("stream", __file__) == set()


# --- slots


def test_a_slot_is_made_and_its_position_returned(nodes: Nodes) -> None:
    row = nodes.run("create_slot", on=nodes.there, slot="spk_one")
    query = "SELECT plugin, database, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_one'"
    assert nodes.there.execute(query.encode()).fetchone() == ("spock_output", "stream_provider", row["lsn"])
    with pytest.raises(psycopg.errors.DuplicateObject):
        nodes.run("create_slot", on=nodes.there, slot="spk_one")


def test_a_slot_for_failover_is_made_where_postgresql_has_them(nodes: Nodes) -> None:
    if nodes.there.info.server_version < _FIRST_WITH_FAILOVER:
        # There it is not called; that it fails with this shows that the rest of it is understood.
        with pytest.raises(psycopg.errors.UndefinedColumn, match="failover"):
            nodes.run("create_failover_slot", on=nodes.there, slot="spk_one")
        assert _slots(nodes.there) == []
        return
    query = "SELECT plugin, failover FROM pg_replication_slots WHERE slot_name = 'spk_one'"
    row = nodes.run("create_failover_slot", on=nodes.there, slot="spk_one")
    assert row["lsn"] > "0/0"
    assert nodes.there.execute(query.encode()).fetchone() == ("spock_output", True)
    nodes.run("drop_slot", on=nodes.there, slot="spk_one")
    # Where Spock's slots are not marked a new one is not.
    nodes.run("create_slot", on=nodes.there, slot="spk_old")
    nodes.run("create_failover_slot", on=nodes.there, slot="spk_one")
    assert nodes.there.execute(query.encode()).fetchone() == ("spock_output", False)


@pytest.mark.parametrize(
    "statement", ["create_slot", "create_failover_slot", "slot_exists", "drop_slot", "wait_slot_free"]
)
def test_a_name_that_no_slot_can_have_is_taken_for_a_name(nodes: Nodes, statement: str) -> None:
    if statement == "create_failover_slot" and nodes.there.info.server_version < _FIRST_WITH_FAILOVER:
        pytest.skip("PostgreSQL has no slots for failover")
    if statement.startswith("create"):
        with pytest.raises(psycopg.errors.InvalidName) as raised:
            nodes.run(statement, on=nodes.there, slot=ODD)
        assert ODD in str(raised.value)
    else:
        assert nodes.run(statement, on=nodes.there, slot=ODD) in ({}, {"ok": False})


def test_whether_a_slot_is_there_is_told(nodes: Nodes) -> None:
    assert not nodes.run("slot_exists", on=nodes.there, slot="spk_one")["ok"]
    nodes.run("create_slot", on=nodes.there, slot="spk_one")
    assert nodes.run("slot_exists", on=nodes.there, slot="spk_one")["ok"]


def test_a_slot_that_has_lost_its_wal_counts_for_nothing_and_is_made_anew(nodes: Nodes) -> None:
    lost = nodes.run("create_slot", on=nodes.there, slot="spk_one")["lsn"]
    nodes.there.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    nodes.there.execute("SELECT pg_reload_conf()")
    try:
        wait_until(lambda: _lose(nodes.there), 20, "the slot to lose its WAL")
    finally:
        nodes.there.execute("ALTER SYSTEM RESET max_slot_wal_keep_size")
        nodes.there.execute("SELECT pg_reload_conf()")
    assert not nodes.run("slot_exists", on=nodes.there, slot="spk_one")["ok"]
    with pytest.raises(psycopg.Error, match='slot "spk_one" has lost its WAL'):
        nodes.run("prove_slots", on=nodes.there, slots=["spk_one"], lsn=None, positions="{}", peer=None)
    with pytest.raises(psycopg.Error, match='slot "spk_one" of the copy is gone or has lost its WAL') as raised:
        nodes.run("prove_copy_slot", on=nodes.there, slot="spk_one")
    assert raised.value.sqlstate == "ZD304"
    made = nodes.run("create_slot", on=nodes.there, slot="spk_one")["lsn"]
    assert value(nodes.there, "SELECT %s::pg_lsn > %s", made, lost) is True
    assert nodes.run("slot_exists", on=nodes.there, slot="spk_one")["ok"]
    nodes.run("prove_copy_slot", on=nodes.there, slot="spk_one")
    with pytest.raises(psycopg.Error, match="of the copy is gone") as raised:
        nodes.run("prove_copy_slot", on=nodes.there, slot=ODD)
    assert raised.value.sqlstate == "ZD304"


def _lose(connection: psycopg.Connection[Any]) -> str:
    connection.execute("SELECT pg_logical_emit_message(false, '', '')")
    connection.execute("SELECT pg_switch_wal()")
    connection.execute("CHECKPOINT")
    status = value(connection, "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'spk_one'")
    return "" if status == "lost" else str(status)


def test_a_slot_is_dropped_and_one_that_is_gone_is_no_error(nodes: Nodes) -> None:
    for name in ("spk_one", "spk_two"):
        nodes.run("create_slot", on=nodes.there, slot=name)
    for _ in range(2):
        nodes.run("drop_slot", on=nodes.there, slot="spk_one")
        assert _slots(nodes.there) == ["spk_two"]


def test_a_slot_that_somebody_streams_from_is_dropped(nodes: Nodes) -> None:
    with nodes.reader("spk_one"):
        nodes.run("drop_slot", on=nodes.there, slot="spk_one")
        assert _slots(nodes.there) == []


def test_whether_nobody_streams_from_a_slot_is_told(nodes: Nodes) -> None:
    nodes.run("create_slot", on=nodes.there, slot="spk_idle")
    assert nodes.run("wait_slot_free", on=nodes.there, slot="spk_idle")["ok"]
    with nodes.reader("spk_one"):
        assert not nodes.run("wait_slot_free", on=nodes.there, slot="spk_one")["ok"]
        nodes.run("drop_slot", on=nodes.there, slot="spk_one")


def test_the_slot_of_a_subscriber_that_is_gone_is_found_by_provider_and_subscription(nodes: Nodes) -> None:
    kept = [nodes.slot_of("sub_b"), nodes.slot_of("sub_a", _PEER)]
    for name in (nodes.slot_of("sub_a"), *kept):
        nodes.run("create_slot", on=nodes.there, slot=name)
    for _ in range(2):
        nodes.run("drop_slot_of", on=nodes.there, provider=_PROVIDER, subscription="sub_a")
        assert _slots(nodes.there) == sorted(kept)
    # Its connection may linger.
    with nodes.reader(nodes.slot_of("sub_a")):
        nodes.run("drop_slot_of", on=nodes.there, provider=_PROVIDER, subscription="sub_a")
        assert _slots(nodes.there) == sorted(kept)


def test_a_slot_of_another_database_is_not_that_of_the_subscriber_that_is_gone(nodes: Nodes) -> None:
    slot = nodes.slot_of("sub_a")
    nodes.run("create_slot", on=nodes.peer, slot=slot)
    nodes.run("drop_slot_of", on=nodes.there, provider=_PROVIDER, subscription="sub_a")
    assert _slots(nodes.peer) == [slot]


def test_a_slot_is_advanced_to_what_the_subscriber_of_another_has_confirmed(nodes: Nodes) -> None:
    for name in ("spk_one", "spk_two"):
        nodes.run("create_slot", on=nodes.there, slot=name)
    where = "SELECT restart_lsn, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_one'"
    first = nodes.there.execute(where).fetchall()
    # Near, gone, or nothing to go by: left as it is.
    for slot, behind in (("spk_one", "spk_two"), (ODD, "spk_two"), ("spk_one", ODD)):
        nodes.run("advance_slot", on=nodes.there, slot=slot, behind=behind)
    assert nodes.there.execute(where).fetchall() == first
    for _ in range(7):
        nodes.there.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 10000000))")
    # Logs which transactions are open.
    nodes.there.execute("CHECKPOINT")
    nodes.there.execute("SELECT pg_replication_slot_advance('spk_two', pg_current_wal_lsn())")
    confirmed = value(nodes.there, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_two'")
    for _ in range(2):
        nodes.run("advance_slot", on=nodes.there, slot="spk_one", behind="spk_two")
        near = (
            "SELECT %s::pg_lsn = confirmed_flush_lsn AND %s::pg_lsn - restart_lsn < 70000000 FROM pg_replication_slots"
        )
        assert value(nodes.there, f"{near} WHERE slot_name = 'spk_one'", confirmed, confirmed) is True


def test_slots_that_a_stream_can_start_from_are_proved(nodes: Nodes) -> None:
    lsn = nodes.run("create_slot", on=nodes.there, slot="spk_one")["lsn"]
    reached = {"flip": {"lsn": lsn, "positions": {_PEER: "0/1", _PROVIDER: lsn}}}

    def prove(slots: list[str], lsn: str | None, positions: str, peer: str | None) -> None:
        nodes.run("prove_slots", on=nodes.there, results=reached, slots=slots, lsn=lsn, positions=positions, peer=peer)

    for _ in range(2):
        prove(["spk_one"], None, "{}", None)
        prove(["spk_one"], "{result:flip.lsn}", "{result:flip.positions}", _PEER)
        prove(["spk_one"], None, "{result:flip.positions}", _PROVIDER)
        prove(["spk_one"], None, "{result:flip.positions}", ODD)
        prove([], None, "{}", None)
    for slots, peer, trouble in (
        (["spk_one"], _PEER, f'slot "spk_one" is at {lsn}'),
        (["spk_one", ODD], None, f'slot "{ODD}" is gone'),
    ):
        with pytest.raises(psycopg.Error) as raised:
            prove(slots, None, "{result:flip.positions}", peer)
        assert (raised.value.sqlstate, raised.value.diag.message_primary) == ("ZD305", trouble)


# --- origins


def test_an_origin_is_dropped_and_one_that_is_gone_is_no_error(nodes: Nodes) -> None:
    for name in (ODD, "spk_kept"):
        nodes.here.execute("SELECT pg_replication_origin_create(%s)", [name])
    before = _origins(nodes.here)
    assert nodes.run("drop_origin", origin=ODD) == {"dropped": 1}
    assert nodes.run("drop_origin", origin=ODD) == {"dropped": 0}
    assert before - _origins(nodes.here) == {ODD}


# --- subscriptions


def test_a_subscription_uses_the_slot_that_was_made_for_it(nodes: Nodes) -> None:
    slot = nodes.subscribe()
    query = (
        "SELECT sub_slot_name, sub_enabled, sub_replication_sets, coalesce(sub_forward_origins, '{}')"
        " FROM spock.subscription"
    )
    assert nodes.here.execute(query.encode()).fetchone() == (slot, False, _SETS, [])
    assert _slots(nodes.there) == [slot]


def test_a_subscription_that_would_use_another_slot_is_not_made(nodes: Nodes) -> None:
    arguments: dict[str, Any] = {
        "subscription": "sub_a",
        "provider": _PROVIDER,
        "sets": _SETS,
        "forward": [],
        "enabled": "true",
    }
    with pytest.raises(psycopg.errors.RaiseException, match="does not use the slot"):
        nodes.run("create_subscription", slot=ODD, **arguments)
    assert value(nodes.here, "SELECT count(*) FROM spock.subscription") == 0


def test_a_subscription_does_not_start_at_the_position_of_an_earlier_life(nodes: Nodes) -> None:
    slot = nodes.slot_of("sub_a")
    nodes.here.execute("SELECT pg_replication_origin_create(%s)", [slot])
    nodes.advance(slot, "0/99")
    nodes.subscribe()
    assert nodes.position(slot) in (None, "0/0")


def test_a_subscription_that_is_there_keeps_its_position_when_it_is_made_again(nodes: Nodes) -> None:
    slot = nodes.subscribe()
    nodes.advance(slot, "0/99")
    arguments: dict[str, Any] = {
        "subscription": "sub_a",
        "provider": _PROVIDER,
        "sets": _SETS,
        "forward": [],
        "enabled": "true",
    }
    with pytest.raises(psycopg.Error, match="already exists"):
        nodes.run("create_subscription", slot=slot, **arguments)
    assert nodes.position(slot) == "0/99"


def test_a_subscription_with_sets_of_odd_names_is_made(nodes: Nodes) -> None:
    slot = nodes.slot_of("sub_a")
    nodes.run("create_slot", on=nodes.there, slot=slot)
    arguments: dict[str, Any] = {
        "subscription": "sub_a",
        "provider": _PROVIDER,
        "sets": [ODD, "n,1"],
        "forward": ["all"],
        "enabled": "false",
    }
    nodes.run("create_subscription", slot=slot, **arguments)
    assert value(nodes.here, "SELECT sub_replication_sets FROM spock.subscription") == [ODD, "n,1"]


def test_a_copy_brings_structure_and_data_but_not_the_schemas_that_stay_out(nodes: Nodes) -> None:
    nodes.there.execute("CREATE SCHEMA zodan; CREATE TABLE zodan.not_copied (); CREATE SCHEMA skipped")
    nodes.there.execute("CREATE TABLE skipped.not_copied (); CREATE TABLE public.copied (id int PRIMARY KEY)")
    nodes.there.execute("INSERT INTO public.copied SELECT generate_series(1, 3)")
    nodes.there.execute("SELECT spock.repset_add_table('default', 'public.copied')")
    nodes.here.execute("CREATE SCHEMA skipped")
    row = nodes.run(
        "create_copy_subscription",
        subscription="sub_copy",
        provider=_PROVIDER,
        sets=_SETS,
        structure="true",
        data="true",
        forward=["all"],
        enabled="true",
        skip=["skipped", ODD],
    )
    query = (
        "SELECT sub_id, sub_enabled, sub_replication_sets, sub_forward_origins, sub_skip_schema FROM spock.subscription"
    )
    expected = (row["sub_id"], True, _SETS, ["all"], ["zodan", "skipped", ODD])
    assert nodes.here.execute(query.encode()).fetchone() == expected
    nodes.run("start_streams", subscriptions=["sub_copy"])
    assert nodes.run("wait_replicating", subscriptions=["sub_copy"])["ok"]
    assert value(nodes.here, "SELECT count(*) FROM public.copied") == 3
    found = "SELECT count(to_regclass('zodan.not_copied')) + count(to_regclass('skipped.not_copied'))"
    assert value(nodes.here, found) == 0
    nodes.here.execute("DROP TABLE public.copied; DROP SCHEMA skipped")
    nodes.there.execute("SELECT spock.repset_remove_table('default', 'public.copied')")
    nodes.there.execute("DROP TABLE public.copied; DROP SCHEMA zodan, skipped CASCADE")


def test_a_copy_of_nothing_can_wait_disabled(nodes: Nodes) -> None:
    nodes.run(
        "create_copy_subscription",
        subscription="sub_copy",
        provider=_PROVIDER,
        sets=[ODD],
        structure="false",
        data="false",
        forward=[],
        enabled="false",
        skip=[],
    )
    query = (
        "SELECT sub_enabled, sub_replication_sets, coalesce(sub_forward_origins, '{}'), sub_skip_schema"
        " FROM spock.subscription"
    )
    assert nodes.here.execute(query.encode()).fetchone() == (False, [ODD], [], ["zodan"])


def test_a_subscription_is_dropped_with_its_slot_and_origin(nodes: Nodes) -> None:
    slot = nodes.subscribe()
    assert nodes.run("drop_subscription", subscription="sub_a")["dropped"]
    assert value(nodes.here, "SELECT count(*) FROM spock.subscription") == 0
    assert slot not in _origins(nodes.here)
    assert _slots(nodes.there) == []
    nodes.run("drop_subscription", subscription="sub_a")
    nodes.run("drop_subscription", subscription=ODD)


def test_whether_a_subscription_is_there_is_told(nodes: Nodes) -> None:
    assert not nodes.run("subscription_exists", subscription="sub_a")["ok"]
    nodes.subscribe()
    assert nodes.run("subscription_exists", subscription="sub_a")["ok"]
    assert not nodes.run("subscription_exists", subscription=ODD)["ok"]


def test_streams_are_disabled_and_enabled(nodes: Nodes) -> None:
    nodes.subscribe("sub_a", enabled=True)
    nodes.subscribe("sub_b", enabled=True)
    query = "SELECT sub_name FROM spock.subscription WHERE sub_enabled ORDER BY 1"
    assert nodes.run("disable_streams")["disabled"] == 2
    assert nodes.run("disable_streams")["disabled"] == 0
    assert nodes.here.execute(query.encode()).fetchall() == []
    assert nodes.run("enable_streams", subscriptions=["sub_b", ODD])["enabled"] == 1
    assert nodes.run("enable_streams", subscriptions=["sub_b", ODD])["enabled"] == 0
    assert nodes.here.execute(query.encode()).fetchall() == [("sub_b",)]


def test_one_stream_is_stopped(nodes: Nodes) -> None:
    slot = nodes.subscribe("sub_a", enabled=True)
    nodes.subscribe("sub_p", enabled=True, provider=_PEER)
    waiting = nodes.run("wait_stopped", provider=_PROVIDER)
    assert not waiting["ok"]
    assert "somebody has enabled" in waiting["trouble"]
    assert nodes.run("stop_stream", provider=_PROVIDER)["disabled"] == 1
    assert nodes.run("stop_stream", provider=_PROVIDER)["disabled"] == 0
    query = "SELECT sub_name FROM spock.subscription WHERE sub_enabled"
    assert nodes.here.execute(query.encode()).fetchall() == [("sub_p",)]
    wait_until(
        lambda: "" if nodes.run("wait_stopped", provider=_PROVIDER)["ok"] else "not yet", 30, "the worker to end"
    )
    with nodes.worker("sub_a"):
        assert not nodes.run("wait_stopped", provider=_PROVIDER)["ok"]
    nodes.advance(slot, "0/7777777")
    nodes.run("prove_level", provider=_PROVIDER, lsn="0/7777777")
    with pytest.raises(psycopg.Error) as behind:
        nodes.run("prove_level", provider=_PROVIDER, lsn="0/7777778")
    assert behind.value.sqlstate == "ZD406"


# --- streams


def test_streams_start_and_replicate(nodes: Nodes) -> None:
    nodes.subscribe("sub_a", enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])
    row = nodes.run("wait_replicating", subscriptions=["sub_a"])
    assert row == {"ok": True, "progress": "sub_a replicating", "trouble": None}
    before = time.monotonic()
    nodes.run("start_streams", subscriptions=["sub_a"])
    assert time.monotonic() - before < 1


def test_a_stream_that_is_disabled_or_unknown_does_not_replicate(nodes: Nodes) -> None:
    nodes.subscribe()
    row = nodes.run("wait_replicating", subscriptions=["sub_a"])
    assert row == {"ok": False, "progress": "sub_a disabled", "trouble": "subscription sub_a is disabled"}
    assert not nodes.run("wait_replicating", subscriptions=[ODD])["ok"]


def test_a_slot_is_in_use_while_somebody_streams_from_it(nodes: Nodes) -> None:
    slot = nodes.subscribe()
    row = nodes.run("wait_in_use", on=nodes.there, slots=[slot])
    assert row == {"ok": False, "progress": f"nobody streams from slot {slot}", "trouble": None}
    nodes.run("enable_streams", subscriptions=["sub_a"])
    nodes.run("start_streams", subscriptions=["sub_a"])
    wait_until(
        lambda: "" if nodes.run("wait_in_use", on=nodes.there, slots=[slot])["ok"] else "not yet", 60, "the stream"
    )
    row = nodes.run("wait_in_use", on=nodes.there, slots=[slot, ODD])
    assert row == {"ok": False, "progress": None, "trouble": f"slot {ODD} is gone"}


def test_a_soak_lasts_while_the_streams_replicate(nodes: Nodes) -> None:
    nodes.subscribe("sub_a", enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])
    now = str(value(nodes.here, "SELECT clock_timestamp()"))

    def beside(soak: str = "0") -> dict[str, Any]:
        return nodes.run("wait_beside", subscriptions=["sub_a"], since=now, soak=soak)

    # A worker may end once, and start again.
    wait_until(lambda: "" if beside()["alive"] else "not replicating", 30, "the worker")
    row = beside("1 h")
    assert (row["ok"], row["alive"], row["trouble"]) == (False, True, None)
    assert row["blockers"].startswith("the end of 1 h, of which 00:00:0")
    assert beside()["ok"]
    # One of two is missing: the time that has passed does not count.
    row = nodes.run("wait_beside", subscriptions=["sub_a", ODD], since=now, soak="0")
    assert (row["ok"], row["alive"]) == (False, False)
    nodes.run("disable_streams")
    # Its worker is told to end, and may take a moment.
    wait_until(lambda: "" if beside()["trouble"] else "still replicating", 30, "the end of the worker")
    row = beside()
    assert (row["ok"], row["alive"], row["trouble"]) == (False, False, "subscription sub_a is disabled")


def test_who_writes_on_the_provider_is_seen(nodes: Nodes) -> None:
    for node in (nodes.here, nodes.there):
        node.execute("CREATE TABLE public.written (id int PRIMARY KEY)")
    nodes.there.execute("SELECT spock.repset_add_table('default', 'public.written')")
    slot = nodes.subscribe("sub_a", enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])

    def look(quiet: str = "0.3 s") -> dict[str, Any]:
        return nodes.run("wait_quiet", quiet=quiet, node=_PROVIDER, origin=slot)

    assert not look()["ok"], "the first look has seen nothing yet"
    wait_until(lambda: "" if look()["ok"] else "not quiet", 30, "quiet")
    # A transaction of this node itself is none of the provider.
    nodes.here.execute("INSERT INTO public.written VALUES (0)")
    assert look()["ok"]
    nodes.there.execute("INSERT INTO public.written VALUES (1)")
    count = "SELECT count(*) FROM public.written WHERE id = 1"
    wait_until(lambda: "" if value(nodes.here, count) else "nothing came", 30, "the row")
    row = look("1 min")
    assert not row["ok"]
    assert row["blockers"].startswith("the end of writing on node ")
    assert row["blockers"].endswith("the last transaction came 00:00:00 ago")
    wait_until(lambda: "" if look()["ok"] else "not quiet", 30, "quiet")
    nodes.here.execute("DROP TABLE public.written")
    nodes.there.execute("SELECT spock.repset_remove_table('default', 'public.written')")
    nodes.there.execute("DROP TABLE public.written")


def test_positions_are_read_and_confirmed_while_the_source_is_paused(nodes: Nodes) -> None:
    nodes.subscribe(enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])

    def send() -> str:
        lsn = str(nodes.run("emit_sync_event", on=nodes.there)["lsn"])
        # The next event is beyond it, so that the stream has come past this one.
        nodes.run("emit_sync_event", on=nodes.there)
        arguments: dict[str, Any] = {
            "provider": _PROVIDER,
            "lsn": "{result:event.lsn}",
            "results": {"event": {"lsn": lsn}},
        }
        wait_until(lambda: "" if nodes.run("wait_applied", **arguments)["ok"] else "not yet", 20, "the event")
        assert nodes.run("wait_drained", **arguments, streams=["sub_a"])["ok"]
        return lsn

    def confirm(positions: dict[str, str], peers: list[str]) -> None:
        arguments: dict[str, Any] = {"peers": peers, "positions": "{result:flip.positions}"}
        nodes.run("confirm_positions", results={"flip": {"positions": positions}}, **arguments)

    sent = send()
    nodes.here.execute("SELECT spock.pause_apply_workers()")
    try:
        nodes.run("wait_still", peers=[_PROVIDER, ODD])
        row = nodes.run("read_positions", peers=[_PROVIDER, ODD])
        assert list(row["positions"]) == [_PROVIDER]
        assert value(nodes.here, "SELECT %s::pg_lsn >= %s", row["positions"][_PROVIDER], sent)
        assert row["lsn"] <= value(nodes.here, "SELECT pg_current_wal_insert_lsn()")
        for _ in range(2):
            confirm(row["positions"], [_PROVIDER, ODD])
        assert nodes.run("read_positions", peers=[ODD])["positions"] == {}
        confirm({}, [ODD])
    finally:
        nodes.here.execute("SELECT spock.resume_apply_workers()")
    send()
    with pytest.raises(psycopg.Error) as raised:
        confirm(row["positions"], [_PROVIDER, ODD])
    assert raised.value.sqlstate == "ZD303"


def test_the_wait_for_still_positions_goes_on_while_they_move(nodes: Nodes) -> None:
    slot = nodes.subscribe(enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])
    moved: list[str | None] = []

    def wait() -> None:
        nodes.run("wait_still", peers=[_PROVIDER])
        moved.append(nodes.position(slot))

    waiting = Thread(target=wait)
    waiting.start()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        nodes.there.execute("SELECT spock.sync_event(true)")
    assert moved == []
    waiting.join(timeout=10)
    assert len(moved) == 1


@pytest.mark.parametrize("statement", ["wait_applied", "wait_drained"])
def test_what_a_subscriber_has_applied_is_told_and_measured(nodes: Nodes, statement: str) -> None:
    slot = nodes.subscribe()
    nodes.advance(slot, "0/20")

    def ask(lsn: str) -> dict[str, Any]:
        arguments: dict[str, Any] = {"provider": _PROVIDER, "lsn": "{result:event.lsn}"}
        if statement == "wait_drained":
            arguments["streams"] = ["sub_a"]
        return nodes.run(statement, results={"event": {"lsn": lsn}}, **arguments)

    row = ask("0/20")
    assert (row["ok"], row["progress"], row["alive"], row["measure"]) == (True, "0/20", False, {"lag_bytes": 0})
    row = ask("0/30")
    assert (row["ok"], row["progress"], row["measure"]) == (False, "0/20", {"lag_bytes": 16})
    assert row["trouble"] == f"the subscription from node {_PROVIDER} is disabled"
    nodes.here.execute(
        "INSERT INTO spock.exception_log (remote_origin, remote_commit_ts, command_counter, retry_errored_at,"
        " remote_xid, error_message) SELECT node_id, now(), 1, now(), 1, 'no such table'"
        " FROM spock.node WHERE node_name = %s",
        [_PROVIDER],
    )
    assert ask("0/30")["trouble"] == f"the subscription from node {_PROVIDER} is disabled: no such table"
    nodes.here.execute("DELETE FROM spock.exception_log")


def test_a_worker_in_the_middle_of_something_is_alive(nodes: Nodes) -> None:
    nodes.subscribe()
    arguments: dict[str, Any] = {"provider": _PROVIDER, "lsn": "0/30"}
    with nodes.worker("sub_a") as worker, ThreadPoolExecutor() as pool:
        # Idle it waits for its peer, as soon as it has got there.
        wait_until(lambda: "busy" if nodes.run("wait_applied", **arguments)["alive"] else "", 10, "it to be idle")
        nodes.here.execute("SELECT pg_advisory_lock(1)")
        busy = pool.submit(worker.execute, b"DO $$ BEGIN WHILE NOT pg_try_advisory_xact_lock(1) LOOP END LOOP; END $$")
        try:
            wait_until(lambda: "" if nodes.run("wait_applied", **arguments)["alive"] else "idle", 10, "its work")
        finally:
            nodes.here.execute("SELECT pg_advisory_unlock(1)")
            busy.result()


def test_nothing_is_applied_without_a_subscription_but_it_has_been_waited_for(nodes: Nodes) -> None:
    for node in (ODD, _PROVIDER):
        row = nodes.run("wait_applied", provider=node, lsn="0/30")
        assert (row["ok"], row["trouble"]) == (False, f"there is no subscription from node {node}")
        row = nodes.run("wait_drained", provider=node, lsn="0/30", streams=["sub_a"])
        assert (row["ok"], row["trouble"]) == (True, None)


def test_the_end_of_transactions_that_were_open_is_waited_for(nodes: Nodes) -> None:
    with (
        nodes.server.connect(dbname=nodes.here.info.dbname, autocommit=False) as earlier,
        nodes.server.connect(dbname=nodes.here.info.dbname, autocommit=False) as later,
        nodes.server.connect(dbname="stream_peer", autocommit=False) as elsewhere,
    ):
        for connection in (elsewhere, earlier):
            connection.execute("SELECT pg_current_xact_id()")
        results = {"begin": {"xid": value(nodes.here, "SELECT pg_current_xact_id()::text")}}
        later.execute("SELECT pg_current_xact_id()")

        def ask() -> dict[str, Any]:
            return nodes.run("wait_settled", xid="{result:begin.xid}", results=results)

        assert ask() == {"ok": False, "progress": f"process {earlier.info.backend_pid}"}
        earlier.execute("SELECT 1")
        earlier.execute(b"PREPARE TRANSACTION 'it''s prepared'")
        assert ask() == {"ok": False, "progress": "prepared transaction it's prepared"}
        earlier.commit()
        nodes.here.execute("ROLLBACK PREPARED 'it''s prepared'")
        assert ask() == {"ok": True, "progress": None}


def test_a_worker_that_has_been_in_one_transaction_for_long_is_told(nodes: Nodes) -> None:
    nodes.subscribe()
    assert nodes.run("wait_unbusy")["ok"]
    with nodes.worker("sub_a") as worker:
        time.sleep(0.4)
        row = nodes.run("wait_unbusy")
        assert not row["ok"]
        assert f"process {worker.info.backend_pid} has applied one transaction since" in row["progress"]
        worker.rollback()
        row = nodes.run("wait_unbusy")
        assert (row["ok"], row["progress"].count(" ")) == (True, 0)
        # A session of another kind may take its time.
        worker.execute("SET application_name = 'no worker'")
        worker.execute("SELECT pg_current_xact_id()")
        time.sleep(0.4)
        assert nodes.run("wait_unbusy")["ok"]


def test_the_end_of_a_worker_is_waited_for(nodes: Nodes) -> None:
    nodes.subscribe("sub_a")
    nodes.subscribe("sub_b")
    with nodes.worker("sub_a") as worker:
        row = nodes.run("wait_worker_gone", subscription="sub_a")
        assert row == {"ok": False, "progress": str(worker.info.backend_pid)}
        assert nodes.run("wait_worker_gone", subscription="sub_b") == {"ok": True, "progress": None}
    wait_until(lambda: nodes.run("wait_worker_gone", subscription="sub_a")["progress"] or "", 10, "its end")
    for subscription in ("sub_a", "sub_gone", ODD):
        assert nodes.run("wait_worker_gone", subscription=subscription)["ok"]


def test_a_worker_that_streams_is_waited_for_until_its_stream_is_disabled(nodes: Nodes) -> None:
    nodes.subscribe(enabled=True)
    nodes.run("start_streams", subscriptions=["sub_a"])
    wait_until(lambda: "" if nodes.run("wait_worker_gone", subscription="sub_a")["progress"] else "none", 30, "it")
    nodes.run("disable_streams")
    wait_until(lambda: nodes.run("wait_worker_gone", subscription="sub_a")["progress"] or "", 10, "its end")


# --- the turn to the direct streams


def test_the_direct_streams_start_where_the_copy_and_the_source_have_got_to(nodes: Nodes) -> None:
    copy, source, peer = _before_the_turn(nodes)
    ask: dict[str, Any] = {"slot": source, "subscription": None}
    assert not nodes.run("is_direct", **ask)["ok"]
    nodes.advance(copy, "0/50")
    # What was enabled would stream at once, and move on: nothing of this is committed but the positions.
    with nodes.here.transaction(force_rollback=True):
        _turn(nodes, source, {_PEER: "0/40"})
        query = "SELECT array_agg(sub_name::text ORDER BY 1) FROM spock.subscription WHERE sub_enabled"
        assert value(nodes.here, query) == ["sub_direct", "sub_peer"]
    assert (nodes.position(copy), nodes.position(source), nodes.position(peer)) == ("0/50", "0/50", "0/40")
    assert nodes.run("is_direct", **ask)["ok"]


def test_without_a_position_there_is_no_turn(nodes: Nodes) -> None:
    copy, source, _ = _before_the_turn(nodes)
    with pytest.raises(psycopg.Error, match="the position of the copy is not known"):
        _turn(nodes, source, {_PEER: "0/40"})
    nodes.advance(copy, "0/50")
    with pytest.raises(psycopg.Error, match=r"the position in the stream of node .* is not known") as raised:
        _turn(nodes, source, {ODD: "0/40"})
    assert _PEER in str(raised.value)
    with pytest.raises(psycopg.errors.NoDataFound):
        _turn(nodes, source, {ODD: "0/40"}, copy=ODD)
    assert value(nodes.here, "SELECT count(*) FROM spock.subscription WHERE sub_enabled") == 0
    assert not nodes.run("is_direct", slot=source, subscription=None)["ok"]


def test_a_subscription_of_the_name_stands_for_the_turn_where_it_is_asked_for(nodes: Nodes) -> None:
    slot = nodes.subscribe()
    assert nodes.run("is_direct", slot=slot, subscription="sub_a")["ok"]
    assert not nodes.run("is_direct", slot=slot, subscription=ODD)["ok"]
    assert not nodes.run("is_direct", slot=ODD, subscription=None)["ok"]


def _before_the_turn(nodes: Nodes) -> tuple[str, str, str]:
    copy, source = nodes.subscribe("sub_copy"), nodes.subscribe("sub_direct")
    return copy, source, nodes.subscribe("sub_peer", provider=_PEER)


def _turn(nodes: Nodes, slot: str, positions: dict[str, str], copy: str = "sub_copy") -> None:
    nodes.run(
        "switch_streams",
        results={"flip": {"positions": positions}},
        positions="{result:flip.positions}",
        subscription=copy,
        peers=[_PEER],
        subscriptions=["sub_direct", "sub_peer", ODD],
        slot=slot,
    )
