"""The old node of a replacement dies, or is removed by hand, after the new node has joined."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from support.calls import call, leftovers, load_zodan, remove_node, state
from support.clusters import MakeCluster
from support.parameters import some_slow
from support.replacing import arguments, check_replaced, kill_before, note_replaced
from support.tables import KEYED, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Node


class Begun:
    """A replacement of n1 by n4 that was killed before a phase."""

    def __init__(self, make_cluster: MakeCluster, phase: str) -> None:
        self.cluster: Cluster = make_cluster(members=3, blanks=1)
        self.n1, self.n2, self.n3, self.n4 = self.cluster.nodes
        create_tables(self.cluster)
        fill(self.n1, 500)
        wait_level(self.cluster.members)
        self.given = arguments(self.n1, self.n4, quiet="0.3 s")
        load_zodan(self.n4)
        kill_before(phase, self.n4, self.given, self.cluster.nodes)

    def finish(self, **more: Any) -> list[str]:
        """Call again."""
        return call(self.n4, "zodan.replace_node", **self.given, **more)

    def refused(self, sqlstate: str, words: str, **more: Any) -> None:
        """Check that the call refuses, and that nothing was changed on the nodes that are up."""
        up: list[Node] = [node for node in self.cluster.nodes if node.is_running()]
        before: Any = state(up)
        with pytest.raises(psycopg.Error) as error:
            self.finish(**more)
        said = f"{error.value.diag.message_primary} {error.value.diag.message_detail} {error.value.diag.message_hint}"
        assert (error.value.sqlstate, words in said) == (sqlstate, True), said
        assert state(up) == before

    def check(self) -> None:
        """Check that n4 has replaced n1."""
        note_replaced(self.cluster, self.n1, self.n4)
        check_replaced(self.cluster, self.n1)
        rows = self.n4.execute("SELECT kind, state FROM zodan.operation ORDER BY operation_id LIMIT 1")
        assert rows == [("replace_node", "done")]


@pytest.mark.parametrize("phase", some_slow(["beside", "settled"], quick=("settled",)))
def test_it_dies_and_force_goes_on(make_cluster: MakeCluster, phase: str) -> None:
    begun = Begun(make_cluster, phase)
    wait_level([*begun.cluster.members, begun.n4])
    begun.n1.stop("immediate")
    begun.refused("ZD101", "force => true")
    begun.finish(force=True)
    begun.check()


def test_members_that_have_unequal_parts_of_its_stream_are_named(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "beside")
    begun.n2.execute("SELECT spock.sub_disable('sub_n1_n2', true)")
    begun.n1.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n1', 0, 'last')")
    wait_level([begun.n1, begun.n3, begun.n4])
    begun.n1.stop("immediate")
    begun.refused("ZD100", "less than another member", force=True)
    begun.finish(force=True, accept_divergence=True)
    assert leftovers([begun.n2, begun.n3, begun.n4], "n1") == []


@pytest.mark.slow
def test_it_is_removed_by_hand(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "beside")
    remove_node(begun.cluster, "n1", at="n3")
    begun.cluster.members.append(begun.n1)
    begun.finish()
    begun.check()


@pytest.mark.slow
def test_the_new_node_is_taken_out_again(make_cluster: MakeCluster) -> None:
    begun = Begun(make_cluster, "beside")
    begun.n4.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'n4', 0, 'written by a user')")
    with pytest.raises(psycopg.Error) as refused:
        call(begun.n4, "zodan.rollback", p_operation=1)
    assert refused.value.sqlstate == "ZD111"
    assert "spock.remove_node" in str(refused.value.diag.message_hint)
    call(begun.n4, "spock.remove_node", target_node_name="n4", target_node_dsn=begun.n4.dsn())
    check_replaced(begun.cluster)
    assert leftovers(begun.cluster.members, "n4") == []
    assert begun.n1.execute(f"SELECT filler FROM {KEYED} WHERE id = 999999999999") == [("written by a user",)]
    assert begun.n4.execute("SELECT state FROM zodan.operation ORDER BY operation_id") == [("given up",), ("done",)]
