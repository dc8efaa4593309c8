"""A join that is rolled back while its copy is under way."""

from __future__ import annotations

import pytest
from psycopg.types.json import Jsonb

from support.calls import call, state
from support.clusters import MakeCluster
from support.joins import Join
from support.tables import KEYED
from zodan_sql.sandbox import Node, wait_until

_BUDGET_S = 60.0


@pytest.mark.parametrize("stage", ["structure", "data"])
def test_a_rollback_during_the_copy_ends(make_cluster: MakeCluster, stage: str) -> None:
    join = Join(make_cluster)
    # Rows that take a while, for as long as the trigger's lock is held.
    join.n1.execute(f"ALTER TABLE {KEYED} ALTER value SET DEFAULT 0")
    join.n2.execute(f"ALTER TABLE {KEYED} ALTER value SET DEFAULT 0")
    before = state(join.cluster.nodes)
    held = join.held("copying", "n3")
    locked = "pg_catalog.pg_attrdef" if stage == "structure" else "pg_catalog.pg_index"
    with join.n3.connect() as lock, lock.transaction():
        lock.execute(f"LOCK TABLE {locked} IN SHARE MODE".encode())
        held.let_go_on()
        wait_until(lambda: _waits(join.n3, locked), _BUDGET_S, "the copy to wait")
        held.kill()
        call(
            join.n3,
            "zodan.rollback",
            p_operation=1,
            p_dsns=Jsonb({node.name: node.dsn() for node in (join.n1, join.n2)}),
        )
    assert state(join.cluster.nodes) == before
    call(join.n3, "spock.add_node", **join.arguments)
    join.check()


def _waits(node: Node, relation: str) -> str:
    rows = node.execute(
        "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %(name)s::regclass", {"name": relation}
    )
    return "" if rows else "it does not wait yet"
