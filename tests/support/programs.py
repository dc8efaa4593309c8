"""The programs that a server runs for COPY, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from zodan_sql.sandbox import Node


def running_psqls(node: Node) -> list[int]:
    """Return the processes of psql that sessions of a server have started."""
    parents: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        parents[int(folder.name)] = (int(after.split()[1]), before.partition("(")[2])
    sessions = {int(pid) for (pid,) in node.execute("SELECT pid FROM pg_stat_activity")}
    return [
        pid for pid, (shell, name) in parents.items() if name == "psql" and parents.get(shell, (0, ""))[0] in sessions
    ]


def left_by_programs(connection: psycopg.Connection[Any]) -> list[str]:
    """Return the files of programs that are still there."""
    query = "SELECT name FROM pg_ls_dir('base/pgsql_tmp', true, false) AS f(name) WHERE name LIKE '%zodan%'"
    return [str(name) for (name,) in connection.execute(query)]
