"""A replacement that cannot be: refused with a clear error, and nothing is changed."""

from __future__ import annotations

import subprocess
from typing import Any

import psycopg
import pytest

from support.calls import call, load_zodan, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.replacing import arguments
from support.tables import create_tables, wait_level
from zodan_sql.sandbox import Cluster, wait_until


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    cluster = make_module_cluster(members=3, blanks=1)
    create_tables(cluster)
    wait_level(cluster.members)
    load_zodan(cluster["n4"])
    return cluster


def _refused(cluster: Cluster, sqlstate: str, words: str, **changed: Any) -> str:
    """Check that a replacement of n1 by n4 with some arguments changed is refused, and return what the error says."""
    given = {**arguments(cluster["n1"], cluster["n4"]), **changed}
    before: Any = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as error:
        call(cluster["n4"], "zodan.replace_node", **given)
    said = "\n".join(filter(None, (error.value.diag.message_primary, error.value.diag.message_detail)))
    assert error.value.sqlstate == sqlstate, said
    assert words in said
    assert "s3cret" not in said
    assert state(cluster.nodes) == before
    assert cluster["n4"].execute("SELECT 1 FROM zodan.operation") == []
    return said


def test_one_name_for_both(cluster: Cluster) -> None:
    _refused(cluster, "ZD002", 'the old node "n1" and the new node "n1" must be two nodes', new_node_name="n1")


@pytest.mark.parametrize("missing", ["old_node_name", "new_node_name"])
def test_a_name_that_is_missing(cluster: Cluster, missing: str) -> None:
    _refused(cluster, "ZD002", "must be two nodes", **{missing: ""})


def test_an_old_node_that_is_no_member(cluster: Cluster) -> None:
    _refused(cluster, "ZD003", 'does not lead to node "n9"', old_node_name="n9")
    _refused(cluster, "ZD003", 'It leads to node "n2"', old_node_dsn=cluster["n2"].dsn())


def test_an_old_node_that_is_somewhere_else_than_the_source(cluster: Cluster) -> None:
    source = {"src_node_name": "n3", "src_dsn": cluster["n3"].dsn()}
    _refused(cluster, "ZD003", 'It leads to node "n2"', old_node_dsn=cluster["n2"].dsn(), **source)


def test_a_source_without_its_name(cluster: Cluster) -> None:
    _refused(cluster, "ZD004", "src_dsn is given without src_node_name", src_dsn=cluster["n3"].dsn())


def test_one_database_for_both(cluster: Cluster) -> None:
    said = _refused(cluster, "ZD100", "", new_node_dsn=cluster["n1"].dsn())
    assert name_of("not-a-node") in said


def test_a_new_node_that_is_a_member(cluster: Cluster) -> None:
    _refused(cluster, "ZD100", 'node "n2" has joined already', new_node_name="n2", new_node_dsn=cluster["n2"].dsn())


def test_an_old_node_that_is_down(cluster: Cluster) -> None:
    nowhere = "host=127.0.0.1 port=1 dbname=app user=x password=s3cret"
    _refused(cluster, "ZD101", 'the old node "n1" cannot be reached', old_node_dsn=nowhere)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"soak": "-1 s"}, "soak is"),
        ({"quiet": "-1 s"}, "quiet is"),
        ({"jobs": 0}, "jobs is 0"),
        ({"structure": "client"}, 'structure is "client"'),
        ({"copy": "none"}, 'copy is "none"'),
        ({"max_rate": 1}, "max_rate is 1"),
    ],
)
def test_values_that_make_no_sense(cluster: Cluster, changed: dict[str, Any], words: str) -> None:
    _refused(cluster, "ZD004", words, **changed)


def test_what_would_stop_the_removal_is_found_before_the_join(cluster: Cluster) -> None:
    n1 = cluster["n1"]
    n1.execute("SELECT pg_create_logical_replication_slot('outside', 'pgoutput')")
    reader = subprocess.Popen(
        [
            *(n1.engine.pg_bin / "pg_recvlogical", "-d", n1.dsn(), "--slot=outside", "--start", "--file=/dev/null"),
            *("--option=proto_version=1", "--option=publication_names=nothing"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        active = "SELECT 1 FROM pg_replication_slots WHERE slot_name = 'outside' AND active"
        wait_until(lambda: "" if n1.execute(active) else "nobody reads", 30, "an outside subscriber")
        said = _refused(cluster, "ZD100", "outside")
        assert name_of("outside-subscribers") in said
    finally:
        reader.terminate()
        reader.wait(30)
        n1.execute("SELECT pg_drop_replication_slot('outside')")
