"""psql, as a DBA runs it: a subprocess that reads a file or a few statements."""

from __future__ import annotations

import subprocess
from pathlib import Path

from zodan_sql.sandbox import Engine


def psql(engine: Engine, dsn: str, *arguments: str, script: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run psql without anybody's psqlrc and return what it printed; a failure is the caller's to look at."""
    return subprocess.run(
        [engine.pg_bin / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn, *arguments],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


def load(engine: Engine, dsn: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Load a script as the README says."""
    return psql(engine, dsn, "-f", str(path))


def literal(text: str) -> str:
    """Return a text as a literal of SQL, for a statement as a DBA types it."""
    return "'" + text.replace("'", "''") + "'"


def variable(text: str) -> str:
    r"""Return a text as an argument of psql's \set."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
