"""--progress, samples, checks and the report, of joins whose copies take some seconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from support.calls import add_node, leftovers
from support.clusters import MakeCluster
from support.documents import parse
from support.shell import Ended, run
from support.slow import TABLE, create_slow_table
from support.tables import KEYED, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.cli import documents
from zodan_sql.client import samples
from zodan_sql.sandbox import Cluster, Node

#: Rows of a table of which one takes two milliseconds to be copied: five seconds.
_ROWS = 2500
_STEP = re.compile(r"^[+=-] \d+: ", re.MULTILINE)
_COPY = re.compile(r"^~ \d+: copy: \d of 4 tables, .* of about .*, .*, now \d tables from .*$", re.MULTILINE)


def ask(node: Node, *arguments: str, script: str = "zodan-sql") -> Ended:
    """Run a command; no password of anybody is in what it says."""
    ended = run(*arguments, script=script)
    assert str(conninfo_to_dict(node.dsn())["password"]) not in ended.out + ended.err
    return ended


def join(cluster: Cluster, new: str, mode: str, script: str, command: str) -> Ended:
    named = ["--src-node-name", "n1", "--src-dsn", cluster["n1"].dsn()]
    ended = ask(
        cluster[new],
        *(command, *named, "--new-node-name", new, "--new-node-dsn", cluster[new].dsn(), "--progress", mode),
        script=script,
    )
    assert ended.code == 0, ended
    assert f'node "{new}" has joined' in ended.out
    return ended


def read_document(node: Node, number: int) -> Any:
    return parse(ask(node, "steps", str(number), "--dsn", node.dsn(), "--json").out, documents.StepsDocument)


def test_a_copy_is_watched_and_kept(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(members=2, blanks=2)
    create_tables(cluster)
    fill(cluster["n1"], 100)
    create_slow_table(cluster, _ROWS)
    wait_level(cluster.members)

    told = join(cluster, "n3", "plain", "zodan-sql", "add-node").out
    assert _COPY.search(told), told
    assert _STEP.search(told)
    silent = join(cluster, "n4", "none", "zodan.py", "add_node").out
    assert "~" not in silent
    assert not _STEP.search(silent), silent
    wait_level(cluster.nodes)
    assert_rows_equal(cluster.nodes, [KEYED, TABLE])

    for name, reached in (("n3", ["n1", "n2", "n3"]), ("n4", ["n1", "n2", "n3", "n4"])):
        check_samples(read_document(cluster[name], 1)["samples"])
        check_kept(cluster[name], "reachable", reached)
    check_page(cluster["n3"], tmp_path / "join.html", charts=1)

    target = cluster["n4"]
    removed = ask(
        target,
        *("remove_node", "--target-node-name", "n4", "--target-dsn", target.dsn(), "--progress", "none"),
        script="zodremove.py",
    )
    assert (removed.code, removed.err) == (0, "")
    assert not _STEP.search(removed.out)
    assert 'node "n4" has been removed' in removed.out
    assert leftovers(cluster.nodes, "n4") == []
    found = read_document(target, 2)
    assert {sample["lag_bytes"] for sample in found["samples"]} == {0}
    assert "drains" in {check["key"] for check in found["checks"]}
    check_page(target, tmp_path / "leave.html", number=2, charts=0)


def check_samples(found: list[dict[str, Any]]) -> None:
    """The copy grows to what was to be copied; the streams are level at the end."""
    copy = [sample for sample in found if sample["stage"] is not None]
    rows = [sample for sample in copy if sample["stage"] == "data"]
    sizes = [sample["bytes_done"] for sample in rows]
    assert len(set(sizes)) > 3, sizes
    assert sizes == sorted(sizes)
    assert {sample["tables_total"] for sample in rows} == {4}
    assert _ROWS * 1500 < rows[0]["bytes_total"] < 2 * _ROWS * 1500
    assert rows[-1]["tables_done"] == 4
    assert rows[-1]["bytes_done"] == pytest.approx(rows[-1]["bytes_total"], rel=0.1)
    last = {sample["ordinal"]: sample["lag_bytes"] for sample in found if sample["stage"] is None}
    assert len(last) > 3
    assert set(last.values()) == {0}


def check_kept(node: Node, key: str, scopes: list[str]) -> None:
    """The checks are in the journal, and no secret is in any of it."""
    found = read_document(node, 1)["checks"]
    assert sorted(check["scope"] for check in found if check["key"] == key) == scopes
    assert not [check for check in found if check["severity"] == "fail" and check["passed"] is False]
    journal = node.execute("SELECT o::text FROM zodan.operation o UNION ALL SELECT s::text FROM zodan.sample s")
    assert len(journal) > 3
    secret = str(conninfo_to_dict(node.dsn())["password"])
    assert not [row for row in journal if secret in row[0]]


def check_page(node: Node, page: Path, charts: int, number: int = 1) -> None:
    assert ask(node, "report", str(number), "--dsn", node.dsn(), "--html", str(page)).code == 0
    text = page.read_text(encoding="utf-8")
    assert str(conninfo_to_dict(node.dsn())["password"]) not in text
    assert text.count('<svg class="chart"') >= charts
    assert ("Copied: 4 of 4 tables" in text) is (charts > 0)
    assert ('<svg class="lanes"' in text) is (charts > 0)
    assert re.search(r"\d+ checks: \d+ passed, 0 failed", text)
    assert "0 B behind" in text or number == 2
    assert "✗" not in text


def test_what_is_wrong_is_said_in_every_mode(make_cluster: MakeCluster) -> None:
    node = make_cluster(members=1, blanks=0)["n1"]
    for mode in ("plain", "none"):
        ended = ask(node, "remove-node", "--target-node-name", "nobody", "--target-dsn", node.dsn(), "--progress", mode)
        assert ended.code == 2
        assert 'does not lead to node "nobody"' in ended.err


def test_what_a_row_filter_leaves_out_is_not_guessed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    with n1.connect() as connection:
        connection.execute("CREATE TABLE part (id int PRIMARY KEY)")
        connection.execute("INSERT INTO part SELECT generate_series(1, 100)")
        connection.execute("SELECT spock.repset_add_table('default', 'part', row_filter := 'id > 50')")
    add_node(cluster, "n1", "n2")
    copy = [sample for sample in samples.read(n2.dsn(), 1) if sample.stage == "data"]
    assert {sample.bytes_total for sample in copy} == {None}
    assert (copy[-1].tables_done, copy[-1].tables_total) == (1, 1)
    assert copy[-1].bytes_done
