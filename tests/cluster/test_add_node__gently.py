"""A copy that is gentle: it keeps to a rate."""

from __future__ import annotations

from support.calls import add_node, load_zodan
from support.clusters import MakeCluster
from support.crash import HeldCall
from support.joins import planned
from support.tables import KEYED, TABLES, assert_rows_equal, create_tables, fill, wait_level


def test_a_copy_keeps_to_its_rate_when_it_goes_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    fill(n1, 12000, 1000)
    load_zodan(n2)
    arguments, plan = planned(n1, n2)
    rate = 8 << 20
    limits = {"jobs": 2, "max_rate": rate}
    held = HeldCall(n2, f"before {plan.at('copied', 'n2')}", "spock.add_node", arguments | limits)
    held.kill()
    add_node(cluster, "n1", "n2")
    units = n2.execute(
        "SELECT bytes, extract(epoch FROM finished_at - started_at) FROM zodan.unit WHERE phase_name = 'copied'"
    )
    assert max(size for size, _ in units) > 4 << 20
    # Each of the two sessions has half of it.
    assert [(size, took) for size, took in units if size / float(took) > rate / 2] == []
    assert n2.execute("SELECT units -> 'max_rate' FROM zodan.step WHERE phase_name = 'copied'") == [(rate,)]
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert n2.execute(f"SELECT count(*) FROM {KEYED}") == [(12000,)]
