"""Replication sets of a node, as rows that compare."""

from __future__ import annotations

from typing import Any

from zodan_sql.sandbox import Node


def read_sets(node: Node) -> list[tuple[Any, ...]]:
    """Return every set of a node with its flags, tables, columns, row filters and sequences."""
    return node.execute(
        "WITH own AS (SELECT r.* FROM spock.replication_set r JOIN spock.local_node l ON l.node_id = r.set_nodeid)"
        " SELECT set_name::text, 'set', concat_ws(' ', replicate_insert, replicate_update, replicate_delete,"
        " replicate_truncate), '' FROM own"
        " UNION ALL SELECT set_name::text, 'table ' || t.set_reloid::regclass, "
        # The columns are a set; nodes may list them in another order.
        " coalesce((SELECT string_agg(a, ',' ORDER BY a) FROM unnest(t.set_att_list) a), 'all'),"
        " coalesce(pg_get_expr(t.set_row_filter, t.set_reloid), '')"
        " FROM own JOIN spock.replication_set_table t USING (set_id)"
        " UNION ALL SELECT set_name::text, 'sequence ' || q.set_seqoid::regclass, '', ''"
        " FROM own JOIN spock.replication_set_seq q USING (set_id)"
        " ORDER BY 1, 2, 3, 4"
    )
