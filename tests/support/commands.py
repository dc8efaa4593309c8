"""The command line run in the process of the tests, as its entry points would."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from zodan_sql import cli

#: Takes a command line; returns its exit code, and what it printed on stdout and on stderr.
Run = Callable[..., tuple[int, str, str]]


def run_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command line, see that no password came out, and return what came."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert "s3cret" not in printed.out + printed.err
    return int(exit_.value.code or 0), printed.out, printed.err
