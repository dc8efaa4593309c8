"""Checks by their keys: what they are called is for people, and may be worded otherwise."""

from __future__ import annotations

import re
from functools import cache

from zodan_sql.building.render import render


@cache
def _names() -> dict[str, str]:
    files = render()
    found = re.findall(r"'([a-z0-9-]+)', '((?:[^'\n]|'')+)'", files["zodan.sql"] + files["zodremove.sql"])
    return {key: name.replace("''", "'") for key, name in reversed(found)}


def name_of(key: str) -> str:
    """Return the name of the check with this key. Raises KeyError where there is none."""
    return _names()[key]
