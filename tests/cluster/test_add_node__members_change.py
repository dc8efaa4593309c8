"""A join that was interrupted, and a cluster that is another one when it is taken up again."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.types.json import Jsonb

from support.calls import add_node, call, leftovers, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.joins import planned
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster


@pytest.mark.parametrize(
    ("phase", "ending"),
    [
        ("pause", "resume"),
        ("way_back", "rollback"),
        pytest.param("pause", "rollback", marks=pytest.mark.slow),
        pytest.param("way_back", "resume", marks=pytest.mark.slow),
    ],
)
def test_a_member_that_is_gone_is_passed_over(make_cluster: MakeCluster, phase: str, ending: str) -> None:
    cluster = make_cluster(members=3, blanks=1)
    create_tables(cluster)
    n1, n2, n3, n4 = cluster.nodes
    fill(n1, 500)
    wait_level(cluster.members)
    load_zodan(n1)
    load_zodan(n4)
    arguments, plan = planned(n1, n4)
    HeldCall(n4, f"before {plan.at(phase, 'n1')}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    n3.stop("immediate")
    call(n1, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn(), force=True, accept_divergence=True)
    cluster.members.remove(n3)
    dsns = Jsonb({"n1": n1.dsn(), "n2": n2.dsn()})
    if ending == "rollback":
        call(n4, "zodan.rollback", p_operation=1, p_dsns=dsns)
        assert leftovers([n1, n2, n4], "n4") == []
        assert [row for row in state([n4])["n4"] if row[0] != "relation"] == []
    else:
        call(n4, "zodan.resume", p_operation=1, p_dsns=dsns)
        cluster.blanks.remove(n4)
        cluster.members.append(n4)
        cluster.wait_replicating()
        wait_level(cluster.members)
        assert_rows_equal(cluster.members, TABLES)
        assert [n.execute("SELECT count(*) FROM spock.subscription") for n in cluster.members] == [[(2,)]] * 3
    assert leftovers([n1, n2, n4], "n3") == []


def test_a_source_that_is_gone_leaves_the_rollback(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=1)
    create_tables(cluster)
    n1, n2, n3, n4 = cluster.nodes
    load_zodan(n2)
    load_zodan(n4)
    arguments, plan = planned(n1, n4)
    HeldCall(n4, f"before {plan.at('pause', 'n1')}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    n1.stop("immediate")
    call(n2, "spock.remove_node", target_node_name="n1", target_node_dsn=n1.dsn(), force=True, accept_divergence=True)
    dsns = Jsonb({"n2": n2.dsn(), "n3": n3.dsn()})
    with pytest.raises(psycopg.Error) as refused:
        call(n4, "zodan.resume", p_operation=1, p_dsns=dsns)
    assert refused.value.sqlstate == "ZD113"
    call(n4, "zodan.rollback", p_operation=1, p_dsns=dsns)
    assert leftovers([n2, n3, n4], "n4") == []
    assert leftovers([n2, n3, n4], "n1") == []


def interrupted(make: MakeCluster, phase: str, node: str) -> Cluster:
    """Make two members with rows, and two blanks with Zodan; n3's join was killed before a phase on a node."""
    cluster = make(members=2, blanks=2)
    create_tables(cluster)
    n1, _, n3, n4 = cluster.nodes
    fill(n1, 500)
    wait_level(cluster.members)
    for blank in (n3, n4):
        load_zodan(blank)
    arguments, plan = planned(n1, n3)
    HeldCall(n3, f"before {plan.at(phase, node)}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    return cluster


def test_a_node_that_joined_meanwhile_is_told(make_cluster: MakeCluster) -> None:
    # Before the copy, whose slot would keep n4 from joining.
    cluster = interrupted(make_cluster, "note", "n3")
    n1, n2, n3, _ = cluster.nodes
    add_node(cluster, "n1", "n4")
    cluster.wait_replicating()
    with pytest.raises(psycopg.Error) as refused:
        call(n3, "zodan.resume", p_operation=1, p_dsns=Jsonb({"n1": n1.dsn(), "n2": n2.dsn()}))
    assert refused.value.sqlstate == "ZD112"
    assert "n4" in str(refused.value.diag.message_detail) + str(refused.value.diag.message_primary)
    call(n3, "zodan.rollback", p_operation=1, p_dsns=Jsonb({"n1": n1.dsn(), "n2": n2.dsn()}))
    add_node(cluster, "n1", "n3")
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert [n.execute("SELECT count(*) FROM spock.subscription") for n in cluster.members] == [[(3,)]] * 4


@pytest.mark.slow
def test_a_node_that_joined_with_one_that_is_nearly_done(make_cluster: MakeCluster) -> None:
    cluster = interrupted(make_cluster, "prove", "n3")
    n3 = cluster["n3"]
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    add_node(cluster, "n1", "n4")
    # Neither way on leads to the other: both say what there is.
    for routine in ("zodan.resume", "zodan.rollback"):
        with pytest.raises(psycopg.Error) as refused:
            call(n3, routine, p_operation=1)
        assert refused.value.sqlstate == "ZD112"
        assert "spock.remove_node" in str(refused.value.diag.message_hint)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    remove_node(cluster, "n3")
    assert leftovers(cluster.nodes, "n3") == []
    assert n3.execute("SELECT state FROM zodan.operation WHERE operation_id = 1") == [("given up",)]


def test_a_node_is_refused_while_the_copy_of_another_is_unfinished(make_cluster: MakeCluster) -> None:
    cluster = interrupted(make_cluster, "pause", "n1")
    for source in ("n1", "n2"):
        with pytest.raises(psycopg.Error) as refused:
            add_node(cluster, source, "n4")
        assert refused.value.sqlstate == "ZD100"
        assert "slot of the copy of another node: spk_" in str(refused.value.diag.message_detail)
    add_node(cluster, "n1", "n3")
    add_node(cluster, "n2", "n4")
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)


@pytest.mark.parametrize("phase", ["prepare", pytest.param("register", marks=pytest.mark.slow)])
def test_a_join_that_another_call_overtook_does_not_touch_the_member(make_cluster: MakeCluster, phase: str) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    fill(n1, 500)
    wait_level(cluster.members)
    load_zodan(n1)
    given = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n3", "new_node_dsn": n3.dsn()}
    names = ", ".join(f"{name} => %({name})s" for name in given)
    first = f"SELECT min(ordinal) FROM zodan.plan_add_node({names}) WHERE phase_name = %(phase)s"
    (ordinal,) = n1.execute(first, {**given, "phase": phase})[0]
    HeldCall(n1, f"before {ordinal}", "spock.add_node", given).kill()
    wait_unlocked(cluster.nodes)
    if phase == "prepare":
        load_zodan(n2)
        call(n2, "spock.remove_node", target_node_name="n3", target_node_dsn=n3.dsn(), survivor_dsn=n2.dsn())
        n3.execute(f"DROP TABLE {', '.join(TABLES)}")
    add_node(cluster, "n1", "n3")
    before = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as refused:
        call(n1, "zodan.rollback", p_operation=1)
    assert refused.value.sqlstate == "ZD006"
    with pytest.raises(psycopg.Error) as refused:
        call(n1, "spock.add_node", **given)
    assert refused.value.sqlstate == "ZD100"
    assert state(cluster.nodes) == before
    assert n1.execute("SELECT state FROM zodan.operation") == [("given up",)]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
