"""What the net holds when tests run on several workers: the tests at the end see all of it, or say what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.gathering import LAST
from support.secrets import WRONG, Net

_TESTS = Path(__file__).resolve().parents[1]
_CONFTEST = f"""
import sys
sys.path.insert(0, {str(_TESTS)!r})
from support import gathering
def pytest_configure(config):
    gathering.register(config)
"""
_END = """
from support import watching
from support.gathering import SELECTED
def test_end(request):
    leaks = sorted({leak.test for leak in watching.NET.leaks()})
    assert not leaks, "leaked by " + " and ".join(leaks)
    assert watching.NET.missed == []
    told = {test.partition("::")[0] for test in watching.NET.tests()}
    assert {path.name for path in request.session.stash[SELECTED]} - {'LAST'} == told
"""
_SPEAKS = "def test_speaks():\n    print('hello')\n"
_LEAKS = f"def test_leaks():\n    print('it is ' + {WRONG!r})\n"
_SILENT = "def test_says_nothing():\n    pass\n"
_DIES = "import os\ndef test_dies():\n    print('hello')\n    os._exit(3)\n"
#: No plugin but the one that starts workers.
_BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
#: Processes: none but the first, or workers.
_WAYS = pytest.mark.parametrize("workers", [0, 2])


def run(folder: Path, workers: int, *tests: str) -> tuple[int, str]:
    """Run tests, each in a file of its own, and one that looks at the end; return the exit code and what was said."""
    files = {f"test_{number}.py": test for number, test in enumerate(tests, start=1)}
    files |= {"conftest.py": _CONFTEST, LAST: _END.replace("LAST", LAST), "pytest.ini": "[pytest]\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | _BARE
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rN",
        "-p",
        "no:cacheprovider",
        f"-n{workers}",
        "--max-worker-restart=0",
    ]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.replace(WRONG, "a password")


@_WAYS
def test_what_was_said_in_any_process_is_looked_at(tmp_path: Path, workers: int) -> None:
    code, said = run(tmp_path, workers, _SPEAKS, _SPEAKS, _SPEAKS)
    assert (code, "4 passed" in said) == (0, True), said


@_WAYS
def test_a_leak_in_any_process_fails_the_run(tmp_path: Path, workers: int) -> None:
    """The first two files go to different workers."""
    code, said = run(tmp_path, workers, _LEAKS, _LEAKS, _SPEAKS)
    assert (code, "1 failed, 3 passed" in said) == (1, True), said
    assert "leaked by test_1.py::test_leaks and test_2.py::test_leaks" in said


def test_a_file_of_which_nothing_came_and_a_worker_that_dies_fail_the_run(tmp_path: Path) -> None:
    code, said = run(tmp_path, 2, _SPEAKS, _SILENT, _SPEAKS)
    assert (code, "1 failed, 3 passed" in said) == (1, True), said
    code, said = run(tmp_path, 2, _SPEAKS, _DIES, _SPEAKS)
    assert code == 1, said
    assert "everything of worker gw" in said


def test_a_net_takes_over_what_another_has_saved(tmp_path: Path) -> None:
    saved, taking = Net(), Net()
    for net in (saved, taking):
        net.test = "a test"
        net.add("notice", "here", f"before {WRONG} after")
        net.add("row", "there", "nothing")
        net.missed.append("something")
    saved.test = "another"
    saved.add("log", "of n1", f"{WRONG} and more")
    saved.save(tmp_path / "gw0")
    taking.take(tmp_path / "gw0")
    assert taking.kinds() == {"notice": 2, "row": 2, "log": 1}
    assert taking.tests() == {"a test", "another"}
    assert [(leak.kind, leak.test, leak.excerpt) for leak in taking.leaks()] == [
        ("notice", "a test", f"before {WRONG} after"),
        ("notice", "a test", f"before {WRONG} after"),
        ("log", "another", f"{WRONG} and more"),
    ]
    assert taking.missed == ["something"] * 2
    assert list(tmp_path.iterdir()) == []
