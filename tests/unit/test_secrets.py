"""The net that every run's output goes into: it holds a password in whatever way it is written, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from psycopg.conninfo import make_conninfo

from support.secrets import PASSWORD, WRONG, Net, find, words
from zodan_sql.client.redaction import Redactor

WAYS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in a connection string": lambda secret: make_conninfo(host="h", password=secret),
    "in a literal": lambda secret: secret.replace("'", "''"),
    "in a literal in a literal": lambda secret: make_conninfo(password=secret).replace("'", "''"),
    "in a uri": lambda secret: f"postgresql://u:{quote(secret, safe='')}@h/d",
    "in a form": quote_plus,
    "with every letter encoded": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "in json": lambda secret: json.dumps({"dsn": make_conninfo(password=secret)}),
    "in hex": lambda secret: secret.encode().hex(),
    "without its beginning": lambda secret: secret[9:],
    "without its end": lambda secret: secret[:12],
}


@pytest.mark.parametrize("write", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("secret", [PASSWORD, WRONG])
def test_a_password_is_found_in_whatever_way_it_is_written(secret: str, write: Callable[[str], str]) -> None:
    net = Net()
    net.test = "this test"
    net.add("notice", "database app", "nothing to see")
    net.add("row", "zodan.step", f"before {write(secret)} after")
    (leak,) = net.leaks()
    assert (leak.kind, leak.where, leak.test, leak.secret) == ("row", "zodan.step", "this test", secret)
    assert "zodan.step, this test: 'before" in str(leak)
    assert net.kinds() == {"notice": 1, "row": 1}


def test_one_that_a_sandbox_has_made_is_known_by_its_beginning() -> None:
    assert [secret for secret, _ in find("password=zdn-0123456789abcdef-_ABCDEF host=h")] == [
        "zdn-0123456789abcdef-_ABCDEF"
    ]
    assert list(find("zdn-tmp")) == []


@pytest.mark.parametrize(
    ("who", "what", "leaks"),
    [
        ("spock apply 16384:2979946351 app", "DETAIL:  dsn was: ", 0),
        ('pglogical apply 16384:2979946351 Sales "EU"', "DETAIL:  dsn was: ", 0),
        ("client backend app", "DETAIL:  dsn was: ", 1),
        ("spock apply 16384:2979946351 app", "STATEMENT:  SELECT ", 1),
        ("spock apply 16384:2979946351 app", "LOG:  DETAIL:  dsn is: ", 1),
    ],
)
def test_of_a_log_only_what_spocks_workers_tell_by_themselves_is_left_out(who: str, what: str, leaks: int) -> None:
    net = Net()
    before = f"2026-01-01 10:00:00.123 GMT [2003] {who}"
    net.add_log("log of n1", f"{before} ERROR:  no\n{before} {what} {make_conninfo(password=PASSWORD)}\n\tand on\n")
    assert len(net.leaks()) == leaks


def test_what_was_masked_is_no_leak() -> None:
    dsn = make_conninfo(host="h", password=PASSWORD)
    assert list(find(Redactor([dsn])(f"{dsn} {PASSWORD} {quote(PASSWORD, safe='')}"))) == []
    assert words(PASSWORD) == ["Qz7hXaK2", "Wv9kRdM3"]
    assert words(WRONG) == ["Hj5vBq8T", "Yn3dLz6C"]
