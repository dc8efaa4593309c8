"""The client's own sessions: what somebody set for applications holds for none of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.objects import at
from zodan_sql.client.connection import connect
from zodan_sql.client.install import borrowed, install, uninstall
from zodan_sql.sandbox import Node

_SETTINGS = {
    "statement_timeout": "'5s'",
    "idle_in_transaction_session_timeout": "'5s'",
    "idle_session_timeout": "'5s'",
    "default_transaction_read_only": "on",
    "client_encoding": "'SQL_ASCII'",
}


@pytest.fixture
def limited(server: Node) -> Iterator[Node]:
    """Return a server whose role has limits."""
    at(server, *(f"ALTER ROLE CURRENT_USER SET {name} = {value}" for name, value in _SETTINGS.items()))
    yield server
    at(server, "SET default_transaction_read_only = off", "ALTER ROLE CURRENT_USER RESET ALL")


def test_no_limit_ends_a_session(limited: Node) -> None:
    with connect(limited.dsn()) as connection:
        limits = [name for name in _SETTINGS if name.endswith("_timeout")]
        found = [connection.execute("SELECT current_setting(%s)", [name]).fetchone() for name in limits]
        assert found == [("0",)] * len(limits)
        assert connection.execute("SELECT 'é'").fetchone() == ("é",)


def test_zodan_is_installed_and_removed_where_transactions_are_read_only(limited: Node) -> None:
    (installed,) = install([limited.dsn()])
    assert installed.error is None
    (removed,) = uninstall([limited.dsn()])
    assert removed.error is None


def test_zodan_is_lent_where_transactions_are_read_only(limited: Node) -> None:
    with borrowed(limited.dsn()) as where:
        assert not isinstance(where, str)
        assert where.execute("SELECT zodan.quote_name('a b')").fetchone() == ('"a b"',)
