"""Secrets are masked wherever they stand, and no name can pass for a placeholder or end a literal early."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import some_examples

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_traps = st.lists(
    st.sampled_from(["{dsn:n1}", "{result:1.lsn}", "$do$", "$", "{", "}", "'", "\\", "%", "%s", "ü", " ", "--", "/*"]),
    max_size=5,
).map("".join)
_names = _traps | _texts


def value(connection: psycopg.Connection[Any], query: str, *parameters: Any) -> Any:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def execute_bound(connection: psycopg.Connection[Any], statement: str, dsns: dict[str, str], results: Any) -> Any:
    bound = value(
        connection,
        "SELECT zodan.bind_placeholders(%s, %s::jsonb, %s::jsonb)",
        statement,
        json.dumps(dsns),
        json.dumps(results),
    )
    with psycopg.ClientCursor(connection) as cursor:
        row = cursor.execute(bound).fetchone()
    assert row is not None
    return row[0]


@some_examples
@given(name=_names, dsn=_names)
def test_a_placeholder_gives_back_what_it_stands_for(zodan: psycopg.Connection[Any], name: str, dsn: str) -> None:
    statement = "SELECT " + value(zodan, "SELECT zodan.placeholder('dsn', %s)", name)
    assert execute_bound(zodan, statement, {name: dsn, "n1": "secret"}, {}) == dsn


@some_examples
@given(name=_names)
def test_a_quoted_name_stays_a_name(zodan: psycopg.Connection[Any], name: str) -> None:
    literal = value(zodan, "SELECT zodan.quote_text(%s)", name)
    assert execute_bound(zodan, f"SELECT {literal}", {"n1": "secret"}, {"1": {"lsn": "0/1"}}) == name
    names = value(zodan, "SELECT zodan.quote_list(%s)", [name, "n1"])
    assert execute_bound(zodan, f"SELECT {names}", {"n1": "secret"}, {"1": {"lsn": "0/1"}}) == [name, "n1"]


@some_examples
@given(name=_names, dsn=_names)
def test_neither_ends_the_block_that_it_stands_in(zodan: psycopg.Connection[Any], name: str, dsn: str) -> None:
    literal = value(zodan, "SELECT zodan.quote_text(%s)", name)
    placeholder = value(zodan, "SELECT zodan.placeholder('dsn', 'n1')")
    block = (
        f"DO $do$ BEGIN PERFORM pg_catalog.set_config('zodan_test.both', {literal} || {placeholder}, false); END $do$"
    )
    bound = value(zodan, "SELECT zodan.bind_placeholders(%s, %s::jsonb, '{}')", block, json.dumps({"n1": dsn}))
    with psycopg.ClientCursor(zodan) as cursor:
        cursor.execute(bound)
    assert value(zodan, "SELECT pg_catalog.current_setting('zodan_test.both')") == name + dsn


def test_a_placeholder_that_nothing_fills_is_an_error(zodan: psycopg.Connection[Any]) -> None:
    for statement in ("SELECT {dsn:n2}", "SELECT {result:3.lsn}"):
        with pytest.raises(psycopg.Error) as raised:
            execute_bound(zodan, statement, {"n1": "x"}, {"1": {"lsn": "0/1"}})
        assert raised.value.sqlstate == "ZD901"


MASKED = [
    "could not connect: host=h password=s3cret dbname=d",
    "dsn was: password = 's3cret with space' host=h",
    r"password='it\'s s3cret' host=h",
    r"password=s3cret\ s3cret host=h",
    "PASSWORD=s3cret",
    "postgresql://u:s3cret@h/d is not there",
    "two: postgres://u:s3cret@h/d and postgresql://u:s3cret@g/d",
    "sslpassword=s3cret sslmode=require",
    "postgresql://h/d?user=u&password=s3cret&port=5",
    "provider_dsn := 'host=h password=''s3cret x'' dbname=d'",
]


@pytest.mark.parametrize("text", MASKED)
def test_a_password_in_a_foreign_text_is_masked(zodan: psycopg.Connection[Any], text: str) -> None:
    masked = value(zodan, "SELECT zodan.redact_text(%s)", text)
    assert "s3cret" not in masked
    assert "****" in masked


def test_the_rest_of_the_text_is_kept(zodan: psycopg.Connection[Any]) -> None:
    assert (
        value(zodan, "SELECT zodan.redact_text(%s)", "connection to host=h password=s3cret port=5 failed: timeout")
        == "connection to host=h password=**** port=5 failed: timeout"
    )


_secrets = st.text(st.characters(codec="utf-8", exclude_characters="\0*"), min_size=4, max_size=12)


@some_examples
@given(secret=_secrets, before=_texts, after=_texts)
def test_a_known_password_is_masked_wherever_it_stands(
    zodan: psycopg.Connection[Any], secret: str, before: str, after: str
) -> None:
    dsn = value(zodan, "SELECT zodan.format_dsn(%s::jsonb)", json.dumps({"host": "h", "password": secret}))
    for text in (f"{before}{secret}{after}", f"{before} {dsn} {after}"):
        masked = value(zodan, "SELECT zodan.redact_text(%s, %s::jsonb)", text, json.dumps({"n1": dsn}))
        assert secret not in masked


def test_a_redacted_connection_string_keeps_only_what_is_no_secret(zodan: psycopg.Connection[Any]) -> None:
    dsn = "password='a b' host=h sslpassword=c scram_client_key=d oauth_client_secret=e user=u dbname=x passfile=/f"
    assert value(zodan, "SELECT zodan.redact_dsn(%s)", dsn) == "dbname=x host=h user=u"
