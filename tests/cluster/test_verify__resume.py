"""A comparison that was interrupted goes on: finished tables are not compared again, and their results count."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.calls import state
from support.clusters import MakeCluster
from support.documents import parse
from support.parameters import some_slow
from support.planting import plant
from support.secrets import find
from support.shell import Ended, end, run, start
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.cli import documents
from zodan_sql.sandbox import Cluster, Node, wait_until

#: Tables without a key are compared one after another, the largest first.
_BAGS = [f"bag_{number}" for number in range(6)]
_TABLES = ["keyed", *_BAGS]
_LAST = "public.bag_5"
_DDL = (
    "".join(f"CREATE TABLE {name} (a int, b text);" for name in _BAGS)
    + "CREATE TABLE keyed (k int PRIMARY KEY, v int);"
)
_ROWS = [
    *(
        f"INSERT INTO {name} SELECT i, 'x' FROM generate_series(1, {600 - 100 * place}) AS i"
        for place, name in enumerate(_BAGS)
    ),
    "INSERT INTO keyed SELECT i, i FROM generate_series(1, 800) AS i",
]
_PLANTED = "UPDATE bag_0 SET b = 'planted' WHERE a = 7"
_TAKEN_BACK = "UPDATE bag_0 SET b = 'x' WHERE a = 7"


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Return three nodes with the same rows, without Zodan."""
    made = make_module_cluster(members=3, blanks=0)
    for node in made.members:
        with node.connect() as connection:
            for setting in ("enable_ddl_replication", "include_ddl_repset"):
                connection.execute("SELECT set_config(%s, 'off', false)", [f"spock.{setting}"])
            connection.execute(_DDL.encode())
        add_to_sets(node, {"keyed": "default", **dict.fromkeys(_BAGS, "default_insert_only")})
    for statement in _ROWS:
        made["n1"].execute(statement)
    wait_level(made.members)
    for node in made.members:
        for table in _TABLES:
            node.execute(f"ANALYZE {table}")
    return made


def arguments(cluster: Cluster, path: Path, *more: str) -> list[str]:
    return ["verify", "--dsn", cluster["n1"].dsn(), "--jobs", "1", "--resume", str(path), *more]


def verify(cluster: Cluster, path: Path, *more: str) -> tuple[Ended, dict[str, Any]]:
    """Compare to the end, and return how that ended, and the document."""
    ended = run(*arguments(cluster, path, *more), "--json")
    check(ended, path)
    return ended, parse(ended.out, documents.VerifyDocument)


def check(ended: Ended, path: Path) -> None:
    """Check that there is no secret, neither on the screen nor in the file."""
    assert list(find(ended.out + ended.err)) == []
    if path.is_file():
        text = path.read_text()
        assert list(find(text)) == []
        assert "host=" not in text
        assert path.stat().st_mode & 0o077 == 0


def results(document: dict[str, Any]) -> dict[str, str]:
    return {table["table"]: table["result"] for table in document["tables"]}


def kept(document: dict[str, Any]) -> set[str]:
    return {each["table"] for each in document["kept"]}


def _in_file(path: Path) -> set[str]:
    return set(json.loads(path.read_text())["tables"]) if path.is_file() and path.stat().st_size else set()


def wait_compared(path: Path) -> None:
    """Wait until the file has all tables but the last."""
    left = {f"public.{name}" for name in _TABLES} - {_LAST}
    wait_until(lambda: ", ".join(sorted(left - _in_file(path))), 90.0, "tables that are compared")


@contextmanager
def locked(node: Node) -> Iterator[psycopg.Connection[Any]]:
    """Lock the last table on a node, so that a comparison stays there."""
    with node.connect(autocommit=False) as connection:
        connection.execute(f"LOCK TABLE {_LAST}")
        yield connection


def interrupt(cluster: Cluster, path: Path, number: signal.Signals) -> Ended:
    """Interrupt a comparison when all tables but the last are finished."""
    with locked(cluster["n2"]):
        process = start(*arguments(cluster, path))
        wait_compared(path)
        process.send_signal(number)
        ended = end(process)
    check(ended, path)
    assert _in_file(path) == {f"public.{name}" for name in _TABLES} - {_LAST}
    return ended


@pytest.mark.parametrize("number", some_slow([signal.SIGKILL, signal.SIGINT], quick=(signal.SIGINT,)))
def test_what_was_compared_is_not_compared_again_and_counts(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "verify.json"
    plant(cluster["n3"], _PLANTED)
    before = state(cluster.members)
    ended = interrupt(cluster, path, number)
    if number is signal.SIGINT:
        assert ended.code == 130
        assert f"{path} has the results of 6 tables: call again" in ended.err
    times = {name: entry["compared_at"] for name, entry in json.loads(path.read_text())["tables"].items()}
    # Whoever compared these again would find one row equal, and another one different.
    plant(cluster["n3"], _TAKEN_BACK, "UPDATE keyed SET v = 0 WHERE k = 1")
    ended, document = verify(cluster, path)
    assert ended.code == 1, ended.err
    assert results(document) == {f"public.{name}": "equal" for name in _TABLES} | {"public.bag_0": "different"}
    (first,) = (table for table in document["tables"] if table["table"] == "public.bag_0")
    assert {row["nodes"]["n3"]["row"]["b"] for row in first["rows"] if row["nodes"]["n3"]} == {"planted"}
    assert {each["table"]: each["compared_at"] for each in document["kept"]} == times
    # It is finished: what was different is compared again, and what was equal is not.
    ended, document = verify(cluster, path)
    assert ended.code == 0, ended.err
    assert kept(document) == {f"public.{name}" for name in _TABLES} - {"public.bag_0"}
    ended, document = verify(cluster, path)
    assert (ended.code, kept(document)) == (0, {f"public.{name}" for name in _TABLES})
    text = run(*arguments(cluster, path))
    assert f"the results of 7 of 7 tables are from {path}, compared from 20" in text.out
    assert text.code == 0
    # What is too old, is compared.
    ended, document = verify(cluster, path, "--max-age", "0s")
    assert (ended.code, kept(document), results(document)["public.keyed"]) == (1, set(), "different")
    plant(cluster["n3"], "UPDATE keyed SET v = 1 WHERE k = 1")
    assert_rows_equal(cluster.members, _TABLES)
    assert state(cluster.members) == before


@pytest.mark.slow
def test_a_node_that_restarts_in_the_middle(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "verify.json"
    plant(cluster["n3"], _PLANTED)
    with pytest.raises(psycopg.OperationalError), locked(cluster["n2"]):
        process = start(*arguments(cluster, path, "--json"))
        wait_compared(path)
        cluster["n2"].restart("immediate")
    ended = end(process)
    check(ended, path)
    document = parse(ended.out, documents.VerifyDocument)
    assert ended.code == 1, ended.err
    assert [name for name, result in results(document).items() if result != "equal"] == ["public.bag_0"]
    cluster.wait_replicating()
    # The node through which the comparison is called.
    path.unlink()
    with locked(cluster["n2"]):
        process = start(*arguments(cluster, path))
        wait_compared(path)
        cluster["n1"].restart("immediate")
        ended = end(process)
    assert ended.code == 7, ended.err
    assert f"{path} has the results of 6 tables: call again" in ended.err
    cluster.wait_replicating()
    ended, document = verify(cluster, path)
    assert ended.code == 1, ended.err
    assert kept(document) == {f"public.{name}" for name in _TABLES} - {_LAST}
    assert [name for name, result in results(document).items() if result != "equal"] == ["public.bag_0"]
    plant(cluster["n3"], _TAKEN_BACK)


@pytest.mark.slow
def test_tables_that_are_new_gone_or_altered(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "verify.json"
    assert verify(cluster, path)[0].code == 0
    for node in cluster.members:
        with node.connect() as connection:
            for setting in ("enable_ddl_replication", "include_ddl_repset"):
                connection.execute("SELECT set_config(%s, 'off', false)", [f"spock.{setting}"])
            connection.execute("CREATE TABLE more (k int PRIMARY KEY)")
            connection.execute("ALTER TABLE bag_1 ALTER b TYPE varchar(10)")
        add_to_sets(node, {"more": "default"})
        node.execute("SELECT spock.repset_remove_table('default_insert_only', 'bag_2')")
    # The same table, made again on one node, without its rows.
    columns = "CREATE TABLE bag_3 (a int, b text)"
    with cluster["n3"].connect() as connection:
        for setting in ("enable_ddl_replication", "include_ddl_repset"):
            connection.execute("SELECT set_config(%s, 'off', false)", [f"spock.{setting}"])
        connection.execute("SELECT spock.repset_remove_table('default_insert_only', 'bag_3')")
        connection.execute("DROP TABLE bag_3")
        connection.execute(columns.encode())
    add_to_sets(cluster["n3"], {"bag_3": "default_insert_only"})
    ended, document = verify(cluster, path)
    assert ended.code == 1, ended.err
    assert kept(document) == {"public.keyed", "public.bag_0", "public.bag_4", "public.bag_5"}
    assert results(document)["public.bag_3"] == "different"
    assert _in_file(path) == {f"public.{name}" for name in (*_TABLES, "more")} - {"public.bag_2"}
    # A call for some tables has the same file, and the others stay there.
    ended, document = verify(cluster, path, "--table", "keyed", "--table", "more")
    assert (ended.code, kept(document)) == (0, {"public.keyed", "public.more"})
    assert len(_in_file(path)) == len(_TABLES)
    # What was different is compared again before it is repaired, and nothing comes from the file in its place.
    ended, document = verify(cluster, path, "--repair", "plan", "--like", "n1", "--apply")
    assert ended.code == 0, ended.err
    assert "public.bag_3" not in kept(document)
    assert {each["outcome"] for each in document["repairs"]} == {"repaired"}
    ended, document = verify(cluster, path)
    assert ended.code == 0, ended.err
    assert "public.bag_3" not in kept(document)
    for node in cluster.members:
        add_to_sets(node, {"bag_2": "default_insert_only"})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--nodes", "n1,n2"), "compares nodes n1, n2, n3, and this call compares n1, n2"),
        (("--most", "5"), "--most 1000, and this call has 5"),
        (("--max-age", "soon"), '--max-age is "soon"'),
    ],
)
def test_a_file_of_another_comparison_is_refused(
    cluster: Cluster, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "verify.json"
    assert verify(cluster, path, "--table", "keyed")[0].code == 0
    before = path.read_bytes()
    ended = run(*arguments(cluster, path, *more))
    assert (ended.code, words in ended.err) == (2, True), ended.err
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_kept_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "file", Path("/dev/null")):
        ended = run(*arguments(cluster, path))
        assert (ended.code, str(path) in ended.err) == (2, True), ended.err
    ended = run("verify", "--dsn", cluster["n1"].dsn(), "--max-age", "1h")
    assert (ended.code, "--max-age needs --resume" in ended.err) == (2, True)
    # Nothing is left if nothing began.
    path = tmp_path / "verify.json"
    assert run(*arguments(cluster, path, "--table", "nothing")).code == 3
    assert not path.exists()
