"""Loading Zodan on a member stays there, and nothing of a failed call stays in a server's log."""

from __future__ import annotations

from contextlib import closing

from psycopg.conninfo import make_conninfo

from support.clusters import MakeCluster
from support.scripts import literal, load, psql
from support.secrets import WRONG, find
from support.sets import read_sets
from support.tables import wait_level
from zodan_sql.building.render import find_build
from zodan_sql.sandbox import Cluster, Engine, Node

_SCRIPTS = ("zodan.sql", "zodremove.sql")
#: What travels by itself where DDL replication is on, as it is here for every session but Zodan's own.
_DDL_REPLICATION = {
    "spock.enable_ddl_replication": "on",
    "spock.include_ddl_repset": "on",
    "spock.allow_ddl_from_functions": "on",
}


def test_loading_on_a_member_with_ddl_replication(make_cluster: MakeCluster, engine: Engine) -> None:
    cluster = make_cluster(members=2, blanks=1, extra_conf=_DDL_REPLICATION if engine.is_real else {})
    n1, n2, n3 = cluster.nodes
    sets = read_sets(n1)
    for script in (*_SCRIPTS, *_SCRIPTS):
        done = load(engine, n1.dsn(), find_build() / script)
        assert done.returncode == 0, done.stderr
    if engine.is_real:
        # The same session would have sent its DDL: what it creates afterwards arrives.
        with closing(n1.connect()) as connection:
            connection.execute("CREATE TABLE public.travels (id int PRIMARY KEY)")
        wait_level(cluster.members)
        assert n2.execute("SELECT to_regclass('public.travels') IS NOT NULL") == [(True,)]
        assert set(read_sets(n1)) - set(sets) == {("default", "table travels", "all", "")}
    wait_level(cluster.members)
    assert n2.execute("SELECT to_regnamespace('zodan')::text, to_regproc('spock.add_node')::text") == [(None, None)]
    in_sets = n1.execute(
        "SELECT relid::regclass::text FROM spock.tables WHERE nspname = 'zodan' AND set_name IS NOT NULL"
    )
    assert in_sets == []
    # The new node gets the data of the source and not its Zodan, called from there.
    n1.execute("CALL spock.add_node('n1', %(source)s, 'n3', %(new)s)", {"source": n1.dsn(), "new": n3.dsn()})
    assert n3.execute("SELECT to_regclass('zodan.operation')::text, to_regproc('spock.add_node')::text") == [
        (None, None)
    ]
    assert n3.execute("SELECT to_regclass('public.travels') IS NOT NULL") == [(engine.is_real,)]
    check_logs_of_literal_calls(cluster, engine, n1)


def check_logs_of_literal_calls(cluster: Cluster, engine: Engine, at: Node) -> None:
    """Calls as a DBA types them, connection strings in the statement: no server's log has the password of any."""
    source, second, new = (literal(node.dsn()) for node in cluster.nodes)
    wrong = literal(make_conninfo(cluster["n3"].dsn(), password=WRONG))
    calls = [
        f"CALL spock.remove_node('n3', {second})",
        f"CALL spock.remove_node('n3', {wrong})",
        f"CALL spock.remove_node('n3', 'host=h pasword={WRONG}')",
        f"CALL spock.add_node('n1', {source}, 'n3', {new})",
        f"CALL spock.add_node('n9', {source}, 'n3', {new})",
        f"BEGIN; SELECT 1; CALL spock.remove_node('n3', {new})",
        f"SELECT * FROM zodan.plan_add_node('n1', {source}, 'n3', {wrong})",
    ]
    for number, statement in enumerate(calls):
        done = psql(engine, at.dsn(), script="\n".join((*statement.split("; "), "")).replace("\n", ";\n"))
        assert done.returncode != 0, statement
        assert "ERROR:" in done.stderr, number
        assert list(find(done.stdout + done.stderr)) == [], number
        for node in cluster.nodes:
            lines = [line for line in node.log_text().splitlines() if list(find(line))]
            assert lines == [], f"call {number} in the log of {node.name}"
