"""Passwords: masked by their place and by their letters, and never echoed when a string cannot be read."""

from __future__ import annotations

import pytest

from zodan_sql.client.connection import describe, parse_dsn
from zodan_sql.client.redaction import MASK, Redactor
from zodan_sql.errors import ZodanError

SECRET = "hunter2!"


@pytest.mark.parametrize(
    "text",
    [
        f"host=a password={SECRET} dbname=b",
        f"host=a password = {SECRET}",
        f"host=a password='{SECRET}' dbname=b",
        f"host=a PASSWORD='it\\'s {SECRET} yes' dbname=b",
        f"host=a password=one\\ {SECRET}",
        f"sslpassword={SECRET}",
        f"SELECT dblink_connect('host=a password=''my {SECRET}'' dbname=b')",
        f'could not connect with "host=a password={SECRET}"',
        f"host=a password='{SECRET}",
        f"postgresql://me:{SECRET}@a:5432/b",
        f"postgres://me:{SECRET}@a,b/c?sslmode=require",
        f"postgresql://:{SECRET}@a",
        f"postgresql://me:not/encoded@{SECRET}@a/b",
        f"postgresql://a/b?user=me&password={SECRET}&sslmode=require",
        f'invalid port number: "{SECRET}@a"',
        f"the words {SECRET} alone",
        "percent-encoded hunter2%21 alone",
    ],
)
def test_every_spelling_is_masked(text: str) -> None:
    shown = Redactor([f"host=a password={SECRET}"])(text)
    assert "hunter2" not in shown
    assert MASK in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=a password=x dbname=b", f"host=a password={MASK} dbname=b"),
        ("postgresql://me:x@a/b", f"postgresql://me:{MASK}@a/b"),
        ("a://b?password=x&sslmode=y", f"a://b?password={MASK}&sslmode=y"),
        ("nothing to hide: n1 at a:5432, 12:30", "nothing to hide: n1 at a:5432, 12:30"),
    ],
)
def test_what_is_no_secret_stays_without_knowing_the_password(text: str, shown: str) -> None:
    assert Redactor()(text) == shown


@pytest.mark.parametrize("secret", ["it's", "back\\slash", "a b", "per%cent", "x@y:z/w", "ab"])
def test_awkward_passwords_are_masked_wherever_they_are(secret: str) -> None:
    quoted = secret.replace("\\", "\\\\").replace("'", "\\'")
    shown = Redactor([f"host=h password='{quoted}'"])(f"said \"{secret}\" and password='{quoted}'")
    assert secret not in shown
    assert quoted not in shown


def test_the_passwords_of_uris_and_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "from-env")
    redact = Redactor(["postgresql://me:in%20uri@a/b", "", "not a dsn"])
    assert redact("said 'in uri' and from-env") == f"said '{MASK}' and {MASK}"


def test_a_short_password_does_not_eat_other_words() -> None:
    assert Redactor(["password=n1"])("n1 of n10 on n1") == f"{MASK} of n10 on {MASK}"


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "hunter2",
        "host=a password='hunter2",
        "postgresql://me:hunter2@[a",
        "hunter2=hunter2 host=a",
        # What libpq would take for a host, a port or a database.
        "postgresql://me:x@hunter2@a/b",
        "postgresql://me:hunter2/x@a:5432/b",
        "postgresql://me:hunter2/x@a",
        "postgres://me:x@y/hunter2@a/b?sslmode=require",
    ],
)
def test_a_string_that_cannot_be_read_is_never_echoed(dsn: str) -> None:
    with pytest.raises(ZodanError) as raised:
        parse_dsn(dsn, "--src-dsn")
    assert "hunter2" not in f"{raised.value.message} {raised.value.hint} {raised.value.__cause__}"
    assert "--src-dsn" in raised.value.message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("dbname=app host=h port=5 user=u password=hunter2", 'database "app" on h port 5'),
        ("postgresql://u:hunter2@h/app", 'database "app" on h'),
        ("user=u", 'database "u"'),
    ],
)
def test_a_database_is_named_without_its_password(dsn: str, words: str) -> None:
    assert describe(dsn) == words
