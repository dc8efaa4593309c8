"""Two members that are databases of one server: origins and pauses belong to the server, and each keeps its own."""

from __future__ import annotations

import pytest

from support.calls import call, load_zodan
from support.clusters import MakeCluster
from support.parameters import some_slow
from support.tables import KEYED, TABLES, assert_rows_equal, create_tables, fill, wait_level


@pytest.mark.parametrize("force", some_slow([False, True], quick=(True,)))
def test_a_database_leaves_and_its_neighbour_stays(make_cluster: MakeCluster, force: bool) -> None:
    cluster = make_cluster(members=2, blanks=0)
    create_tables(cluster)
    n1, n2 = cluster.nodes
    fill(n1, 500)
    wait_level(cluster.members)
    load_zodan(n1)
    n2.execute("CREATE DATABASE side")
    side = n2.dsn(dbname="side")
    with n2.connect(dbname="side") as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
        connection.execute("CREATE EXTENSION IF NOT EXISTS dblink")
    call(n1, "spock.add_node", src_node_name="n1", src_dsn=n1.dsn(), new_node_name="side", new_node_dsn=side)
    with n2.connect(dbname="side") as connection:
        connection.execute(f"INSERT INTO {KEYED} VALUES (999999999999, 'side', 0, 'next door')")
    ours = n2.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'spk_app_n1%%' ORDER BY 1")
    call(n1, "spock.remove_node", target_node_name="side", target_node_dsn=side, force=force)
    assert n2.execute("SELECT roname FROM pg_replication_origin WHERE roname LIKE 'spk_app_n1%%' ORDER BY 1") == [
        row for row in ours if not row[0].endswith("side")
    ]
    assert n1.execute("SELECT * FROM zodan.rescan(%(dsn)s)", {"dsn": n1.dsn()}) == []
    cluster.wait_replicating()
    n1.execute(f"INSERT INTO {KEYED} VALUES (999999999998, 'n1', 0, 'on it goes')")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    found = n2.execute(f"SELECT count(*) FROM {KEYED} WHERE id >= 999999999998")
    assert found == [(2,)]
