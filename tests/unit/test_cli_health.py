"""The command health-check without a server: what it prints, masks, and exits with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.commands import Run, run_main
from support.documents import parse
from zodan_sql.cli import documents
from zodan_sql.client import checks, install
from zodan_sql.client.checks import CheckResult

SRC = "host=a dbname=app password=s3cret-src"
NEW = "postgresql://me:s3cret-new@b/app"
MEMBER = ["--src-node-name", "n1", "--src-dsn", SRC]
BOTH = [*MEMBER, "--new-node-name", "n4", "--new-node-dsn", NEW]
RESULTS = [
    CheckResult("reachable", "reachable", "n1", "fail", True, "connected", "a connection", "Check it.", "PASS"),
    CheckResult(
        "reachable",
        "reachable",
        "n4",
        "fail",
        False,
        "refused: password=s3cret-new",
        "a connection",
        "Check its address.",
        "FAIL",
    ),
    CheckResult("clock", "clock", "n2", "warn", False, "3 s", "2 s at most", "Synchronise.", "WARN"),
    CheckResult("disk-space", "disk space", "n4", "info", None, "unknown", "room", "Look at it.", "INFO"),
]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(install, "installed_version", lambda dsn: install.own_version())
    monkeypatch.setattr(checks, "examine", lambda dsn, arguments: RESULTS)
    monkeypatch.setattr(checks, "with_disk_space", lambda results, src, new: results)
    return partial(run_main, capsys, "health-check")


def test_the_table_shows_what_did_not_pass(run: Run) -> None:
    code, out, err = run(*BOTH)
    assert (code, err) == (3, "")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["FAIL", "WARN", "INFO", "4"]
    assert "Check its address." in out
    assert out.endswith("4 checks: 1 failed, 1 warned\n")
    assert "PASS" in run(*BOTH, "--verbose")[1]


def test_json_is_one_document(run: Run) -> None:
    code, out, _ = run(*BOTH, "--json", "--check-type", "post")
    document = parse(out, documents.HealthDocument)
    assert code == 3
    assert (document["check_type"], document["failed"], document["warned"]) == ("post", 1, 1)
    assert [check["passed"] for check in document["checks"]] == [True, False, False, None]


def test_warnings_alone_are_exit_0(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "examine", lambda dsn, arguments: RESULTS[2:])
    assert run(*MEMBER)[0] == 0


def test_half_a_new_node_is_a_mistake(run: Run) -> None:
    assert run(*MEMBER, "--new-node-name", "n4")[0] == 2


@pytest.mark.parametrize(
    ("free", "address", "started", "severity", "passed"),
    [
        (300, "127.0.0.1", 0, "info", True),
        (150, "127.0.0.1", 0, "warn", False),
        (50, "", 0, "fail", False),
        (50, "10.0.0.1", 0, "info", None),
        (50, "127.0.0.1", 60, "info", None),
    ],
    ids=["room", "little room", "no room", "elsewhere", "behind a tunnel"],
)
def test_disk_space_is_known_on_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free: int,
    address: str,
    started: int,
    severity: str,
    passed: bool | None,
) -> None:
    (tmp_path / "postmaster.pid").write_text(f"1\n{tmp_path}\n{1000 + started}\n5432\n")

    class Connection:
        info = SimpleNamespace(hostaddr=address)

        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *_: object) -> None: ...

        def execute(self, query: str) -> Any:
            return SimpleNamespace(fetchone=lambda: (100,) if "size" in query else (str(tmp_path), 1000))

    monkeypatch.setattr(checks, "connect", lambda dsn: Connection())
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    result = checks.with_disk_space(RESULTS, SRC, NEW)[-1]
    assert (result.severity, result.passed) == (severity, passed)
