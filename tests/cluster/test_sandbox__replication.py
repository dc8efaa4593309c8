"""What the SQL of Zodan takes from the engine, on the stand-in and on Spock alike."""

from __future__ import annotations

import time

from support.clusters import MakeCluster
from support.tables import CHAIN, KEYED, TABLES, add_to_sets, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Node, subscription_states, wait_replicating, wait_until


def count(node: Node, table: str = KEYED) -> int:
    """Return the number of rows."""
    return int(node.execute(f"SELECT count(*) FROM {table}")[0][0])


def insert(node: Node, key: int) -> None:
    """Insert a row."""
    node.execute(f"INSERT INTO {KEYED} VALUES ({key}, '{node.name}', 0)")


def slots(node: Node) -> list[str]:
    """Return the names of the node's slots."""
    return [str(row[0]) for row in node.execute("SELECT slot_name FROM pg_replication_slots ORDER BY 1")]


def create_schema_only(cluster: Cluster, name: str) -> Node:
    """Make a blank a node with the same tables, empty, subscribed to nobody."""
    node = cluster[name]
    node.execute("SELECT spock.node_create(node_name := %(n)s, dsn := %(d)s)", {"n": name, "d": node.dsn()})
    with node.connect() as connection:
        connection.execute(f"CREATE TABLE {KEYED} (id bigint PRIMARY KEY, node text, value integer, filler text)")
    add_to_sets(node, {KEYED: "default"})
    return node


def test_mesh_replicates_both_ways(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    with Writers(cluster.members) as writers:
        wait_until(lambda: "" if writers.writes > 500 else f"{writers.writes} writes", 30, "500 writes")
    wait_level(cluster.members)
    assert writers.failed == 0, writers.failures[:3]
    assert all(count(cluster["n1"], table) > 0 for table in TABLES)
    assert_rows_equal(cluster.members)


def test_disabled_subscription_starts_from_its_origin(make_cluster: MakeCluster) -> None:
    """A slot made beforehand keeps what comes after; the origin says where to go on: nothing lost, nothing twice."""
    cluster = make_cluster(members=1, blanks=1)
    create_tables(cluster)
    source, target = cluster["n1"], create_schema_only(cluster, "n2")
    (slot,) = source.execute(f"SELECT spock.spock_gen_slot_name('{source.dbname}', 'n1', 'sub_n1_n2')")[0]
    source.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'spock_output')")
    insert(source, 1)
    insert(source, 2)
    (start,) = source.execute("SELECT pg_current_wal_insert_lsn()")[0]
    insert(source, 3)
    target.execute("SELECT spock.sub_create('sub_n1_n2', %(dsn)s, enabled := false)", {"dsn": source.dsn()})
    assert slots(source) == [slot]
    assert subscription_states(target) == {"sub_n1_n2": "disabled"}
    assert target.execute("SELECT sub_slot_name, sub_enabled FROM spock.subscription") == [(slot, False)]
    target.execute(f"SELECT pg_replication_origin_advance('{slot}', '{start}')")
    target.execute("SELECT spock.sub_enable('sub_n1_n2')")
    wait_replicating([target])
    insert(source, 4)
    wait_level([source, target])
    assert target.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(3,), (4,)]


def test_pause_stops_apply_and_resume_goes_on(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    paused, other = cluster["n1"], cluster["n2"]
    # Else Spock 6.0 moves an origin past one more transaction of nothing for us, after the pause.
    wait_level(cluster.members)
    paused.execute("SELECT spock.pause_apply_workers()")
    before = paused.execute("SELECT external_id, remote_lsn FROM pg_replication_origin_status ORDER BY 1")
    insert(other, 1)
    wait_until(lambda: "" if count(cluster["n3"]) == 1 else "no row", 10, "the row on the node that is not paused")
    assert count(paused) == 0
    assert before == paused.execute("SELECT external_id, remote_lsn FROM pg_replication_origin_status ORDER BY 1")
    assert set(subscription_states(paused).values()) == {"replicating"}
    assert paused.execute("SELECT bool_and(sub_enabled) FROM spock.subscription") == [(True,)]
    paused.execute("SELECT spock.resume_apply_workers()")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members)


def test_pause_ends_by_itself(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0, extra_conf={"spock.pause_timeout": "2"})
    create_tables(cluster)
    with cluster["n1"].connect() as connection:
        connection.execute("SELECT spock.pause_apply_workers()")
        began = time.monotonic()
    insert(cluster["n2"], 1)
    wait_until(lambda: "" if count(cluster["n1"]) == 1 else "no row", 20, "the pause to end")
    assert time.monotonic() - began > 1
    wait_replicating(cluster.members)


def test_forwarding_all_and_none(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    insert(cluster["n2"], 1)
    wait_level(cluster.members)
    new = cluster["n3"]
    new.execute("SELECT spock.node_create(node_name := 'n3', dsn := %(d)s)", {"d": new.dsn()})
    new.execute(
        "SELECT spock.sub_create('sub_n1_n3', %(dsn)s, synchronize_structure := true, synchronize_data := true,"
        " forward_origins := '{all}')",
        {"dsn": cluster["n1"].dsn()},
    )
    wait_replicating([new], subscriptions=1)
    wait_until(lambda: not_synchronised(new), 30, "the copy")
    assert count(new) == 1
    insert(cluster["n1"], 2)
    insert(cluster["n2"], 3)
    wait_until(lambda: "" if count(new) == 3 else f"{count(new)} rows", 10, "own and forwarded rows")
    new.execute("SELECT spock.sub_disable('sub_n1_n3')")
    wait_until(lambda: "" if subscription_states(new) == {"sub_n1_n3": "disabled"} else "enabled", 20, "the stop")
    set_forwarding(new, "sub_n1_n3", "{}")
    new.execute("SELECT spock.sub_enable('sub_n1_n3')")
    insert(cluster["n2"], 4)
    wait_level(cluster.members)
    insert(cluster["n1"], 5)
    wait_until(lambda: "" if new.execute(f"SELECT id FROM {KEYED} WHERE id = 5") == [(5,)] else "no", 30, "row 5")
    assert new.execute(f"SELECT id FROM {KEYED} ORDER BY id") == [(1,), (2,), (3,), (5,)]


def not_synchronised(node: Node) -> str:
    """Return what of the copy is not done."""
    rows = node.execute(
        "SELECT coalesce(sync_relname, '(all)'), sync_status FROM spock.local_sync_status"
        " WHERE sync_status NOT IN ('r', 'y')"
    )
    return ", ".join(f"{name} {status}" for name, status in rows)


def set_forwarding(node: Node, subscription: str, origins: str) -> None:
    """Change forward_origins the way this version of Spock has."""
    if node.execute("SELECT to_regprocedure('spock.sub_alter_options(name,jsonb)')") == [(None,)]:
        node.execute(
            "UPDATE spock.subscription SET sub_forward_origins = %(o)s WHERE sub_name = %(s)s",
            {"o": origins, "s": subscription},
        )
    else:
        node.execute(
            "SELECT spock.sub_alter_options(%(s)s, jsonb_build_object('forward_origins', %(o)s::text[]))",
            {"o": origins, "s": subscription},
        )


def test_structure_copy_skips_schemas(make_cluster: MakeCluster) -> None:
    """What is on both sides and named in skip_schema does not collide, nor do functions in schema spock."""
    cluster = make_cluster(members=1, blanks=1)
    create_tables(cluster)
    source, new = cluster["n1"], cluster["n2"]
    for node in (source, new):
        with node.connect() as connection:
            connection.execute("CREATE SCHEMA zodan; CREATE TABLE zodan.journal (id int); CREATE SCHEMA other_tool")
            connection.execute("CREATE FUNCTION spock.add_node() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    fill(source, 1000)
    new.execute("SELECT spock.node_create(node_name := 'n2', dsn := %(d)s)", {"d": new.dsn()})
    new.execute(
        "SELECT spock.sub_create('sub_n1_n2', %(dsn)s, synchronize_structure := true, synchronize_data := true,"
        " skip_schema := ARRAY['zodan', 'other_tool'])",
        {"dsn": source.dsn()},
    )
    wait_replicating([new], subscriptions=1)
    wait_until(lambda: not_synchronised(new), 60, "the copy")
    assert_rows_equal([source, new])
    # A change wins over a copied row, however the clocks stand.
    assert new.execute(f"SELECT DISTINCT pg_xact_commit_timestamp(xmin) < '2001-01-01' FROM {KEYED}") == [(True,)]
    assert new.execute("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock%'") == [(0,)]


def test_sub_drop_drops_slot_and_origin(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    n1, n2 = cluster["n1"], cluster["n2"]
    assert len(slots(n1)) == 1
    n2.execute("SELECT spock.sub_drop('sub_n1_n2')")
    assert slots(n1) == []
    assert n2.execute("SELECT roname FROM pg_replication_origin") == []
    assert n2.execute("SELECT node_name FROM spock.node") == [("n2",)]
    n1.execute("SELECT spock.sub_drop('sub_n2_n1')")
    n1.execute("SELECT spock.node_drop('n1')")
    assert n1.execute("SELECT count(*) FROM spock.node") == [(0,)]


def test_sub_drop_drops_a_slot_made_beforehand(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    create_tables(cluster)
    source, target = cluster["n1"], create_schema_only(cluster, "n2")
    (slot,) = source.execute(f"SELECT spock.spock_gen_slot_name('{source.dbname}', 'n1', 'sub_n1_n2')")[0]
    source.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'spock_output')")
    target.execute("SELECT spock.sub_create('sub_n1_n2', %(dsn)s, enabled := false)", {"dsn": source.dsn()})
    target.execute("SELECT spock.sub_enable('sub_n1_n2')")
    wait_replicating([target])
    target.execute("SELECT spock.sub_drop('sub_n1_n2')")
    assert slots(source) == []


def test_sub_drop_goes_on_without_provider(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    cluster["n1"].stop("immediate")
    notices: list[str] = []
    with cluster["n2"].connect() as connection:
        connection.add_notice_handler(lambda d: notices.append(f"{d.severity}: {d.message_primary}"))
        connection.execute("SELECT spock.sub_drop('sub_n1_n2')")
        assert connection.execute("SELECT count(*) FROM spock.subscription").fetchone() == (0,)
    assert any(notice.startswith("WARNING") and "slot" in notice for notice in notices), notices


def test_sync_event_is_waited_for(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    (lsn,) = cluster["n1"].execute("SELECT spock.sync_event(true)")[0]
    with cluster["n2"].connect() as connection:
        connection.execute("SET statement_timeout = '30s'")
        done = connection.execute(f"CALL spock.wait_for_sync_event(NULL, 'n1', '{lsn}', 20)").fetchone()
    assert done == (True,)


def test_chain_rows_are_handed_over(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    create_tables(cluster)
    with Writers(cluster.members):
        wait_until(
            lambda: "" if count(cluster["n1"], f"{CHAIN} WHERE updated_by IS NOT NULL") > 10 else "few", 30, "the chain"
        )
    wait_level(cluster.members)
    assert_rows_equal(cluster.members)
