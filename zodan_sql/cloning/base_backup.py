"""pg_basebackup, with its progress."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from zodan_sql.client.programs import connect_by
from zodan_sql.client.redaction import Redactor
from zodan_sql.cloning.host import Host, end_with_parent
from zodan_sql.errors import ZodanError
from zodan_sql.words import size

_PROGRESS = re.compile(r"^\s*(\d+)/(\d+) kB")
_REST_S = 5.0
_LINES = 8


def copy(
    host: Host,
    src_dsn: str,
    pgdata: Path,
    mapping: Mapping[str, str],
    max_rate: int | None,
    tell: Callable[[str], None],
    *,
    lock: int,
    syncs: bool,
) -> None:
    """Copy the source's data directory into an empty one. The program keeps ``lock`` for as long as it writes.

    What it writes is on disk at the end if ``syncs``.

    Raises ZodanError: ZD001 for a connection string that the program cannot be given safely, ZD200 if it failed.
    """
    target, environment = connect_by("pg_basebackup", src_dsn, "--src-dsn", "zodan-sql clone")
    words = ["--pgdata", str(pgdata), "--checkpoint", "fast", "--wal-method", "stream", "--progress", "--no-password"]
    words += [f"--tablespace-mapping={there}={here}" for there, here in mapping.items()]
    words += [] if syncs else ["--no-sync"]
    words += [f"--max-rate={max(max_rate // 1024, 32)}"] if max_rate else []
    process = subprocess.Popen(
        host.command("pg_basebackup", *words, "--dbname", target),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**environment, "LC_ALL": "C"},
        pass_fds=[lock],
        **host.options(),
    )
    try:
        said = _follow(process, tell)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.wait() != 0:
        raise ZodanError(
            "pg_basebackup could not copy the source",
            sqlstate="ZD200",
            detail=Redactor([src_dsn])("\n".join(said[-_LINES:])),
            hint="Fix the cause, then call again.",
        )


def _follow(process: subprocess.Popen[str], tell: Callable[[str], None]) -> list[str]:
    """Tell how far it is now and then, and return what else it said."""
    said: list[str] = []
    began = due = time.monotonic()
    assert process.stderr is not None
    # The program ends each line of progress as if it were to be written over: Python takes that for the end of a line.
    for line in process.stderr:
        found = _PROGRESS.match(line)
        if found is None:
            if line.strip():
                said.append(line.strip())
        elif time.monotonic() >= due:
            due = time.monotonic() + _REST_S
            done, total = (int(number) * 1024 for number in found.groups())
            rate = done / max(time.monotonic() - began, 0.1)
            left = f", {round((total - done) / rate)} s left" if done else ""
            tell(f"copied {size(done)} of {size(total)}, {size(int(rate))} a second{left}")
    return said
