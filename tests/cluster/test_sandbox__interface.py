"""The stand-in offers what Spock offers, under the same names and types."""

from __future__ import annotations

import pytest

from support.clusters import MakeCluster
from zodan_sql.sandbox import Engine, Node

_FUNCTIONS = """
spock.node_create(name, text, text, text, jsonb)
spock.node_drop(name, boolean)
spock.node_add_interface(name, name, text)
spock.node_drop_interface(name, name)
spock.node_info()
spock.sub_create(name, text, text[], boolean, boolean, text[], interval, boolean, boolean, text[])
spock.sub_drop(name, boolean)
spock.sub_enable(name, boolean)
spock.sub_disable(name, boolean)
spock.sub_show_status(name)
spock.sub_show_table(name, regclass)
spock.sub_wait_for_sync(name)
spock.sub_add_repset(name, name)
spock.sub_remove_repset(name, name)
spock.repset_create(name, boolean, boolean, boolean, boolean)
spock.repset_alter(name, boolean, boolean, boolean, boolean)
spock.repset_drop(name, boolean)
spock.repset_add_table(name, regclass, boolean, text[], text, boolean)
spock.repset_remove_table(name, regclass, boolean)
spock.repset_add_all_tables(name, text[], boolean)
spock.repset_add_seq(name, regclass, boolean)
spock.repset_remove_seq(name, regclass)
spock.spock_gen_slot_name(name, name, name)
spock.sync_event(boolean)
spock.wait_for_sync_event(oid, pg_lsn, integer, boolean)
spock.wait_for_sync_event(name, pg_lsn, integer, boolean)
spock.wait_slot_confirm_lsn(name, pg_lsn)
spock.pause_apply_workers()
spock.resume_apply_workers()
spock.spock_version()
"""

_COLUMNS = {
    "node": "node_id node_name location country info",
    "node_interface": "if_id if_name if_nodeid if_dsn",
    "local_node": "node_id node_local_interface",
    "subscription": "sub_id sub_name sub_origin sub_target sub_origin_if sub_target_if sub_enabled sub_slot_name"
    " sub_replication_sets sub_forward_origins sub_apply_delay sub_force_text_transfer sub_skip_lsn sub_skip_schema",
    "local_sync_status": "sync_kind sync_subid sync_nspname sync_relname sync_status sync_statuslsn",
    "replication_set": "set_id set_nodeid set_name replicate_insert replicate_update replicate_delete"
    " replicate_truncate",
    "replication_set_table": "set_id set_reloid set_att_list set_row_filter xmin",
    "replication_set_seq": "set_id set_seqoid",
    "tables": "relid nspname relname set_name",
    "lag_tracker": "origin_name receiver_name commit_timestamp",
    "exception_log": "remote_origin remote_commit_ts command_counter retry_errored_at remote_xid local_origin"
    " local_commit_ts table_schema table_name operation local_tup remote_old_tup remote_new_tup ddl_statement"
    " ddl_user error_message",
}


@pytest.fixture(scope="module")
def node(make_module_cluster: MakeCluster) -> Node:
    """One of two members."""
    return make_module_cluster(members=2, blanks=0)["n1"]


def test_interface_is_spocks(node: Node, engine: Engine) -> None:
    missing = [
        function
        for function in _FUNCTIONS.split("\n")
        if function and node.execute("SELECT to_regprocedure(%(f)s)", {"f": function}) == [(None,)]
    ]
    assert missing == []
    for view, columns in _COLUMNS.items():
        node.execute(f"SELECT {', '.join(columns.split())} FROM spock.{view} LIMIT 1")
    assert node.execute("SELECT node_name FROM spock.node ORDER BY 1") == [("n1",), ("n2",)]
    # Ids that Spock would give: they fit an origin's 16 bits.
    assert node.execute("SELECT node_id::int FROM spock.node_info()") == [(49708,)]
    assert node.execute("SELECT sub_slot_name, sub_forward_origins, sub_skip_schema FROM spock.subscription") == [
        ("spk_app_n2_sub_n2_n1", None, None)
    ]
    (version,) = node.execute("SELECT extversion FROM pg_extension WHERE extname = 'spock'")[0]
    assert ("standin" in version) != engine.is_real


@pytest.mark.parametrize("name", ["sub_n1_n2", "a_subscription_name_much_longer_than_sixteen_bytes", 'Odd "Näme"'])
def test_slot_names_are_safe_and_short(node: Node, name: str) -> None:
    (slot,) = node.execute("SELECT spock.spock_gen_slot_name('app', 'n1', %(n)s)", {"n": name})[0]
    assert slot.startswith("spk_app_n1_")
    assert len(slot) <= 54
    assert set(slot) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
