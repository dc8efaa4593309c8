"""--json: one document on stdout whatever happens, and the page about it says what it holds."""

from __future__ import annotations

import re
import typing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.documents import parse
from zodan_sql.cli import documents
from zodan_sql.client import checks, install, journal, operation, samples, topology, verify
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.install import InstallResult
from zodan_sql.client.samples import Sample
from zodan_sql.client.topology import Leftover, Stream
from zodan_sql.errors import ZodanError

DSN = "host=a dbname=app password=s3cret"
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")

OPERATION = journal.Operation(17, "add_node", "n4", "done", "2026-01-01 10:00:00+00:00", 3.25, "")
STEP = journal.Step(1, "register", 1, "act", "n4", None, "create node n4", "done", 0.04, None)
CHECK = CheckResult("roles", "roles", "n4", "fail", None, "password=s3cret", "all roles", "look", "INFO")
SAMPLE = Sample(1, datetime(2026, 1, 1, tzinfo=UTC), 1.5, "data", 1, 2, 300, None, "public.t", 20)
ADD = ["--src-node-name", "n1", "--src-dsn", DSN, "--new-node-name", "n4", "--new-node-dsn", DSN]


@pytest.fixture(autouse=True)
def zodan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that Zodan is everywhere."""
    monkeypatch.setattr(install, "installed_version", lambda dsn: install.own_version())
    monkeypatch.setattr(journal, "find_unfinished", lambda *_: None)
    monkeypatch.setattr(journal, "steps", lambda dsn, number: [STEP])
    monkeypatch.setattr(checks, "recorded", lambda dsn, number: [CHECK])
    monkeypatch.setattr(samples, "read", lambda dsn, number: [SAMPLE])
    monkeypatch.setattr(verify, "recorded", lambda dsn, number: [])


def test_a_call_gives_its_journal_and_talks_on_stderr(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[journal.Operation] = []

    def call(dsn: str, procedure: str, arguments: object, on_message: operation.OnMessage, **_: object) -> None:
        on_message("NOTICE", "+ 1: create node n4", "")
        on_message("WARNING", 'no "way" to postgresql://me:s3cret@b/app', "wait")
        there.append(OPERATION)

    monkeypatch.setattr(operation, "call", call)
    monkeypatch.setattr(journal, "operations", lambda dsn: list(there))
    code, out, err = run("add-node", *ADD, "--json")
    found = parse(out, documents.CallDocument)
    assert (code, found["command"], found["error"]) == (0, "add-node", None)
    assert found["warnings"] == [{"message": 'no "way" to postgresql://me:****@b/app', "hint": "wait"}]
    assert found["operation"]["started"] == "2026-01-01T10:00:00+00:00"
    assert "create node n4" in err
    assert found["checks"] == [
        {
            **{
                "key": "roles",
                "verdict": "INFO",
                "name": "roles",
                "scope": "n4",
                "severity": "fail",
                "passed": None,
                "observed": "password=****",
            },
            **{"required": "all roles", "hint": "look"},
        }
    ]
    (sample,) = found["samples"]
    assert (sample["taken"], sample["bytes_done"], sample["bytes_total"]) == ("2026-01-01T00:00:00+00:00", 300, None)


def test_a_call_that_never_began_has_no_operation_of_an_earlier_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object, **__: object) -> None:
        raise ZodanError("not ready", sqlstate="ZD100", detail="password='s3cret x'", hint="do this")

    monkeypatch.setattr(operation, "call", call)
    monkeypatch.setattr(journal, "operations", lambda dsn: [OPERATION])
    code, out, _ = run("add-node", *ADD, "--json")
    found = parse(out, documents.CallDocument)
    assert code == 3
    assert found.keys() == {"command", "error", "warnings"}
    assert found["error"] == {
        "sqlstate": "ZD100",
        "message": "not ready",
        "detail": "password=****",
        "hint": "do this",
    }


def test_a_call_that_is_interrupted_again_has_its_operation(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    interrupted = journal.Operation(17, "add_node", "n4", "interrupted", "2026-01-01 10:00:00+00:00", None, None)
    monkeypatch.setattr(operation, "call", call)
    monkeypatch.setattr(journal, "operations", lambda dsn: [interrupted])
    code, out, _ = run("add-node", *ADD, "--json")
    found = parse(out, documents.CallDocument)
    assert code == 130
    assert found["operation"]["number"] == 17
    assert found["steps"]


@pytest.mark.parametrize(("failure", "code"), [(KeyboardInterrupt(), 130), (RuntimeError(DSN), 70)])
def test_a_document_is_printed_whatever_happens(
    run: Any, monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(journal, "operations", fail)
    ended, out, _ = run("operations", "--dsn", DSN, "--json")
    assert ended == code
    assert parse(out, documents.OperationsDocument)["error"]


def test_install_has_an_entry_for_each_database(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = ZodanError("no Spock", sqlstate="ZD100")
    results = [InstallResult('database "a"', "installed", "1"), InstallResult('database "b"', "failed", error=failed)]
    monkeypatch.setattr(install, "install", lambda dsns, create_dblink: results)
    code, out, _ = run("install", "--dsn", DSN, "--dsn", DSN, "--json")
    found = parse(out, documents.InstallDocument)
    assert code == 3
    assert [entry["error"] and entry["error"]["message"] for entry in found["databases"]] == [None, "no Spock"]
    assert found["error"]["message"] == "no Spock"


def test_topology_and_rescan_are_documents_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [
        Stream("n1", "n2", "sub_n1_n2", "replicating", False, 7),
        Stream("n3", None, None, "alone", None, None),
    ]
    monkeypatch.setattr(topology, "streams", lambda *_: streams)
    for option in ("--json", "--format=json"):
        found = parse(run("topology", "--dsn", DSN, option)[1], documents.TopologyDocument)
        assert (found["nodes"], [each["health"] for each in found["streams"]]) == (["n1", "n2", "n3"], ["bad", "off"])
    slot = Leftover("n1", "slot", "spk_x", "unused", "SELECT 1", certain=False)
    monkeypatch.setattr(topology, "rescan", lambda *_: [slot])
    code, out, _ = run("rescan", "--dsn", DSN, "--json")
    assert (code, parse(out, documents.RescanDocument)["leftovers"][0]["name"]) == (1, "spk_x")


def test_the_page_names_every_key() -> None:
    kinds = [kind for kind in vars(documents).values() if typing.is_typeddict(kind)]
    keys = {key for kind in kinds for key in typing.get_type_hints(kind)}
    assert keys - set(re.findall(r"`(\w+)`", PAGE)) == set()
