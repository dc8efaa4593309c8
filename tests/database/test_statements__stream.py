"""Every statement about slots, origins and subscriptions does what it says, alone and on one server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.statements import ODD, forgotten, run, value
from zodan_sql.sandbox import Node, wait_until

_PROVIDER = "provider " + ODD
_SETS = ["default", "ddl_sql"]


@dataclass
class Pair:
    """Two nodes on one server: the database with Zodan, which subscribes, and the one it subscribes to."""

    here: psycopg.Connection[Any]
    there: psycopg.Connection[Any]
    here_dsn: str
    there_dsn: str

    def run(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Run a statement on the subscriber."""
        return run(self.here, name, dsns={_PROVIDER: self.there_dsn}, **parameters)

    def run_there(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Run a statement on the provider."""
        return run(self.here, name, on=self.there, dsns={_PROVIDER: self.there_dsn}, **parameters)

    def slot_of(self, subscription: str) -> str:
        """Return the name that Spock gives the slot and the origin of a subscription."""
        query = "SELECT spock.spock_gen_slot_name(current_database(), %s, %s)"
        return str(value(self.here, query, _PROVIDER, subscription))

    def subscribe(self, subscription: str = "sub_a", enabled: bool = False) -> str:
        """Make a slot and a subscription that uses it; return the name of the slot."""
        slot = self.slot_of(subscription)
        self.run_there("create_slot", slot=slot)
        self.run(
            "create_subscription",
            slot=slot,
            subscription=subscription,
            provider=_PROVIDER,
            sets=_SETS,
            enabled=str(enabled).lower(),
        )
        return slot


@pytest.fixture(scope="module")
def nodes(zodan: psycopg.Connection[Any], server: Node) -> Iterator[Pair]:
    with server.connect(dbname="postgres") as admin:
        admin.execute("CREATE DATABASE stream_provider")
    here_dsn, there_dsn = server.dsn(dbname=zodan.info.dbname), server.dsn(dbname="stream_provider")
    with server.connect(dbname="stream_provider") as there:
        there.execute("CREATE EXTENSION spock CASCADE; CREATE EXTENSION dblink")
        there.execute("SELECT spock.node_create(%s, %s)", [_PROVIDER, there_dsn])
        zodan.execute("SELECT spock.node_create(%s, %s)", ["here " + ODD, here_dsn])
        yield Pair(zodan, there, here_dsn, there_dsn)


@pytest.fixture
def pair(nodes: Pair) -> Iterator[Pair]:
    """Return the two nodes; what a test leaves in them is removed."""
    yield nodes
    nodes.here.execute("SELECT spock.resume_apply_workers()")
    nodes.here.execute("SELECT spock.sub_drop(sub_name, true) FROM spock.subscription")
    wait_until(lambda: _left(nodes.there), 10, "the slots to go")
    wait_until(lambda: _left_origins(nodes.here), 10, "the origins to go")


def _left(there: psycopg.Connection[Any]) -> str:
    there.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    there.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
    return str(value(there, "SELECT coalesce(string_agg(slot_name, ', '), '') FROM pg_replication_slots"))


def _left_origins(here: psycopg.Connection[Any]) -> str:
    try:
        here.execute("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")
    except psycopg.errors.ObjectInUse as error:
        return str(error)
    return ""


def _slots(connection: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in connection.execute("SELECT slot_name FROM pg_replication_slots ORDER BY 1")]


@pytest.mark.xfail(reason="some are missing")
def test_every_statement_is_run_here() -> None:
    assert forgotten("stream", __file__) == set()


# --- slots


def test_a_slot_is_made_and_its_position_returned(pair: Pair) -> None:
    row = pair.run_there("create_slot", slot="spk_one")
    query = "SELECT plugin, database, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_one'"
    assert pair.there.execute(query.encode()).fetchone() == ("spock_output", "stream_provider", row["lsn"])
    with pytest.raises(psycopg.errors.DuplicateObject):
        pair.run_there("create_slot", slot="spk_one")


def test_whether_a_slot_is_there_is_told(pair: Pair) -> None:
    assert not pair.run_there("slot_exists", slot="spk_one")["ok"]
    pair.run_there("create_slot", slot="spk_one")
    assert pair.run_there("slot_exists", slot="spk_one")["ok"]
    assert not pair.run_there("slot_exists", slot=ODD)["ok"]


def test_a_slot_is_dropped_and_one_that_is_gone_is_no_error(pair: Pair) -> None:
    for name in ("spk_one", "spk_two"):
        pair.run_there("create_slot", slot=name)
    for _ in range(2):
        pair.run_there("drop_slot", slot="spk_one")
        assert _slots(pair.there) == ["spk_two"]
    pair.run_there("drop_slot", slot=ODD)


# --- subscriptions


def test_a_subscription_uses_the_slot_that_was_made_for_it(pair: Pair) -> None:
    slot = pair.subscribe()
    query = "SELECT sub_slot_name, sub_enabled, sub_replication_sets, coalesce(sub_forward_origins, '{}') FROM spock.subscription"
    assert pair.here.execute(query.encode()).fetchone() == (slot, False, _SETS, [])
    assert _slots(pair.there) == [slot]


def test_a_subscription_is_dropped_with_its_slot_and_origin(pair: Pair) -> None:
    pair.subscribe()
    assert pair.run("drop_subscription", subscription="sub_a")["dropped"]
    assert value(pair.here, "SELECT count(*) FROM spock.subscription") == 0
    assert value(pair.here, "SELECT count(*) FROM pg_replication_origin") == 0
    assert _slots(pair.there) == []
    pair.run("drop_subscription", subscription="sub_a")
    pair.run("drop_subscription", subscription=ODD)


def test_whether_a_subscription_is_there_is_told(pair: Pair) -> None:
    assert not pair.run("subscription_exists", subscription="sub_a")["ok"]
    pair.subscribe()
    assert pair.run("subscription_exists", subscription="sub_a")["ok"]
    assert not pair.run("subscription_exists", subscription=ODD)["ok"]


def test_streams_are_disabled_and_enabled(pair: Pair) -> None:
    pair.subscribe("sub_a", enabled=True)
    pair.subscribe("sub_b", enabled=True)
    query = "SELECT sub_name FROM spock.subscription WHERE sub_enabled ORDER BY 1"
    assert pair.run("disable_streams")["disabled"] == 2
    assert pair.run("disable_streams")["disabled"] == 0
    assert pair.here.execute(query.encode()).fetchall() == []
    assert pair.run("enable_streams", subscriptions=["sub_b", ODD])["enabled"] == 1
    assert pair.run("enable_streams", subscriptions=["sub_b", ODD])["enabled"] == 0
    assert pair.here.execute(query.encode()).fetchall() == [("sub_b",)]


def test_streams_start_and_replicate(pair: Pair) -> None:
    pair.subscribe("sub_a", enabled=True)
    pair.run("start_streams", subscriptions=["sub_a"])
    row = pair.run("wait_replicating", subscriptions=["sub_a"])
    assert row == {"ok": True, "progress": "sub_a replicating", "trouble": None}
    before = time.monotonic()
    pair.run("start_streams", subscriptions=["sub_a"])
    assert time.monotonic() - before < 1
