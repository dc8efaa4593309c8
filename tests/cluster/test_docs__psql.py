"""The statements of the pages for psql work, in their order, and leave nothing behind."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from support.calls import leftovers, load_zodan
from support.clusters import MakeCluster
from support.scripts import load, psql, variable
from support.tables import KEYED, create_tables, fill
from zodan_sql.building.render import find_build
from zodan_sql.sandbox import Cluster, wait_until

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"^\\set (n\d) '.*'$", re.MULTILINE)


def follow(cluster: Cluster, page: str, *scripts: str) -> subprocess.CompletedProcess[str]:
    """Load scripts on the last node and run the page's statements there, in one session of psql."""
    here = cluster.nodes[-1]
    for name in scripts:
        assert load(cluster.engine, here.dsn(), find_build() / name).returncode == 0
    script = "".join(_BLOCK.findall(page))
    # Connection strings as the page gives them, to the servers of this cluster.
    assert _SETTING.search(script)
    script = _SETTING.sub(lambda found: f"\\set {found[1]} {variable(cluster[found[1]].dsn())}", script)
    done = psql(cluster.engine, here.dsn(), "-At", script=script)
    assert done.returncode == 0, done.stderr
    return done


def test_the_hand_tools(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=1)
    page = (_DOCS / "how-to" / "hand-tools.md").read_text(encoding="utf-8")
    said = follow(cluster, page, "zodan.sql").stdout.splitlines()
    assert "n4|n1|replicating" in said or "n4|n1|initializing" in said
    assert said[-4:] == ["t|t|t", "t|t|t", "f", "t"]
    assert leftovers(cluster.nodes, "n4") == []


def test_a_newcomer_with_psql_only(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=1)
    create_tables(cluster)
    fill(cluster["n1"], 1000)
    n4 = cluster["n4"]
    before = n4.execute("SELECT oid::regprocedure::text FROM pg_proc")
    page = (_DOCS / "how-to" / "psql.md").read_text(encoding="utf-8")
    done = follow(cluster, page, "zodan.sql", "zodremove.sql")
    assert 'NOTICE:  node "n4" has joined: 4 members, operation 1' in done.stderr
    assert "n4|n1|replicating|" in done.stdout
    assert 'NOTICE:  node "n4" has been removed: 3 members are left' in done.stderr
    assert "NOTICE:  nothing is left behind in this cluster" in done.stderr
    assert n4.execute("SELECT count(*) FROM app_keyed") == [(1000,)]
    assert set(n4.execute("SELECT oid::regprocedure::text FROM pg_proc")) == set(before)
    assert leftovers(cluster.nodes, "n4") == []


def test_the_commit_timestamp_is_that_of_the_newest_transaction_of_its_origin(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    n1, n2 = cluster.members
    create_tables(cluster)
    load_zodan(n2)

    def told(origin: str) -> object:
        arguments = {"dsn": n2.dsn(), "origin": origin}
        return n2.execute("SELECT zodan.get_commit_timestamp(%(dsn)s, %(origin)s)", arguments)[0][0]

    for key in (1, 2):
        n1.execute(f"INSERT INTO {KEYED} VALUES ({key}, 'n1', 0)")
        ((committed,),) = n1.execute(f"SELECT pg_xact_commit_timestamp(xmin) FROM {KEYED} WHERE id = {key}")
        # What n2 commits itself is not the origin's.
        n2.execute(f"INSERT INTO {KEYED} VALUES ({key + 10}, 'n2', 0)")
        # No sync event: that is a transaction, too. And Spock 5.0 writes down once a second how far it is.
        wait_until(lambda last=committed: "" if told("n1") == last else f"{told('n1')} for {last}", 30, "the timestamp")
    assert told("n2") is None
