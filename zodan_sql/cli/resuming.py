"""--resume of verify: the file that a comparison goes on from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zodan_sql.building import render
from zodan_sql.cli.options import parse_duration
from zodan_sql.cli.screen import Screen
from zodan_sql.client.verify_file import VerifyFile, opened
from zodan_sql.errors import caller_error


@contextmanager
def resuming(screen: Screen, resume: Path | None, max_age: str | None) -> Iterator[VerifyFile | None]:
    """Yield the file of --resume, None without one; if the comparison ends before its end, say how to go on."""
    if resume is None:
        if max_age is not None:
            raise caller_error("--max-age needs --resume", "Add --resume, or leave the option out.")
        yield None
        return
    age = render.read_default("equal_keeps", str) if max_age is None else max_age
    with opened(resume, screen.redact, parse_duration(age, "--max-age")) as file:
        try:
            yield file
        finally:
            if file.is_under_way:
                screen.warn(f"{file.path} has the results of {file.done} tables: call again to go on with the others")
