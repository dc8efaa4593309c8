"""Joins under every spelling of a connection string, and with names that need quoting wherever a name can stand."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from support.calls import load_zodan
from support.clusters import MakeCluster
from support.tables import KEYED
from zodan_sql.client.install import install
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 60.0
#: Database names that differ from node to node, none of them an identifier.
DATABASES = {"n1": 'Sales "EU"', "n2": "it's {dsn:n1}", "n3": "Zürich $do$ 4"}
#: Names of the nodes that live in them.
NAMES = {"n1": 'n-1 "x"', "n2": "Nöd {result:1.lsn}", "n3": "it's $do$"}
TABLES = ['"Weird ""table"" é"', '"Sch éma"."it\'s {dsn:n1}"', '"Sch éma"."UPPER $do$"']


def keyword_oddities(node: Node) -> str:
    """Write the connection string in another order, with spaces around the equals signs and quoted values."""
    words = {key: str(value) for key, value in conninfo_to_dict(node.dsn()).items()}
    password = words["password"].replace("\\", "\\\\").replace("'", "\\'")
    return (
        f"  password\t= '{password}'  dbname ='{words['dbname']}' options='-c search_path\\=pg_catalog'\n"
        f" user= {words['user']} port = '{words['port']}' host={words['host']} "
    )


def uri(node: Node) -> str:
    """Write the connection string as a URI with more percent encoding than needed."""
    words = {key: str(value) for key, value in conninfo_to_dict(node.dsn()).items()}
    encoded = "".join(f"%{byte:02X}" for byte in words["password"].encode())
    host = words["host"].replace(".", "%2E")
    return (
        f"postgresql://{words['user']}:{encoded}@{host}:{words['port']}/%61pp?application_name=a%20b&connect_timeout=9"
    )


def test_spellings_of_a_connection_string_and_interfaces_not_in_use(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    for node in cluster.members:
        node.execute(f"CREATE TABLE {KEYED} (id int PRIMARY KEY)")
        node.execute("SELECT spock.repset_add_table('default', %(table)s)", {"table": KEYED})
        for name in ("n1", "n2"):
            # It leads nowhere, and its name sorts before or after the one in use.
            node.execute(
                "SELECT spock.node_add_interface(%(node)s, %(interface)s, 'host=192.0.2.1 port=1 dbname=gone')",
                {"node": name, "interface": "a_stale" if name == "n1" else "z_stale"},
            )
    load_zodan(n3)
    for spelling in (keyword_oddities, uri):
        arguments = {"source": spelling(n1), "new": spelling(n3)}
        n3.execute("CALL spock.add_node('n1', %(source)s, 'n3', %(new)s)", arguments)
        check_mesh_moves([node.connect() for node in cluster.nodes], KEYED)
        n3.execute("CALL spock.remove_node('n3', %(new)s)", arguments)
        for member in cluster.members:
            names = member.execute("SELECT node_name::text FROM spock.node ORDER BY 1")
            assert names == [("n1",), ("n2",)]
            assert member.execute("SELECT count(*) FROM pg_replication_slots") == [(1,)]
        n3.execute(f"DROP TABLE {KEYED}")
    interfaces = n2.execute("SELECT count(*) FROM spock.node_interface WHERE if_name IN ('a_stale', 'z_stale')")
    assert interfaces == [(2,)]


def test_names_that_need_quoting(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=0, blanks=["n1", "n2", "n3"])
    dsns, connections = weird_databases(cluster)
    form_weird_pair(dsns, connections)
    (result,) = install([dsns["n3"]])
    assert result.error is None, result.error
    add = "CALL spock.add_node(%s, %s, %s, %s, new_node_location => %s, new_node_info => %s)"
    info = '{"it\'s": "{dsn:n1} $do$ \\\\"}'
    connections["n3"].execute(add, [NAMES["n1"], dsns["n1"], NAMES["n3"], dsns["n3"], "O'Hare $do$", info])
    for table in TABLES:
        check_mesh_moves(list(connections.values()), table)
    described = connections["n3"].execute("SELECT location, info FROM spock.node_info()").fetchone()
    assert described == ("O'Hare $do$", {"it's": "{dsn:n1} $do$ \\"})
    sets = [
        connection.execute(
            "SELECT set_name::text, relid::regclass::text FROM spock.tables WHERE set_name IS NOT NULL ORDER BY 1, 2"
        ).fetchall()
        for connection in (connections["n1"], connections["n3"])
    ]
    assert sets[0] == sets[1]
    assert ('Set "ß"', TABLES[1]) in sets[1]
    connections["n3"].execute("CALL spock.remove_node(%s, %s)", [NAMES["n3"], dsns["n3"]])
    for node in ("n1", "n2"):
        for query in (
            "SELECT node_name FROM spock.node WHERE node_name = %(name)s",
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '%%do%%'",
            "SELECT roname FROM pg_replication_origin WHERE roname LIKE '%%do%%'",
        ):
            assert connections[node].execute(query, {"name": NAMES["n3"]}).fetchall() == []


def weird_databases(cluster: Cluster) -> tuple[dict[str, str], dict[str, psycopg.Connection[Any]]]:
    """Make the databases of DATABASES; return connection strings and connections by node."""
    dsns, connections = {}, {}
    for node in cluster.nodes:
        with node.connect(dbname="postgres") as admin:
            admin.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(DATABASES[node.name]), sql.Identifier(node.dbname)
                )
            )
        dsns[node.name] = make_conninfo(node.dsn(), dbname=DATABASES[node.name])
        connections[node.name] = psycopg.connect(dsns[node.name], autocommit=True)
    return dsns, connections


def form_weird_pair(dsns: dict[str, str], connections: dict[str, psycopg.Connection[Any]]) -> None:
    """Make n1 and n2 nodes that replicate to one another, with tables in replication sets."""
    for name in ("n1", "n2"):
        connection = connections[name]
        connection.execute('CREATE SCHEMA "Sch éma"')
        connection.execute("SELECT spock.node_create(%s, %s)", [NAMES[name], dsns[name]])
        connection.execute("SELECT spock.repset_create(%s)", ['Set "ß"'])
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY)".encode())
            set_name = 'Set "ß"' if table == TABLES[1] else "default"
            connection.execute("SELECT spock.repset_add_table(%s, %s)", [set_name, table])
    for subscriber, provider in (("n1", "n2"), ("n2", "n1")):
        connections[subscriber].execute(
            "SELECT spock.sub_create(subscription_name := %s, provider_dsn := %s, replication_sets := %s,"
            " forward_origins := '{}')",
            [f"from_{provider}", dsns[provider], ["default", 'Set "ß"']],
        )
    wait_until(
        lambda: " ".join(
            str(row)
            for name in ("n1", "n2")
            for row in connections[name].execute("SELECT subscription_name, status FROM spock.sub_show_status()")
            if row[1] != "replicating"
        ),
        _BUDGET_S,
        "the pair to replicate",
    )


def check_mesh_moves(connections: list[psycopg.Connection[Any]], table: str) -> None:
    """Insert a row on every node and see each arrive at every other."""
    start = max(
        connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}".encode()).fetchone()[0]
        for connection in connections
    )  # type: ignore[index]
    for number, connection in enumerate(connections, start + 1):
        connection.execute(f"INSERT INTO {table} VALUES (%s)".encode(), [number])
    wanted = start + len(connections)

    def missing() -> str:
        counts = [connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() for connection in connections]
        return "" if all(count == (wanted,) for count in counts) else f"{table}: {counts} of {wanted}"

    wait_until(missing, _BUDGET_S, "rows to arrive")
