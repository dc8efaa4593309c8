"""Calling procedures in a database: messages as they arrive, errors with their class, a clean interruption."""

from __future__ import annotations

import _thread
import threading

import psycopg
import pytest

from zodan_sql import cli
from zodan_sql.client import install, operation
from zodan_sql.errors import ZodanError
from zodan_sql.sandbox import Node, wait_until

_PROCEDURES = """
CREATE PROCEDURE spock.talk(words text, info jsonb, loud boolean DEFAULT false) LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE '% %', words, info ->> 'a';
    RAISE DEBUG 'a statement';
    COMMIT;
    RAISE WARNING 'loud is %', loud USING HINT = 'hush';
END $$;
CREATE PROCEDURE spock.fail(code text) LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'it failed', DETAIL = 'facts', HINT = 'do this';
END $$;
CREATE PROCEDURE spock.linger() LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'lingering';
    PERFORM pg_sleep(600);
END $$;
"""
_LINGERING = "SELECT pid::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CALL%linger%'"


@pytest.fixture(scope="module")
def dsn(server: Node) -> str:
    server.execute(_PROCEDURES)
    return server.dsn()


def ignore(*_: str) -> None:
    pass


def test_messages_arrive_and_the_procedure_may_commit(dsn: str) -> None:
    heard: list[tuple[str, ...]] = []
    operation.call(dsn, "talk", {"info": {"a": "it's"}, "words": "so"}, lambda *said: heard.append(said))
    assert heard == [("NOTICE", "so it's", ""), ("WARNING", "loud is f", "hush")]
    heard.clear()
    operation.call(dsn, "talk", {"info": {}, "words": "so"}, lambda *said: heard.append(said), statements=True)
    assert [severity for severity, _, _ in heard] == ["NOTICE", "DEBUG", "WARNING"]


def test_an_error_keeps_its_class_and_words(dsn: str) -> None:
    with pytest.raises(ZodanError) as raised:
        operation.call(dsn, "fail", {"code": "ZD301"}, ignore)
    error = raised.value
    assert (error.sqlstate, error.message, error.detail, error.hint) == ("ZD301", "it failed", "facts", "do this")
    assert error.exit_code == 5


def test_interrupting_ends_the_statement_on_the_server(dsn: str, server: Node) -> None:
    with pytest.raises(KeyboardInterrupt):
        operation.call(dsn, "linger", {}, lambda *_: threading.Timer(0.1, _thread.interrupt_main).start())
    wait_until(
        lambda: " ".join(pid for (pid,) in server.execute(_LINGERING)),
        10.0,
        "the statement to end",
    )


def test_the_commands_print_what_the_server_says(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "installed_version", lambda _: install.own_version())
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE PROCEDURE spock.remove_node(target_node_name text, target_node_dsn text, verbose_mode boolean)"
            " LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'removing % at %', target_node_name, target_node_dsn;"
            " RAISE EXCEPTION USING ERRCODE = 'ZD201', MESSAGE = 'no ' || target_node_dsn; END $$"
        )
    # Not the server's own password: the procedure tells it, and nothing of a test may.
    target = "host=h dbname=d password=s3cret"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["remove-node", "--target-node-name", "n4", "--target-dsn", target, "--dsn", dsn])
    printed = capsys.readouterr()
    assert exit_.value.code == 4
    assert printed.out.startswith("removing n4 at host=")
    assert printed.err.startswith("error ZD201: no host=")
    assert "s3cret" not in printed.out + printed.err
    assert printed.out.count("password=****") == 1
