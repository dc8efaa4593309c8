"""A rendered script for readers other than psql: the same lines, without what only psql understands."""

from __future__ import annotations

import re
from collections.abc import Callable

_META_LINE = re.compile(r"\\.*")
_TRANSACTION_LINE = re.compile(r"(?:BEGIN|COMMIT);")
#: What sends a statement in place of a semicolon: \g and its variants, with a target or a condition after them.
_SEND = re.compile(r"\s*\\g\w*\b.*$")
_TAG = re.compile(r"\$\w*\$")


def without_meta(text: str) -> str:
    r"""Return the script with backslash lines blank and \g as a semicolon, dollar quotes untouched."""
    return _outside_quotes(text, lambda line: "" if _META_LINE.fullmatch(line) else _SEND.sub(";", line))


def without_transaction(text: str) -> str:
    """Return the script with its own BEGIN and COMMIT blank, so that it can run inside a transaction."""
    return _outside_quotes(text, lambda line: "" if _TRANSACTION_LINE.fullmatch(line) else line)


def _outside_quotes(text: str, change: Callable[[str], str]) -> str:
    kept, quoted_by = [], None
    for line in text.split("\n"):
        kept.append(change(line.rstrip()) if quoted_by is None else line)
        for tag in _TAG.findall(line):
            if quoted_by is None:
                quoted_by = tag
            elif quoted_by == tag:
                quoted_by = None
    return "\n".join(kept)
