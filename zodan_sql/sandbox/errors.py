"""The one exception of the sandbox."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot do what you asked; the message says why, and ``hint`` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.hint}" if self.hint else message
