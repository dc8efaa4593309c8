"""Connection strings are read on the server exactly as libpq reads them, and never repeated when they are wrong."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from support.examples import some_examples
from zodan_sql.client.connection import is_misread

#: Connecting with it gives a session that takes no SQL; libpq has it for itself.
_NOT_OURS = {"replication"}

KEYWORD_STRINGS = [
    "host=h dbname=d user=u password=p port=5432",
    "  password = 'a b'   host=h\tdbname\n=\nd ",
    r"password='it\'s \\ here' host=h",
    r"password=it\'s\ bare host=h",
    "password=it's host=h",
    "password='' host=h",
    "password= host=h",
    "host='a'port='5'dbname=x",
    "host=a host=b",
    "password=trailing\\",
    "password='a = b' options='-c search_path=x'",
    "dbname='Zürich 東京' host=h",
    "password={dsn:n1} host=$do$",
    "host=/var/run/postgresql port=5433",
    "password='line\nbreak' host=h",
    "host=a,b port=1,2",
    "host=h\u00a0x dbname=d",
]
URIS = [
    "postgresql://u:p@h:5432/d",
    "postgres://u@h/d",
    "postgresql://",
    "postgresql:///d",
    "postgresql://h",
    "postgresql://u:p%40ss%2Fw%3Ard@h/d%20b?application_name=a%26b",
    "postgresql://u:p?ss#w@h/d",
    "postgresql://u:a:b@h/d",
    "postgresql://:p@h/d",
    "postgresql://u:@h/d",
    "postgresql://h:5432,g:5433/d?target_session_attrs=any",
    "postgresql://[::1]:5432/d",
    "postgresql://[fe80::1],h:5/d",
    "postgresql://%2Fvar%2Frun/d",
    "postgresql:///d?host=/tmp&port=5433&user=u&password=p%25",
    "postgresql://h/d?ssl=true",
    "postgresql://h/d?connect_timeout=",
    "postgresql://h/d?connect_timeout=5&",
    "postgresql://h:54%33%32/d",
    "postgresql://u:p@h/%E6%9D%B1",
    "postgresql://h?user=u",
]
WRONG = [
    "",
    "   ",
    "host",
    "host=h dbname",
    "host=h password='open",
    "=x",
    "pasword=s3cret host=h",
    "password s3cret",
    "postgresql://h/d?nonsense=s3cret",
    "postgresql://u:s3cret%4@h/d",
    "postgresql://u:s3cret%00@h/d",
    "postgresql://h/d?connect_timeout",
    "postgresql://h/d?connect_timeout=1=2",
    "postgresql://h/d?&user=u",
    "postgresql://[::1]s3cret/d",
    "postgresql://[::1/d",
    "postgresql://[]/d",
    "host=h password=s3cret nonsense",
]


#: What libpq reads, but with a piece of the password as a host, a port or a database.
MISREAD = [
    "postgresql://u:pass@s3cret@h:5432/d",
    "postgresql://u:s3cret@@h/d",
    "postgresql://u:s3cret/word@h:5432/d",
    "postgresql://u:s3cret/word@h",
    "postgresql://u:5/s3cret@h/d",
    "postgresql://u:pass@s3cret/word@h/d",
    "postgresql://u:pass@s3cret/word@h/d?sslmode=require",
]


def parse(connection: psycopg.Connection[Any], dsn: str) -> dict[str, str]:
    row = connection.execute("SELECT zodan.parse_dsn(%s)", [dsn]).fetchone()
    assert row is not None
    settings: dict[str, str] = row[0]
    return settings


def normal(parsed: dict[str, Any]) -> dict[str, str]:
    """Leave out what says nothing: a list of ports without a port."""
    return {key: str(value) for key, value in parsed.items() if not (key == "port" and set(value) <= {","})}


@pytest.mark.parametrize("dsn", KEYWORD_STRINGS + URIS)
def test_reads_as_libpq_does(zodan: psycopg.Connection[Any], dsn: str) -> None:
    assert normal(parse(zodan, dsn)) == normal(conninfo_to_dict(dsn))


def test_knows_every_setting_of_libpq(zodan: psycopg.Connection[Any]) -> None:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} - _NOT_OURS
    assert parse(zodan, " ".join(f"{name}=1" for name in known)).keys() == known


@pytest.mark.parametrize("dsn", WRONG)
def test_rejects_what_libpq_rejects_and_repeats_nothing(zodan: psycopg.Connection[Any], dsn: str) -> None:
    if dsn.strip():
        with pytest.raises(psycopg.ProgrammingError):
            conninfo_to_dict(dsn)
    with pytest.raises(psycopg.Error) as raised:
        parse(zodan, dsn)
    assert raised.value.sqlstate == "ZD001"
    assert raised.value.diag.message_hint
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("dsn", MISREAD)
def test_a_password_that_libpq_would_take_for_something_else_is_refused_and_not_shown(
    zodan: psycopg.Connection[Any], dsn: str
) -> None:
    with pytest.raises(psycopg.Error) as raised:
        parse(zodan, dsn)
    assert raised.value.sqlstate == "ZD001"
    assert "%40" in str(raised.value.diag.message_hint)
    assert "s3cret" not in str(raised.value)


def test_bytes_that_are_no_utf8_are_refused_and_not_shown(zodan: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as raised:
        parse(zodan, "postgresql://u:%E4%F6%FC@h/d")
    assert raised.value.sqlstate == "ZD001"
    assert "e4" not in str(raised.value).lower()


_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_settings = st.dictionaries(
    st.sampled_from(["host", "dbname", "user", "password", "port", "application_name", "options"]), _texts
)
_soup = st.text(st.sampled_from(list("hostport=' \\\t\n\"%&?@:/,[]{}$ü\u00a0")), max_size=25)
_uri_soup = st.text(st.sampled_from(list("ab5%4@:/?&=,#'ü")), max_size=25).map(lambda text: "postgresql://" + text)


def quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@some_examples
@given(values=_settings, gap=st.sampled_from(["", " ", "\t \n"]))
def test_any_quoted_value_is_read_back(zodan: psycopg.Connection[Any], values: dict[str, str], gap: str) -> None:
    dsn = " ".join(f"{key}{gap}={gap}{quoted(value)}" for key, value in values.items())
    if dsn:
        assert parse(zodan, dsn) == values


@some_examples
@given(values=_settings.filter(bool))
def test_what_is_written_is_read_back_here_and_by_libpq(zodan: psycopg.Connection[Any], values: dict[str, str]) -> None:
    row = zodan.execute("SELECT zodan.format_dsn(%s::jsonb)", [json.dumps(values)]).fetchone()
    assert row is not None
    assert parse(zodan, row[0]) == values
    assert conninfo_to_dict(row[0]) == values


def test_a_password_of_every_printable_character_is_read_and_masked(zodan: psycopg.Connection[Any]) -> None:
    for dsn in (
        f"host=h password={quoted(string.printable)} user=u",
        f"postgresql://u:{quote(string.printable, safe='')}@h",
    ):
        assert conninfo_to_dict(dsn)["password"] == string.printable
        assert parse(zodan, dsn)["password"] == string.printable
        row = zodan.execute("SELECT zodan.redact_dsn(%s)", [dsn]).fetchone()
        assert row == ("host=h user=u",)


@some_examples
@given(user=_texts, password=_texts, database=_texts)
def test_any_uri_with_percent_encoding_is_read_back(
    zodan: psycopg.Connection[Any], user: str, password: str, database: str
) -> None:
    dsn = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h/{quote(database, safe='')}"
    assert parse(zodan, dsn) == normal(conninfo_to_dict(dsn))


@some_examples
@given(dsn=_soup | _uri_soup)
def test_agrees_with_libpq_on_nonsense(zodan: psycopg.Connection[Any], dsn: str) -> None:
    try:
        expected = normal(conninfo_to_dict(dsn)) if dsn.strip() else None
    except (psycopg.ProgrammingError, UnicodeDecodeError):
        expected = None
    if expected and is_misread(dsn, expected.get("port", "")):
        expected = None
    try:
        found = normal(parse(zodan, dsn))
    except psycopg.Error as error:
        assert error.sqlstate == "ZD001", dsn
        found = None
    assert found == expected, dsn
