"""Fixtures of tests that need no server."""

from __future__ import annotations

from functools import partial

import pytest

from support.commands import Run, run_main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process."""
    return partial(run_main, capsys)
