"""Wait by polling, within a time limit."""

from __future__ import annotations

import time
from collections.abc import Callable

from zodan_sql.sandbox.errors import SandboxError

#: Polls come soon at first and then less often: most of them connect to several servers, which has its price.
_FIRST_INTERVAL_S = 0.02
_LAST_INTERVAL_S = 0.1
_GROWTH = 1.3


def wait_until(problem: Callable[[], str], budget_s: float, what: str) -> None:
    """Call ``problem`` until it returns an empty string. After ``budget_s``, raise SandboxError with its result."""
    deadline = time.monotonic() + budget_s
    interval_s = _FIRST_INTERVAL_S
    while last := problem():
        if time.monotonic() > deadline:
            raise SandboxError(f"waited {budget_s:g} s for {what}: {last}")
        time.sleep(interval_s)
        interval_s = min(interval_s * _GROWTH, _LAST_INTERVAL_S)
