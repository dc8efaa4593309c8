"""Fixtures of tests that need one database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from zodan_sql.client.install import install
from zodan_sql.sandbox import Node


@pytest.fixture(scope="module")
def zodan(server: Node, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection to a database with Zodan, one for all tests of a module; they leave nothing in it."""
    name = str(request.module.__name__).rpartition(".")[2]
    with server.connect(dbname="postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with server.connect(dbname=name) as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
        (result,) = install([server.dsn(dbname=name)])
        assert result.error is None, result.error
        yield connection
