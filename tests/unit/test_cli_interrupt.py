"""Ctrl-C while the command line is loaded, and SIGTERM, end a command in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from zodan_sql.cli import main
from zodan_sql.client import install

_WHILE_IT_LOADS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from zodan_sql.cli import main
main(["--version"])
"""


def test_while_it_loads() -> None:
    ended = subprocess.run([sys.executable, "-c", _WHILE_IT_LOADS], capture_output=True, text=True, check=False)
    # A shell shows this as 130.
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_sigterm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(install, "installed_version", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        main(["operations", "--dsn", "host=a", "--json"])
    assert ended.value.code == 130
    told = capsys.readouterr()
    assert json.loads(told.out)["error"]["sqlstate"] == "57014"
    assert told.err.strip() == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
