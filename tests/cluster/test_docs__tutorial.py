"""Every command of the tutorial works: its blocks are run in order, as one shell session and psql sessions on n4."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.watching import look
from zodan_sql.sandbox import Cluster, Engine, down

_REPOSITORY = Path(__file__).resolve().parents[2]
_TUTORIAL = _REPOSITORY / "docs" / "tutorial" / "first-join.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def script_of(page: str) -> str:
    """Return the blocks of a page as one script for bash; samples of output (text) are left out."""
    lines = ["set -euo pipefail"]
    psql: list[str] = []
    for language, block in _BLOCK.findall(page):
        assert language in ("sh", "sql", "text"), language
        if language == "sql":
            psql.append(block)
            continue
        if language == "sh":
            lines += [_session(psql), block]
            psql = []
    return "\n".join([*lines, _session(psql)])


def _session(blocks: list[str]) -> str:
    if not blocks:
        return ""
    return f"psql -X -v ON_ERROR_STOP=1 \"$N4\" <<'END_OF_SESSION'\n{''.join(blocks)}END_OF_SESSION"


def test_every_command_of_the_tutorial(engine: Engine, sandbox_folder: Path) -> None:
    environment = os.environ | {
        "ZODAN_SANDBOX": str(sandbox_folder),
        "PATH": f"{engine.pg_bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    script, down_command, rest = script_of(_TUTORIAL.read_text(encoding="utf-8")).partition("zodan-sql sandbox down\n")
    assert down_command
    assert rest.strip() == ""

    def follow(part: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash"], input=part, cwd=_REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )

    try:
        done = follow(script)
        look(Cluster.load(sandbox_folder))
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "a write on" not in said
        assert 'node "n4" has joined: 4 members, operation 1' in said
        assert 'node "n4" has been removed: 3 members are left, operation 4' in said
        # What the page says one sees.
        assert "(12 rows)" in said
        assert re.search(r"^ +2 \d+\|[0-9a-f]{32}$", said, re.MULTILINE), said
        assert re.search(r"^ n4 +\| +1 \|", said, re.MULTILINE), said
        assert follow(down_command).stdout == "removed n1, n2, n3, n4\n"
    finally:
        down(sandbox_folder)
