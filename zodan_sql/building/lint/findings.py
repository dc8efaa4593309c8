"""What lint says: one finding is one line of output."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """A place in a file and what is wrong there. ``line`` counts from 1."""

    file: str
    line: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.code} {self.message}"


class LintUnavailable(Exception):
    """A parser that lint stands on is not installed."""

    def __init__(self, module: str) -> None:
        super().__init__(f'lint needs "{module}": pip install "zodan-sql[lint]"')
