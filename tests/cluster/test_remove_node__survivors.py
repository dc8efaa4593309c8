"""A removal that cannot reach every member, or that cannot drain: found before anything is changed."""

from __future__ import annotations

import psycopg
import pytest

from support.calls import call, leftovers, load_zodan, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.freezing import frozen
from support.tables import KEYED, TABLES, assert_rows_equal, create_tables, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 60.0
_SUBSCRIBE = (
    "SELECT spock.sub_create(%(name)s, %(dsn)s, '{default,default_insert_only,ddl_sql}', false, false, %(forward)s,"
    " apply_delay => %(delay)s::interval)"
)


def refused(cluster: Cluster, check: str, words: str, up: list[Node], **options: object) -> None:
    """Check that the check with this key refuses the removal of n3, with these words, and that nothing was changed."""
    before = state(up)
    n1, n3 = cluster["n1"], cluster["n3"]
    with pytest.raises(psycopg.Error) as error:
        call(n1, "spock.remove_node", **{"target_node_name": "n3", "target_node_dsn": n3.dsn()} | options)
    assert error.value.sqlstate == "ZD100"
    lines = (error.value.diag.message_detail or "").splitlines()
    assert [line for line in lines if line.startswith(name_of(check)) and words in line], lines
    assert state(up) == before


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    load_zodan(cluster["n1"])
    return cluster


def test_a_survivor_that_is_down_gets_its_rows_or_somebody_is_told(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.nodes
    n2.stop()
    n3.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n3', 0, 'last')")
    refused(cluster, "drains", 'on "n3 -> n2": it cannot be reached', [n1, n3], force=True)
    given = {"target_node_name": "n3", "target_node_dsn": n3.dsn(), "force": True}
    call(n1, "spock.remove_node", **given, accept_divergence=True)
    assert leftovers([n1, n3], "n3") == []
    # It comes back with what it had of n3: seen by a scan, and removed by the same call.
    n2.start()
    wait_until(lambda: "" if n2.is_running() else "it is down", _BUDGET_S, "n2 to start")
    found = n1.execute("SELECT node, kind, name FROM zodan.rescan(%(dsn)s)", {"dsn": n1.dsn()})
    assert ("n2", "subscription", "sub_n3_n2") in found
    with pytest.raises(psycopg.Error) as told:
        call(n1, "spock.remove_node", **given)
    assert "dropped its stream before" in str(told.value.diag.message_detail)
    call(n1, "spock.remove_node", **given, accept_divergence=True)
    assert leftovers([n1, n2, n3], "n3") == []
    assert n1.execute("SELECT * FROM zodan.rescan(%(dsn)s)", {"dsn": n1.dsn()}) == []
    # What n2 has not got is on n1, and the two go on.
    assert n2.execute(f"SELECT 1 FROM {KEYED} WHERE id = 999999999999") == []
    n1.execute(f"INSERT INTO {KEYED} VALUES (999999999998, 'n1', 0, 'next')")
    cluster.members.remove(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert n2.execute(f"SELECT 1 FROM {KEYED} WHERE id = 999999999998") == [(1,)]


@pytest.mark.slow
def test_a_node_that_hangs_is_removed_as_a_dead_one_is(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.nodes
    with frozen(n3):
        call(n1, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn(), force=True)
        assert leftovers([n1, n2], "n3") == []
    cluster.members.remove(n3)
    n1.execute(f"INSERT INTO {KEYED} VALUES (999999999998, 'n1', 0, 'next')")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)


def test_a_drain_that_cannot_be(cluster: Cluster) -> None:
    n1, _, n3 = cluster.nodes
    n1.execute("SELECT spock.sub_disable('sub_n3_n1')")
    refused(cluster, "drains", 'on "n3 -> n1": disabled', cluster.nodes)
    n1.execute("SELECT spock.sub_enable('sub_n3_n1')")
    cluster.wait_replicating()
    # A slot that nobody reads from is warned of, and no reason to refuse.
    n3.execute("SELECT pg_create_logical_replication_slot('report', 'spock_output')")
    warned = call(n1, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn())
    assert [line for line in warned if line.startswith(name_of("outside-subscribers")) and "report" in line]
    assert leftovers(cluster.nodes, "n3") == []
    cluster.members.remove(n3)
    assert_rows_equal(cluster.members, TABLES)


def test_an_outside_subscriber_that_reads(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=["out"])
    n1, _, n3 = cluster.members
    out = cluster["out"]
    load_zodan(n1)
    out.execute("SELECT spock.node_create('out', %(dsn)s)", {"dsn": out.dsn()})
    out.execute("SELECT spock.sub_create('outside', %(dsn)s, '{default}', false, false)", {"dsn": n3.dsn()})
    wait_until(lambda: _status(out), _BUDGET_S, "the outside subscriber to read")
    refused(cluster, "outside-subscribers", "outside", [n1, n3])


def test_a_node_that_only_the_caller_does_not_reach(cluster: Cluster) -> None:
    n1, _, n3 = cluster.nodes
    given = {"target_node_dsn": "host=127.0.0.1 port=1 dbname=app", "force": True}
    with Writers([n3]) as writers:
        refused(cluster, "gone-for-all", "it lives: reached from n1, n2", cluster.nodes, **given)
        refused(cluster, "gone-for-all", "it lives: reached from n1, n2", cluster.nodes, **given, level=True)
    assert writers.failures == []
    n3.stop("immediate")
    call(n1, "spock.remove_node", target_node_name="n3", **given, level=True)
    cluster.members.remove(n3)
    assert leftovers(cluster.members, "n3") == []
    assert_rows_equal(cluster.members, TABLES)


def test_slots_of_a_dead_node_under_other_names_are_named(cluster: Cluster) -> None:
    n1, _, n3 = cluster.nodes
    n3.execute("SELECT spock.sub_drop('sub_n1_n3')")
    n3.execute(_SUBSCRIBE, {"name": "from_n1", "dsn": n1.dsn(), "forward": [], "delay": "0"})
    cluster.wait_replicating()
    wait_level(cluster.members)
    n3.stop("immediate")
    given = {"target_node_name": "n3", "target_node_dsn": n3.dsn(), "force": True, "level": True}
    warned = call(n1, "spock.remove_node", **given)
    assert [line for line in warned if line.startswith(f'{name_of("unread-slots")} on "n1"') and "from_n1" in line]
    assert not [line for line in warned if "sub_n" in line]


def test_a_node_that_forwards_the_changes_of_others(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.nodes
    for node, other in ((n1, n2), (n2, n1)):
        node.execute("SELECT spock.sub_drop(%(sub)s)", {"sub": f"sub_{other.name}_{node.name}"})
        node.execute("SELECT spock.sub_drop(%(sub)s)", {"sub": f"sub_n3_{node.name}"})
        forwarding = {"name": f"sub_n3_{node.name}", "dsn": n3.dsn(), "forward": ["all"], "delay": "0"}
        node.execute(_SUBSCRIBE, forwarding)
    cluster.wait_replicating()
    refused(cluster, "cut-off", 'on "n2": the changes of n1 come to it only through node "n3"', cluster.nodes)
    call(n1, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn(), accept_divergence=True)
    assert leftovers(cluster.nodes, "n3") == []


def test_what_comes_later_than_a_wait_lasts_or_not_at_all(cluster: Cluster) -> None:
    n1, n2, n3 = cluster.nodes
    for node, delay in ((n1, "1 day"), (n2, "0")):
        node.execute("SELECT spock.sub_drop(%(sub)s)", {"sub": f"sub_n3_{node.name}"})
        if node is n1:
            node.execute(_SUBSCRIBE, {"name": "sub_n3_n1", "dsn": n3.dsn(), "forward": [], "delay": delay})
    refused(cluster, "drain-delay", 'subscription "sub_n3_n1" has an apply delay of 1 day', cluster.nodes)
    n1.execute("SELECT spock.sub_drop('sub_n3_n1')")
    warned = call(n1, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn())
    for name in ("n1", "n2"):
        assert [line for line in warned if line.startswith(f'{name_of("receives")} on "{name}"')]
    assert leftovers(cluster.nodes, "n3") == []


def _status(node: Node) -> str:
    ((status,),) = node.execute("SELECT status FROM spock.sub_show_status('outside')")
    return "" if status == "replicating" else str(status)
