"""A caller that dies on the way: called again, the join goes on and every row is equal."""

from __future__ import annotations

import re

import psycopg
import pytest

from support.calls import add_node, call, exceptions, leftovers, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.joins import Join, planned
from support.secrets import find
from support.tables import CHAIN, KEYED, TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster

#: Where the caller dies: before or after the first step of a phase on a node.
_POINTS = [("before", "copied", "n3"), ("after", "detach", "n3"), ("after", "proven", "n3")]


def test_called_again_after_the_caller_died(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    fill(n1, 20_000)
    load_zodan(n3)
    arguments, plan = planned(n1, n3)
    copy = plan.at("copying", "n3")
    check_failure_of_a_step(cluster, arguments, copy)
    with Writers([n1, n2]) as writers:
        for side, phase, node in _POINTS:
            HeldCall(n3, f"{side} {plan.at(phase, node)}", "spock.add_node", arguments).kill()
            wait_unlocked(cluster.nodes)
        said = add_node(cluster, "n1", "n3")
    assert said[0].endswith("continues where it stopped")
    assert writers.failures == []
    wait_level(cluster.members)
    assert exceptions(cluster.members) == []
    assert_rows_equal(cluster.members, TABLES)
    assert n3.execute("SELECT state, count(*) FROM zodan.operation GROUP BY 1") == [("done", 1)]
    # It is a member like any other: what it writes arrives, and it leaves without a trace.
    with Writers([n3, n1], series=1) as newcomer:
        wait_level(cluster.members)
    assert newcomer.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    remove_node(cluster, "n3")
    assert leftovers(cluster.nodes, "n3") == []


def test_what_a_step_returned_is_kept_before_the_next_one_begins(make_cluster: MakeCluster) -> None:
    join = Join(make_cluster)
    assert _unkept(join) == []
    life = join.plan.at("streaming", "n3")
    held = HeldCall(join.n3, f"after {life}", "spock.add_node", join.arguments)
    # Later steps need it. One of this phase shows in the cluster, and would then stand for all before it.
    kept = "SELECT result ? 'starts' FROM zodan.step WHERE ordinal = %(life)s"
    assert join.n3.execute(kept, {"life": life}) == [(True,)]
    begun = "SELECT sub_enabled FROM spock.subscription WHERE sub_name LIKE 'zodan_copy%'"
    assert join.n3.execute(begun) == [(False,)]
    held.kill()
    wait_unlocked(join.cluster.nodes)
    call(join.n3, "zodan.resume", p_operation=1)
    join.check()


def _unkept(join: Join) -> list[tuple[int, int]]:
    """Return steps whose result is needed, each with one that may be done before that result is in the journal.

    Both are in one phase and group, and the later one shows in the cluster, where it stands for all before it. Those
    that show by the same are done by what a later phase does.
    """
    names = ", ".join(f"{name} => %({name})s" for name in join.arguments)
    steps = join.n3.execute(
        "SELECT ordinal, (phase, group_name)::text, node, done_sql, coalesce(until_sql, units::text) IS NOT NULL,"
        " concat_ws(' ', do_sql, done_sql, until_sql, undo_sql, units)"
        f" FROM zodan.plan_add_node({names}) WHERE group_name IS NOT NULL ORDER BY 1",
        join.arguments,
    )
    named = {int(found) for *_, text in steps for found in re.findall(r"\{result:(\d+)\.", text)}
    assert named
    return [
        (first, later)
        for first, place, node, shown_by, waits, _ in steps
        for later, other_place, other, shows_by, _, _ in steps
        if first in named and first < later and place == other_place and (node != other or waits)
        if shows_by not in (None, shown_by)
    ]


def test_a_flip_that_fails_after_the_copy_was_disabled_copies_anew(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    fill(n1, 5000)
    load_zodan(n3)
    arguments, plan = planned(n1, n3)
    confirm = plan.at("confirm", "n1")
    with Writers([n1, n2]) as writers:
        held = HeldCall(n3, f"before {confirm}", "spock.add_node", arguments)
        # The pause is over too early: what was read of the source is no longer so.
        n1.execute("SELECT spock.resume_apply_workers()")
        wait_level([n1, n2])
        held.let_go()
    assert held.error is None
    assert writers.failures == []
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    wait_level(cluster.members)
    assert exceptions(cluster.members) == []
    assert_rows_equal(cluster.members, TABLES)
    renewed = "SELECT DISTINCT attempts FROM zodan.step WHERE (phase_name, node) IN (('note', 'n3'), ('pause', 'n1'))"
    assert n3.execute(renewed) == [(2,)]
    assert n3.execute("SELECT state FROM zodan.operation") == [("done",)]
    remove_node(cluster, "n3")
    assert leftovers(cluster.nodes, "n3") == []


def test_rollback_does_not_take_rows_away_that_users_wrote(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    fill(n1, 1000)
    n2.execute(f"UPDATE {KEYED} SET value = 1 WHERE id % 2 = 0")
    load_zodan(n3)
    before = state(cluster.nodes)
    arguments, plan = planned(n1, n3)
    way_back = plan.at("way_back", "n2")
    HeldCall(n3, f"before {way_back}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    n3.execute(f"INSERT INTO {KEYED} SELECT i, 'n3', 0, 'early' FROM generate_series(1, 3) i")
    midway = state(cluster.nodes)
    # As a copy does that builds indexes: what it has locked is not waited for.
    with n3.connect() as building, building.transaction(), pytest.raises(psycopg.Error) as refused:
        building.execute(f"LOCK TABLE {CHAIN} IN ACCESS EXCLUSIVE MODE")
        call(n3, "zodan.rollback", p_operation=1)
    assert refused.value.sqlstate == "ZD111"
    assert refused.value.diag.message_detail == f"public.{KEYED}: 3"
    assert "p_discard_writes" in str(refused.value.diag.message_hint)
    assert state(cluster.nodes) == midway
    # Finished instead, the rows are everywhere.
    add_node(cluster, "n1", "n3")
    wait_level(cluster.members)
    assert n1.execute(f"SELECT count(*) FROM {KEYED} WHERE node = 'n3'") == [(3,)]
    assert_rows_equal(cluster.members, TABLES)
    remove_node(cluster, "n3")
    n3.execute(f"DROP TABLE {', '.join(TABLES)}")

    HeldCall(n3, f"before {way_back}", "spock.add_node", arguments).kill()
    wait_unlocked(cluster.nodes)
    n3.execute(f"INSERT INTO {KEYED} VALUES (4, 'n3', 0, 'early')")
    call(n3, "zodan.rollback", p_operation=3, p_discard_writes=True)
    assert state(cluster.nodes) == before


def check_failure_of_a_step(cluster: Cluster, arguments: dict[str, str], ordinal: int) -> None:
    """The source goes away just before Spock connects to it: the step fails, and nothing of its error is a secret."""
    n1, n3 = cluster["n1"], cluster["n3"]
    held = HeldCall(n3, f"before {ordinal}", "spock.add_node", arguments)
    n1.stop("immediate")
    held.let_go()
    assert held.error is not None
    assert (held.error.sqlstate or "").startswith("ZD2")
    assert held.error.diag.message_hint
    journal = n3.execute("SELECT o::text FROM zodan.operation o UNION ALL SELECT s::text FROM zodan.step s")
    assert list(find(str(held.error))) == []
    assert list(find(str(journal))) == []
    statements = [line for line in n3.log_text().splitlines() if "client backend" in line and list(find(line))]
    assert statements == []
    n1.start()
    cluster.wait_replicating()
