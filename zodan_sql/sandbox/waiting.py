"""Wait by polling, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from zodan_sql.sandbox.errors import SandboxError

_INTERVAL_S = 0.02


def wait_until(problem: Callable[[], str], budget_s: float, what: str) -> None:
    """Call ``problem`` until it returns an empty string. After ``budget_s``, raise SandboxError with its result."""
    deadline = time.monotonic() + budget_s
    while last := problem():
        if time.monotonic() > deadline:
            raise SandboxError(f"waited {budget_s:g} s for {what}: {last}")
        time.sleep(_INTERVAL_S)
