"""Keep passwords out of everything that the package prints."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from urllib.parse import quote, quote_plus

from zodan_sql.building import render
from zodan_sql.client.connection import parse_dsn
from zodan_sql.errors import ZodanError

MASK = "****"

# To the last @ of the word: it may be in a password that somebody did not percent-encode.
_USERINFO = re.compile(r"(?P<name>://[^\s:@/?]*:)\S*(?=@)")
_SHORT = 4


def secret_settings() -> list[str]:
    """Return the names of the settings of a connection string whose values are secret."""
    names: list[str] = render.read_default("secrets", list)
    return names


@cache
def _keyword() -> re.Pattern[str]:
    # A value is quoted, or quoted inside a quoted string, or ends at the next space.
    value = r"(?:''(?:(?!'').)*''|'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s&])*)"
    return re.compile(rf"(?P<name>\b(?:{'|'.join(secret_settings())})\s*=\s*){value}", re.DOTALL | re.IGNORECASE)


class Redactor:
    """Masks passwords in text: those in any connection string, and those of the given DSNs wherever they are."""

    def __init__(self, dsns: Iterable[str | None] = ()) -> None:
        self._known = {os.environ.get("PGPASSWORD", "")}
        self._secrets: list[re.Pattern[str]] = []
        self.add(dsns)

    def add(self, dsns: Iterable[str | None]) -> None:
        """Mask the passwords of more connection strings from now on."""
        for dsn in filter(None, dsns):
            try:
                settings = parse_dsn(dsn, "")
            except ZodanError:
                continue
            self._known.update(settings.get(name, "") for name in secret_settings())
        spellings = {
            spelling
            for secret in self._known
            for spelling in (
                secret,
                quote(secret, safe="", errors="surrogateescape"),
                quote_plus(secret, errors="surrogateescape"),
                secret.replace("\\", "\\\\").replace("'", "\\'"),
                secret.replace("'", "''"),
            )
        }
        self._secrets = []
        for spelling in sorted(spellings - {""}, key=len, reverse=True):
            pattern = re.escape(spelling)
            if len(spelling) < _SHORT:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            self._secrets.append(re.compile(pattern))

    def __call__(self, text: str) -> str:
        """Return the text with every password masked."""
        for pattern in (_USERINFO, _keyword()):
            text = pattern.sub(rf"\g<name>{MASK}", text)
        for secret in self._secrets:
            text = secret.sub(MASK, text)
        return text
