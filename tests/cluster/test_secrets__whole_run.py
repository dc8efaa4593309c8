"""The end of every run: no password that a test used is in anything that came out of any test.

Every server of the tests asks for a password, so every connection string has one, and every test is a test of this.
Collected is what the tests' connections were told (NOTICEs and errors), what commands and this process printed, the
files they wrote, the rows of Zodan's tables, and the servers' logs. Not looked at is where a connection string has to
be: Spock's catalogs, and the private state of a sandbox.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from support import watching
from support.gathering import SELECTED
from support.secrets import PLANTED
from zodan_sql.building.render import find_build
from zodan_sql.client.install import install
from zodan_sql.sandbox import Node

KINDS = {"notice", "error", "command", "file", "row", "log"}
#: Files out of which every kind comes.
_ALL_KINDS = {"test_cli__documents.py", "test_add_node__bad_input.py"}
_TELL = """
DO $$
BEGIN
    RAISE NOTICE '%', {secret};
    RAISE EXCEPTION 'it failed' USING DETAIL = {secret};
END $$
"""


def test_the_net_holds(server: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A password that is told in every way there is comes to be found in every one."""
    name = "planted"
    with server.connect(dbname="postgres") as admin:
        admin.execute("CREATE DATABASE planted")
    with server.connect(dbname=name) as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
    (result,) = install([server.dsn(dbname=name)])
    assert result.error is None, result.error
    with server.connect(dbname=name) as connection:
        literal = connection.execute("SELECT quote_literal(%s)", [PLANTED]).fetchone()
        assert literal is not None
        with pytest.raises(psycopg.Error):
            connection.execute(_TELL.format(secret=literal[0]).encode())
        connection.execute(
            "INSERT INTO zodan.operation (kind, node, arguments, members)"
            " VALUES ('mend', 'x', jsonb_build_object('dsn', %s::text), '{}')",
            [PLANTED],
        )
    subprocess.run([sys.executable, "-c", "print(input())"], input=PLANTED, capture_output=True, text=True, check=True)
    print(PLANTED)
    capsys.readouterr()
    (tmp_path / "page.html").write_text(PLANTED)
    watching.take_files(tmp_path)
    watching.look_at_the_living()
    found = [leak for leak in watching.NET.leaks() if leak.secret == PLANTED]
    assert {leak.kind for leak in found} == KINDS
    assert {leak.test for leak in found} == {watching.NET.test}
    assert {leak.where for leak in found if leak.kind == "command"} >= {"stdout in this process"}


def test_no_password_came_out(request: pytest.FixtureRequest) -> None:
    net = watching.NET
    watching.look_at_the_living()
    for folder in (find_build(), Path(__file__).resolve().parents[2] / "docs"):
        watching.take_files(folder)
    leaks = [leak for leak in net.leaks() if leak.secret != PLANTED]
    assert not leaks, "\n".join(map(str, leaks))
    assert net.missed == []
    # Whatever part of the suite has run: nothing of it was overlooked.
    selected = request.session.stash[SELECTED]
    clusters = {path.name for path in selected if path.parent == Path(__file__).parent}
    told = {Path(test.partition("::")[0]).name for test in net.tests()}
    assert clusters <= told
    if clusters >= _ALL_KINDS:
        assert net.kinds(but=Path(__file__).name).keys() == KINDS
