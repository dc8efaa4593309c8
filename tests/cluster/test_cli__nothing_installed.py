"""What only reads needs nothing installed, and leaves nothing."""

from __future__ import annotations

import pytest

from support.clusters import MakeCluster
from support.objects import at, everything
from support.shell import run
from support.tables import create_tables, wait_level


@pytest.mark.parametrize("dblink", ["in place", "missing"])
def test_the_first_thing_a_newcomer_runs_works(make_cluster: MakeCluster, dblink: str) -> None:
    cluster = make_cluster(members=2, blanks=1)
    create_tables(cluster)
    wait_level(cluster.members)
    n1, n2, n3 = cluster.nodes
    if dblink == "missing":
        for node in cluster.nodes:
            at(node, "DROP EXTENSION dblink")
    before = [everything(node) for node in cluster.nodes]
    given = ("--src-node-name", "n1", "--src-dsn", n1.dsn(), "--new-node-name", "n3", "--new-node-dsn", n3.dsn())
    checked = run("health-check", *given, "--verbose")
    assert (checked.code, "0 failed" in checked.out) == (0, True), checked.out + checked.err
    planned = run("plan", *given)
    assert (planned.code, "phase 1\n" in planned.out) == (0, True), planned.err
    shown = run("topology", "--dsn", n2.dsn())
    assert (shown.code, "n1" in shown.out) == (0, True), shown.err
    scanned = run("rescan", "--dsn", n1.dsn())
    assert (scanned.code, "nothing is left behind" in scanned.out) == (0, True), scanned.err
    assert [everything(node) for node in cluster.nodes] == before
