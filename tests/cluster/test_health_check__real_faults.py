"""Faults made on a cluster show in the health check, through each of its doors, and a healthy one has none."""

from __future__ import annotations

import json
import time
from typing import Any

import psycopg
import pytest

from support.calls import add_node, call, load_zodan, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.secrets import find
from support.tables import add_to_sets, create_tables, fill, wait_level
from zodan_sql import cli
from zodan_sql.sandbox import Cluster, Node, wait_until

#: What a check of five nodes may take.
FIVE_NODES_S = 3.0

SOURCE, PEER, NEW = "n1", "n2", "n3"
ON_SOURCE = """
CREATE TABLE later (id int PRIMARY KEY DEFERRABLE, other int UNIQUE);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
CREATE TABLE counted (id serial PRIMARY KEY);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER note AFTER INSERT ON app_keyed FOR EACH ROW EXECUTE FUNCTION note();
ALTER TABLE app_keyed ENABLE ALWAYS TRIGGER note;
CREATE ROLE only_here;
CREATE SCHEMA sales AUTHORIZATION only_here;
SELECT lo_create(4711);
SELECT pg_create_physical_replication_slot('forgotten', true);
ALTER DATABASE app SET work_mem = '5MB';
"""
ON_NEW = """
CREATE SCHEMA sales;
CREATE TABLE in_the_way (id int);
CREATE FUNCTION in_the_way() RETURNS int LANGUAGE sql AS 'SELECT 1';
ALTER SYSTEM SET wal_level = 'replica';
ALTER SYSTEM SET max_replication_slots = 1;
ALTER ROLE CURRENT_USER SET statement_timeout = '1min';
"""
EXPECTED = {
    ("deferrable-keys", SOURCE, "warn"),
    ("several-keys", SOURCE, "warn"),
    ("unlogged-tables", SOURCE, "warn"),
    ("unreplicated-tables", SOURCE, "warn"),
    ("sequences", SOURCE, "warn"),
    ("triggers", SOURCE, "warn"),
    ("large-objects", SOURCE, "warn"),
    ("inactive-slots", SOURCE, "warn"),
    ("prepared-transactions", SOURCE, "fail"),
    ("database-settings", PEER, "warn"),
    ("replicating", f"{PEER} -> {SOURCE}", "fail"),
    ("same-names", NEW, "fail"),
    ("empty", NEW, "fail"),
    ("roles", NEW, "fail"),
    ("wal-level", NEW, "fail"),
    ("max-replication-slots", NEW, "fail"),
    ("time-limits", NEW, "warn"),
}


def arguments(cluster: Cluster, new: str | None) -> dict[str, Any]:
    given = {"src_node_name": SOURCE, "src_dsn": cluster[SOURCE].dsn()}
    return given if new is None else given | {"new_node_name": new, "new_node_dsn": cluster[new].dsn()}


def found(node: Node, check_type: str, given: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return key, scope and severity of what did not pass."""
    names = ", ".join(f"{name} => %({name})s" for name in given)
    rows = node.execute(
        f"SELECT key, scope, severity, hint, observed FROM zodan.checks(%(check_type)s, {names}) WHERE NOT passed",
        {"check_type": check_type, **given},
    )
    assert all(row[3] for row in rows)
    assert list(find(str(rows))) == []
    return {(row[0], row[1], row[2]) for row in rows}


def run_cli(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["health-check", *words])
    printed = capsys.readouterr()
    assert "zdn-" not in printed.out + printed.err
    return int(exit_.value.code or 0), printed.out


def cli_options(given: dict[str, Any]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]


def test_five_healthy_nodes(make_cluster: MakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = make_cluster(members=4, blanks=["n5"])
    create_tables(cluster)
    fill(cluster[SOURCE], 100)
    wait_level(cluster.members)
    caller = cluster["n5"]
    load_zodan(caller)
    given = arguments(cluster, "n5")
    assert found(caller, "pre", given) == set()
    started = time.monotonic()
    notices = call(caller, "spock.health_check", **given)
    assert time.monotonic() - started < FIVE_NODES_S
    assert [notice.split()[0] for notice in notices[:-1]] == ["INFO"]
    assert notices[-1].endswith(" checks: 0 failed, 0 warned")
    verbose = call(caller, "spock.health_check", **given, verb=True)
    assert {notice.split()[0] for notice in verbose[:-1]} == {"INFO", "PASS"}
    with pytest.raises(psycopg.Error) as raised:
        call(caller, "spock.health_check", **given, check_type="during")
    assert raised.value.sqlstate == "ZD004"

    code, out = run_cli(capsys, *cli_options(given), "--json")
    document = json.loads(out)
    assert (code, document["check_type"], document["failed"], document["warned"]) == (0, "pre", 0, 0)
    (disk,) = [check for check in document["checks"] if check["key"] == "disk-space"]
    assert disk["passed"] in (True, None)
    assert list(disk) == ["key", "name", "scope", "severity", "passed", "observed", "required", "hint", "verdict"]

    add_node(cluster, SOURCE, "n5")
    wait_level(cluster.members)
    assert found(caller, "post", given) == set()
    assert found(caller, "post", arguments(cluster, None)) == set()
    assert found(caller, "pre", arguments(cluster, None)) == set()


def test_faults_show(make_cluster: MakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = make_cluster(members=2, blanks=[NEW], extra_conf={"max_prepared_transactions": "5"})
    create_tables(cluster)
    caller = cluster[PEER]
    load_zodan(caller)
    with cluster[SOURCE].connect() as connection:
        connection.execute("SELECT set_config('spock.enable_ddl_replication', 'off', false)")
        connection.execute("SELECT set_config('spock.include_ddl_repset', 'off', false)")
        for statement in ON_SOURCE.strip().split(";\n"):
            connection.execute(statement.encode())
        connection.execute("SELECT spock.sub_disable('sub_n2_n1')")
    with cluster[SOURCE].connect() as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE undecided (id int)")
        connection.execute("PREPARE TRANSACTION 'undecided'")
    with cluster[NEW].connect() as connection:
        for statement in ON_NEW.strip().split(";\n"):
            connection.execute(statement.encode())
    cluster[NEW].restart()
    given = arguments(cluster, NEW)
    # A transaction that was prepared just now may end by itself.
    wait_until(lambda: str(EXPECTED - found(caller, "pre", given)).strip("set()"), 60, "every fault to show")
    with pytest.raises(psycopg.Error) as raised:
        call(caller, "spock.health_check", **given)
    assert raised.value.sqlstate == "ZD100"
    assert name_of("wal-level") in str(raised.value.diag.message_detail)
    assert raised.value.diag.message_hint
    code, out = run_cli(capsys, *cli_options(given), "--dsn", caller.dsn())
    assert code == 3
    assert f"FAIL  {name_of('wal-level')}" in out
    assert "PASS" not in out

    cluster[NEW].stop()
    seen = found(caller, "pre", given)
    assert ("reachable", NEW, "fail") in seen
    assert ("reachable-from-each-other", f"{SOURCE} -> {NEW}", "fail") in seen


def test_tables_whose_names_read_like_placeholders_are_counted(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    caller = cluster[PEER]
    load_zodan(caller)
    names = ("{dsn:n1}", "a $do$ %s", 'x""y.z', "{result:slot.lsn}")
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute('CREATE SCHEMA "{dsn:n2}"')
            for name in names:
                connection.execute(f'CREATE TABLE "{{dsn:n2}}"."{name}" (id int PRIMARY KEY)'.encode())
    for node in cluster.members:
        quoted = {f'"{{dsn:n2}}"."{name}"': "default" for name in names}
        add_to_sets(node, quoted)
    given = arguments(cluster, None)
    assert found(caller, "post", given) == set()
    for name in names:
        with cluster[PEER].connect() as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute("SELECT spock.repset_remove_table('default', %s)", (f'"{{dsn:n2}}"."{name}"',))
            connection.execute(f'INSERT INTO "{{dsn:n2}}"."{name}" VALUES (1)'.encode())
        add_to_sets(cluster[PEER], {f'"{{dsn:n2}}"."{name}"': "default"})
    assert found(caller, "post", given) == {("row-counts", PEER, "warn")}
    (observed,) = caller.execute(
        "SELECT observed FROM zodan.checks('post', src_node_name => %s, src_dsn => %s) WHERE key = 'row-counts'",
        (SOURCE, cluster[SOURCE].dsn()),
    )[0]
    assert all(f'"{{dsn:n2}}"."{name}" has 1 rows, 0 on the source' in observed for name in names)


def test_a_source_that_is_another_node_is_a_check(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=0)
    caller = cluster[SOURCE]
    load_zodan(caller)
    given = {"src_node_name": "n9", "src_dsn": cluster[PEER].dsn()}
    assert ("member-identity", "n9", "fail") in found(caller, "pre", given)


def test_a_connection_string_that_means_another_server_elsewhere(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is left to each server's environment, where the member has its own: it would stream to itself."""
    cluster = make_cluster(members=2, blanks=1)
    caller, peer, new = cluster[SOURCE], cluster[PEER], cluster[NEW]
    load_zodan(caller)
    given = arguments(cluster, NEW)
    vague = {**given, "new_node_dsn": given["new_node_dsn"].replace(f"port={new.port} ", "")}
    for node, port in ((caller, new.port), (new, new.port), (peer, peer.port)):
        monkeypatch.setenv("PGPORT", str(port))
        node.restart()
    cluster.wait_replicating()
    fault = ("same-from-everywhere", f"{PEER} -> {NEW}", "fail")
    assert fault in found(caller, "pre", vague)
    assert not [key for key, _, _ in found(caller, "pre", given) if key == fault[0]]
    before = state(cluster.nodes)
    with pytest.raises(psycopg.Error) as raised:
        call(caller, "spock.add_node", **vague)
    assert raised.value.sqlstate == "ZD100"
    assert f'database "app" of the server at 127.0.0.1, port {peer.port}' in str(raised.value.diag.message_detail)
    assert state(cluster.nodes) == before

    # Where the caller reaches nothing, nobody can say whether a member that does reach something is right.
    for node, port in ((caller, 1), (peer, new.port)):
        monkeypatch.setenv("PGPORT", str(port))
        node.restart()
    cluster.wait_replicating()
    keys = {key for key, where, _ in found(caller, "pre", vague) if NEW in where}
    assert "reachable" in keys
    assert fault[0] not in keys
