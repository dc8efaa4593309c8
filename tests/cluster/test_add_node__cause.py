"""A copy that breaks off: the caller reads why, or where to look."""

from __future__ import annotations

import pytest

from support.calls import call
from support.clusters import MakeCluster
from support.joins import Join
from support.objects import at


@pytest.mark.parametrize("collects", [True, False])
def test_why_a_copy_broke_off_is_told(make_cluster: MakeCluster, collects: bool) -> None:
    join = Join(make_cluster)
    if collects:
        join.n3.execute("ALTER SYSTEM SET logging_collector = on")
        join.n3.stop()
        join.n3.start()
    for node in (join.n1, join.n2):
        at(node, "CREATE TYPE mood AS ENUM ('good')")
    # What no check before it can see: it comes later.
    held = join.held("note", "n3")
    at(join.n3, "CREATE TYPE mood AS ENUM ('bad')")
    held.let_go()
    assert held.error is not None
    detail = str(held.error.diag.message_detail)
    assert "the copy broke off" in detail
    assert ('type "mood" already exists' if collects else "the server log there says why, shortly before 20") in detail
    at(join.n3, "DROP TYPE mood")
    call(join.n3, "zodan.resume", p_operation=1)
    join.check()
