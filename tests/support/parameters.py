"""Parameters of tests, of which only some are for every run."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def some_slow(values: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """Return the values of a parameter, of which those that are not ``quick`` make a slow test."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]
