"""stdout: its reader leaves early, its encoding lacks characters, its disk is full; and bytes that are no text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

MAIN = "from zodan_sql.cli import main; main()"
LINES = """
from zodan_sql.cli.screen import reporting
with reporting() as screen:
    for number in range(3):
        screen.line(f"line {number}")
    screen.raw("SELECT 1")
    screen.warn("the end")
"""
TABLE = """
from rich.table import Table
from zodan_sql.cli.outlet import table_outlet
table = Table(box=None, show_header=False)
table.add_column()
table.add_row("x " * 70)
table_outlet().print(table)
"""


def _run(script: str, *arguments: bytes, stdout: int = subprocess.PIPE, **more: str) -> tuple[int, bytes, str]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **more},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@pytest.fixture
def unread() -> int:
    """Return the end to write to of a pipe that nobody reads."""
    end, descriptor = os.pipe()
    os.close(end)
    return descriptor


def test_a_command_goes_on_when_nobody_reads_its_stdout(unread: int) -> None:
    code, _, err = _run(LINES, stdout=unread)
    assert (code, err.strip()) == (0, "the end")


@pytest.mark.parametrize("printed", [LINES, TABLE, "from zodan_sql.cli import main; main(['--version'])"])
def test_text_for_a_full_disk_is_an_error_and_no_bug(printed: str) -> None:
    begin = "import sys, typer\nfrom zodan_sql.cli.screen import reporting\ntry:\n with reporting():\n"
    end = "\nexcept typer.Exit as end: sys.exit(end.exit_code)"
    with Path("/dev/full").open("wb") as full:
        code, _, err = _run(begin + textwrap.indent(printed, "  ") + end, stdout=full.fileno())
    assert code == 2, err
    assert "could not write to stdout: No space left on device" in err
    assert "Traceback" not in err


def test_the_exit_code_stays_when_nobody_reads_the_document(unread: int) -> None:
    code, _, err = _run(MAIN, b"plan", b"--json", stdout=unread)
    assert code == 2
    assert "Traceback" not in err


def test_a_full_disk_is_an_error_and_no_bug() -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = _run(MAIN, b"plan", b"--json", stdout=full.fileno())
    assert code == 2
    assert "could not write to stdout: No space left on device" in err
    assert "Traceback" not in err


def test_a_document_is_utf_8_in_any_locale() -> None:
    document = "from zodan_sql.cli.screen import reporting\nwith reporting((), 'x') as it: it.fill({'a': 'é日'})"
    code, out, _ = _run(document, PYTHONIOENCODING="latin-1")
    assert (code, json.loads(out.decode())["a"]) == (0, "é日")


def test_a_character_that_the_terminal_lacks_ends_nothing() -> None:
    script = "from zodan_sql.cli import main\ntry: main(['--version'])\nexcept SystemExit: pass\n" + LINES
    code, out, _ = _run(script.replace("line {number}", "日"), PYTHONIOENCODING="ascii")
    assert code == 0
    assert b"\\u65e5" in out


@pytest.mark.parametrize("arguments", [(b"--dsn", b"host=a password=s3cret\xe9"), (b"--dsn", b"a", b"--nix\xe9")])
def test_bytes_that_are_no_text_are_the_callers_mistake(arguments: tuple[bytes, ...]) -> None:
    code, _, err = _run(MAIN, b"topology", *arguments)
    assert (code, err.strip()) == (2, "error: an argument is no text in UTF-8")


def test_a_password_in_the_environment_may_be_any_bytes() -> None:
    environment = {**os.environb, b"PGPASSWORD": b"s3cret\xe9"}
    command = [sys.executable, "-c", MAIN, "topology", "--dsn", ""]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_a_table_is_wider_than_a_terminal_where_nobody_sees_it_on_one() -> None:
    _, out, _ = _run(TABLE)
    assert len(out.splitlines()) == 1
