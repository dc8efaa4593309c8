"""The console scripts, as they are called from a shell: subprocesses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from zodan_sql.sandbox import Node

_SCRIPTS = Path(sys.executable).parent
_BUDGET_S = 120.0


@dataclass(frozen=True)
class Ended:
    """What a command printed, and the code that it ended with."""

    code: int
    out: str
    err: str


def start(*arguments: str, hook: str = "", script: str = "zodan-sql", **environment: str) -> subprocess.Popen[str]:
    """Start a command; ``hook`` is the point at which the executor's test hook holds it."""
    if hook:
        environment["PGOPTIONS"] = "-c zodan.test_hook=" + hook.replace(" ", r"\ ")
    return subprocess.Popen(
        [_SCRIPTS / script, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> Ended:
    """Wait until a command has ended."""
    try:
        out, err = process.communicate(timeout=_BUDGET_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(process.returncode, out, err)


def run(*arguments: str, script: str = "zodan-sql", **environment: str) -> Ended:
    """Run a command to its end."""
    return end(start(*arguments, script=script, **environment))


def add_by_client(source: Node, new: Node, *more: str, path: str = "") -> Ended:
    """Have a node join whose structure the client's programs bring: those on ``path``, or the new server's own."""
    named = ["--src-node-name", source.name, "--src-dsn", source.dsn()]
    named += ["--new-node-name", new.name, "--new-node-dsn", new.dsn()]
    # A newer pg_dump reads older servers too.
    programs = path or f"{new.engine.pg_bin}:{os.environ['PATH']}"
    return run("add-node", *named, "--structure", "client", *more, PATH=programs)
