"""A caller that dies on the way: called again, the join goes on and every row is equal."""

from __future__ import annotations

from support.calls import add_node, exceptions, leftovers, load_zodan, remove_node
from support.clusters import MakeCluster
from support.crash import HeldCall, wait_unlocked
from support.secrets import find
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster

#: Where the caller dies: words of the step's title, before or after it.
_POINTS = [
    ("before", "wait for the copy to be complete"),
    ("after", "disable subscription"),
    ("after", "wait until n3 has applied the sync event of n1"),
]


def test_called_again_after_the_caller_died(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    n1, n2, n3 = cluster.nodes
    fill(n1, 20_000)
    load_zodan(n3)
    arguments = {"src_node_name": "n1", "src_dsn": n1.dsn(), "new_node_name": "n3", "new_node_dsn": n3.dsn()}
    steps = n3.execute(
        "SELECT ordinal, title FROM zodan.plan_add_node(%(src_node_name)s, %(src_dsn)s, %(new_node_name)s,"
        " %(new_node_dsn)s) ORDER BY ordinal",
        arguments,
    )
    copy = next(number for number, title in steps if title.endswith("with structure and data"))
    check_failure_of_a_step(cluster, arguments, copy)
    with Writers([n1, n2]) as writers:
        for side, words in _POINTS:
            ordinal = next(number for number, title in steps if words in title)
            HeldCall(n3, f"{side} {ordinal}", "spock.add_node", arguments).kill()
            wait_unlocked(cluster.nodes)
        said = add_node(cluster, "n1", "n3")
    assert said[0].endswith("is taken up again where it stopped")
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
