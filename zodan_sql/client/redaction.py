"""Keeping passwords out of everything that is printed (design, section 6)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

import psycopg
from psycopg.conninfo import conninfo_to_dict

from zodan_sql.errors import ZodanError, caller_error

MASK = "****"

#: As sql/templates/macros/defaults.sql.j2 has them.
SECRET_SETTINGS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
# A value is quoted, or quoted within a quoted string, or runs to the next space.
_KEYWORD = re.compile(
    rf"(?P<name>\b(?:{'|'.join(SECRET_SETTINGS)})\s*=\s*)(?:''(?:(?!'').)*''|'(?:[^'\\]|\\.)*'?|(?:\\.|[^\s&])*)",
    re.DOTALL | re.IGNORECASE,
)
# To the last @ of the word: a password that should have been percent-encoded is one all the same.
_USERINFO = re.compile(r"(?P<name>://[^\s:@/?]*:)\S*(?=@)")
_SHORT = 4


def parse_dsn(dsn: str, option: str) -> dict[str, str]:
    """Return a connection string's settings. ``option`` names it in the error, which never repeats the string."""
    try:
        settings = conninfo_to_dict(dsn)
    except psycopg.Error:
        settings = {}
    if not settings:
        # The parser's own words hold pieces of the string, and a piece may be one of a password.
        raise caller_error(
            f"{option} is not a connection string",
            "Write key=value pairs with values quoted where they hold spaces, or postgresql://user@host:port/database.",
        ) from None
    return {name: str(value) for name, value in settings.items()}


class Redactor:
    """Masks passwords in text: by their place in a connection string, and those of given DSNs wherever they are."""

    def __init__(self, dsns: Iterable[str] = ()) -> None:
        self._secrets: list[re.Pattern[str]] = []
        secrets = {os.environ.get("PGPASSWORD", "")}
        for dsn in dsns:
            try:
                settings = parse_dsn(dsn, "")
            except ZodanError:
                continue
            secrets.update(settings.get(name, "") for name in SECRET_SETTINGS)
        spellings = {
            spelling
            for secret in secrets
            for spelling in (
                secret,
                quote(secret, safe=""),
                quote_plus(secret),
                secret.replace("\\", "\\\\").replace("'", "\\'"),
                secret.replace("'", "''"),
            )
        }
        for spelling in sorted(spellings - {""}, key=len, reverse=True):
            pattern = re.escape(spelling)
            if len(spelling) < _SHORT:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            self._secrets.append(re.compile(pattern))

    def __call__(self, text: str) -> str:
        """Return the text with every password masked."""
        for pattern in (_USERINFO, _KEYWORD):
            text = pattern.sub(rf"\g<name>{MASK}", text)
        for secret in self._secrets:
            text = secret.sub(MASK, text)
        return text


def describe(dsn: str, option: str = "--dsn") -> str:
    """Return what a connection string leads to, for a message: database, host and port, and nothing else."""
    settings = parse_dsn(dsn, option)
    database = settings.get("dbname") or settings.get("service") or settings.get("user") or "default"
    host, port = settings.get("host") or settings.get("hostaddr"), settings.get("port")
    return f'database "{database}"' + (f" on {host}" if host else "") + (f" port {port}" if port else "")
