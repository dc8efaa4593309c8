"""A member is replaced while everybody writes: no write fails, and no row is lost, doubled or different."""

from __future__ import annotations

import pytest

from support.clusters import MakeCluster
from support.replacing import Replacement, check_replaced, note_replaced
from support.tables import create_tables, fill, wait_level
from support.writers import Writers


@pytest.mark.slow
def test_a_member_is_replaced_under_writers(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=1)
    n1, n2, n3, n4 = cluster.nodes
    create_tables(cluster)
    fill(n1, 2000)
    wait_level(cluster.members)
    with Writers([n1, n2]) as before:
        call = Replacement(n1, n4, verb=True)
        # The application moves while the removal waits for that.
        call.wait_for("quiet")
        with Writers([n4, n3], series=1) as beside:
            wait_level(cluster.members)
            before.stop()
            call.finish()
    assert call.error is None
    assert before.failures == beside.failures == []
    note_replaced(cluster, n1, n4)
    check_replaced(cluster, n1)
    assert n4.execute("SELECT kind, state FROM zodan.operation") == [("replace_node", "done")]
    assert n4.execute("SELECT 1 FROM zodan.step WHERE state <> 'done'") == []
