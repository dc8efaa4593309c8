"""A node whose join was never finished is removed: nothing of the join is left on any member."""

from __future__ import annotations

import pytest

from support.calls import call, leftovers, load_zodan
from support.clusters import MakeCluster
from support.joins import Join
from support.parameters import some_slow

#: Phase, node and object of the step before which the caller is killed.
_POINTS = {
    "registered": ("note", "n1", None),
    "slot without its subscription": ("structured", "n1", "copied"),
    "copying": ("copied", "n3", None),
    "slots on the peers": ("barrier", "n1", None),
}


@pytest.mark.parametrize("point", some_slow(_POINTS, quick=("slot without its subscription",)))
@pytest.mark.parametrize("force", some_slow([False, True], quick=(False,)))
def test_nothing_is_left(make_cluster: MakeCluster, point: str, force: bool) -> None:
    join = Join(make_cluster)
    join.held(*_POINTS[point]).kill()
    target = {"target_node_name": "n3", "target_node_dsn": join.n3.dsn()}
    if force:
        join.n3.stop()
        load_zodan(join.n1)
        call(join.n1, "spock.remove_node", **target, force=True, accept_divergence=True)
    else:
        call(join.n3, "spock.remove_node", **target)
        assert leftovers([join.n3], "n3") == []
    members = [join.n1, join.n2]
    assert leftovers(members, "n3") == []
    for node in members:
        assert node.execute("SELECT slot_name FROM pg_replication_slots WHERE NOT active") == []
        assert node.execute("SELECT pubname FROM pg_publication") == []
