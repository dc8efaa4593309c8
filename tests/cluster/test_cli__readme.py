"""The shell commands of the README's "Try it" section, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.watching import look
from zodan_sql.sandbox import Cluster

_README = Path(__file__).resolve().parents[2] / "README.md"
_SCRIPT = Path(sys.executable).parent / "zodan-sql"


def test_the_commands_to_try_do_what_the_readme_says(sandbox_folder: Path) -> None:
    section = _README.read_text(encoding="utf-8").partition("## Try it")[2].partition("\n## ")[0]
    (commands,) = [
        block for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE) if "zodan-sql sandbox up" in block
    ]
    environment = {**os.environ, "ZODAN_SANDBOX": str(sandbox_folder)}
    commands, down, rest = commands.replace(".venv/bin/zodan-sql", str(_SCRIPT)).partition(f"{_SCRIPT} sandbox down")
    assert down
    assert rest.strip() == ""

    def follow(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    try:
        ended = follow(commands)
        look(Cluster.load(sandbox_folder))
        gone = follow(down)
    finally:
        left = subprocess.run([_SCRIPT, "sandbox", "down"], env=environment, capture_output=True, text=True, check=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (gone.stdout, gone.stderr) == ("removed n1, n2, n3, n4\n", "")
    for said in ('node "n4" has joined: 4 members', 'node "n4" has been removed: 3 members'):
        assert said in ended.stdout
    assert "password" not in ended.stdout
    assert left.stdout == "there is no sandbox\n"
