"""The machine of a clone, without a server: its programs, the caller's commands, and the lines of settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zodan_sql.cloning import fence
from zodan_sql.cloning.host import Host, find_host, run_shell
from zodan_sql.errors import ZodanError

HOST = Host(Path("/nowhere"), None)


def test_a_folder_of_programs_may_be_given_from_where_the_caller_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("postgres", "pg_ctl", "pg_basebackup", "pg_controldata"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 18.1'\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert find_host(Path("bin"), None, tmp_path / "data", 18).version() == 18


def test_a_command_has_ended_though_the_server_that_it_started_goes_on_speaking(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_shell("(sleep 5; echo later) & echo begun", "it failed", log, HOST)
    assert log.read_text() == "begun\n"
    with pytest.raises(ZodanError) as raised:
        run_shell("echo why >&2; exit 3", "it failed", log, HOST)
    assert "why" in raised.value.detail
    assert "begun" not in raised.value.detail


@pytest.mark.parametrize("value", [r"sed s/\t/x/", "it's", r"\\host", "a''b", r"ends with \\"])
def test_a_setting_is_read_as_it_was_written(tmp_path: Path, value: str) -> None:
    tmp_path.chmod(0o700)
    fence.settle(tmp_path, {"restore_command": value}, HOST)
    # Only what others have written is read.
    conf = tmp_path / "postgresql.auto.conf"
    conf.write_text("\n".join(line for line in conf.read_text().splitlines() if not line.startswith("#")))
    assert fence.read_setting(tmp_path, "restore_command") == value
