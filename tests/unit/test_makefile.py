"""What make offers: a list of its goals, and the parts of its checks, which are also the hooks of a commit."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
_MAKEFILE = (_REPOSITORY / "Makefile").read_text(encoding="utf-8")
_HOOKS = (_REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")
_FOLDERS = sorted(path.name for path in (_REPOSITORY / "tests").iterdir() if any(path.glob("test_*.py")))


def run_make(*arguments: str) -> str:
    """Return what make prints; it must not take over the options of a make that runs this test."""
    clean = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    done = subprocess.run(
        ["make", *arguments], cwd=_REPOSITORY, env=clean, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


@pytest.fixture(scope="module")
def listed() -> dict[str, str]:
    """Return the goals that make help lists, and what it says of each."""
    return dict(line.split(maxsplit=1) for line in run_make("help").splitlines())


def find_goals() -> list[str]:
    (names,) = re.findall(r"^\.PHONY: (help.*?[^\\])$", _MAKEFILE, re.MULTILINE | re.DOTALL)
    return [name for name in names.split() if name != "\\"]


def find_needs(goal: str) -> list[str]:
    (needs,) = re.findall(rf"^{goal}:(.*?)(?: ##.*)?$", _MAKEFILE, re.MULTILINE)
    return str(needs).split()


def find_parts() -> list[str]:
    """Return the goals that check makes side by side."""
    (parts,) = re.findall(r"^check:.*\n\t@\$\(MAKE\) (?:--\S+ )+(.*)$", _MAKEFILE, re.MULTILINE)
    return str(parts).split()


def test_the_first_goal_is_help() -> None:
    assert run_make() == run_make("help")
    assert run_make().startswith("help ")


def test_help_lists_every_goal(listed: dict[str, str]) -> None:
    assert sorted(listed) == sorted(find_goals())
    assert [goal for goal in re.findall(r"^([\w-]+):.* ## ", _MAKEFILE, re.MULTILINE) if goal not in listed] == []


def test_help_is_aligned_and_has_no_syntax_of_make() -> None:
    lines = run_make("help").splitlines()
    assert len({re.match(r"[a-z-]+ +", line).end() for line in lines}) == 1  # type: ignore[union-attr]
    assert [line for line in lines if "$(" in line or "##" in line] == []


@pytest.mark.parametrize("goal", ["demo", "test", "test-all", "check", *_FOLDERS])
def test_help_says_how_long_a_test_takes(listed: dict[str, str], goal: str) -> None:
    assert re.search(r"\((?:\d+ (?:seconds|minutes?)|hours)\)$", listed[goal]), listed[goal]


@pytest.mark.parametrize("goal", _FOLDERS)
def test_a_folder_of_tests_has_a_goal(goal: str) -> None:
    assert re.search(rf"pytest( -n \d+)? tests/{goal}$", run_make("-n", goal).splitlines()[-1])


def test_the_parts_of_check_are_the_hooks_of_a_commit() -> None:
    assert re.findall(r"^ +entry: make ([\w-]+)$", _HOOKS, re.MULTILINE) == find_parts()
    hooks = len(find_parts())
    assert re.findall(r"^ +- repo: (\w+)$", _HOOKS, re.MULTILINE) == ["local"]
    for line in ("language: system", "pass_filenames: false"):
        assert _HOOKS.count(f"        {line}\n") == hooks


def test_ci_runs_make_test() -> None:
    assert (_REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
    assert find_needs("test")[:1] == ["check"]
