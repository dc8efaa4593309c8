"""A server that logs statements: no password of a call is in its log, and what cannot be kept out is said."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from support.clusters import MakeCluster
from support.secrets import find
from support.shell import run
from support.tables import create_tables
from zodan_sql.sandbox import Cluster, Node

_LOGS = {"log_min_duration_statement": "0", "auto_explain.log_min_duration": "0", "log_duration": "on"}


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=1, blanks=1)
    create_tables(cluster)
    return cluster


def _set(node: Node, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        node.execute(f"ALTER ROLE CURRENT_USER SET {name} = '{value}'")


def _add(cluster: Cluster) -> list[str]:
    """Call as psql does, everything in one string; return the warnings."""
    n1, n2 = cluster.nodes
    statement = sql.SQL("CALL spock.add_node('n1', {}, 'n2', {})").format(sql.Literal(n1.dsn()), sql.Literal(n2.dsn()))
    told: list[str] = []
    with n2.connect() as connection:
        connection.add_notice_handler(lambda said: told.append(str(said.message_primary)))
        # The simple protocol: bound, a statement is logged before it begins.
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(statement)
    return told


def test_a_call_that_lasts_is_not_logged_with_its_passwords(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    assert run("install", "--dsn", n2.dsn()).code == 0
    _set(n2, _LOGS)
    assert [line for line in _add(cluster) if "passwords" in line] == []
    text = n2.log_text()
    assert "duration: " in text
    assert list(find(text)) == []


def test_what_is_logged_before_it_begins_is_said(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    assert run("install", "--dsn", n2.dsn()).code == 0
    with n2.connect() as connection:
        connection.execute("SET log_statement = 'all'")
        told: list[str] = []
        connection.add_notice_handler(lambda said: told.append(str(said.message_primary)))
        # No password of ours: this one is bound to be in the log.
        with pytest.raises(psycopg.Error):
            connection.execute(
                "CALL spock.add_node('n1', 'host=nowhere.invalid password=x', 'n2', 'host=nowhere.invalid')"
            )
    assert [line for line in told if line.startswith("log_statement is all here")]


def test_the_shell_leaves_none_in_any_log(cluster: Cluster) -> None:
    n1, n2 = cluster.nodes
    assert run("install", "--dsn", n2.dsn()).code == 0
    _set(n2, _LOGS | {"log_statement": "all"})
    given = ("--src-node-name", "n1", "--src-dsn", n1.dsn(), "--new-node-name", "n2", "--new-node-dsn", n2.dsn())
    assert run("health-check", *given).code == 0
    added = run("add-node", *given)
    assert added.code == 0, added.err
    assert "passwords" not in added.out + added.err
    text = n2.log_text()
    assert "statement: " in text or "duration: " in text
    assert list(find(text)) == []
