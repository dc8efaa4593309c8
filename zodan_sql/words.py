"""Sizes and durations for people."""

from __future__ import annotations

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float | None) -> str:
    """Return a number of bytes for people, in powers of 1024 as PostgreSQL does; an empty string for None."""
    if count is None:
        return ""
    value, unit = float(count), 0
    while round(value) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    digits = f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"
    return f"{digits} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """Return a duration in seconds for people, such as ``1 min 5 s``."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
