"""A structure that pg_dump and pg_restore of this machine bring: with rows afterwards, or nothing at all."""

from __future__ import annotations

import pytest

from support.clusters import MakeCluster
from support.objects import at, everything
from support.secrets import find
from support.shell import Ended, add_by_client, run
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.client.structure import wanted
from zodan_sql.sandbox import Cluster


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """Return two members with rows, and a blank; Zodan is nowhere."""
    made: Cluster = make_cluster(members=2, blanks=1)
    create_tables(made)
    fill(made["n1"], 500)
    for node in made.members:
        at(node, 'CREATE SCHEMA "Odd s"', 'CREATE VIEW "Odd s".seen AS SELECT id FROM app_keyed')
    wait_level(made.members)
    return made


def _join(cluster: Cluster, *more: str, path: str = "") -> Ended:
    return add_by_client(cluster["n1"], cluster["n3"], *more, path=path)


def test_the_client_brings_it_and_the_node_joins(cluster: Cluster) -> None:
    ended = _join(cluster)
    assert ended.code == 0, ended.err
    assert list(find(ended.out + ended.err)) == []
    assert "brought the structure" in ended.out + ended.err
    n3 = cluster["n3"]
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, '"Odd s".seen'])


def test_a_failure_has_the_servers_words_and_leaves_nothing(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    assert run("install", "--dsn", n3.dsn()).code == 0
    n1.execute("CREATE ROLE only_here")
    at(n1, "CREATE TABLE owned (id int PRIMARY KEY)", "ALTER TABLE owned OWNER TO only_here")
    before = everything(n3)
    ended = _join(cluster)
    assert ended.code == 4, ended.err
    assert 'role "only_here" does not exist' in ended.err
    assert list(find(ended.out + ended.err)) == []
    assert everything(n3) == before


def test_a_node_with_tables_is_refused(cluster: Cluster) -> None:
    at(cluster["n3"], "CREATE TABLE here (id int)")
    ended = _join(cluster)
    assert ended.code == 3
    assert "public.here" in ended.err


def test_what_does_not_go_together(cluster: Cluster) -> None:
    for option in ("--dry-run", "--with-roles"):
        ended = _join(cluster, option)
        assert ended.code == 2
        assert "--structure client" in ended.err


def test_what_is_left_out() -> None:
    contents = [
        "; Archive created",
        "2; 3079 16385 EXTENSION - spock ",
        "0; 0 0 COMMENT - EXTENSION spock ",
        "3; 3079 16386 EXTENSION - hstore ",
        "4; 2615 16387 SCHEMA - Odd s postgres",
        "5; 2615 16388 SCHEMA - there postgres",
        "6; 1259 16389 TABLE there t postgres",
    ]
    assert wanted(contents, ["there"]) == [contents[0], contents[3], contents[4], contents[6]]
