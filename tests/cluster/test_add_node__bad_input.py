"""A call that cannot work fails with one clear error, before anything is changed anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support.calls import add_node, load_zodan, remove_node, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.failures import failure
from support.scripts import literal, psql
from support.secrets import PASSWORD, WRONG, find
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Engine

Arguments = dict[str, Any]


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    """Two members with Zodan and two blanks; the second blank's server has a database without Spock and a full one."""
    cluster = make_module_cluster(members=2, blanks=2)
    create_tables(cluster)
    fill(cluster["n1"], 100)
    for node in cluster.nodes:
        load_zodan(node)
    n4 = cluster["n4"]
    with closing(n4.connect(dbname="postgres")) as admin:
        admin.execute("CREATE DATABASE bare")
        admin.execute("CREATE DATABASE crowded TEMPLATE app")
        admin.execute("CREATE ROLE plain LOGIN")
        admin.execute(f"ALTER ROLE plain PASSWORD {literal(PASSWORD)}")
    with closing(n4.connect(dbname="crowded")) as connection:
        connection.execute("CREATE TABLE public.something (id int)")
    wait_level(cluster.members)
    return cluster


@pytest.fixture
def unchanged(cluster: Cluster) -> Iterator[None]:
    """Compare everything of replication on every node before and after the test."""
    before = state(cluster.nodes)
    yield
    assert state(cluster.nodes) == before


def joining(cluster: Cluster, **overrides: Any) -> Arguments:
    """Return the arguments of a good call, some of them replaced."""
    return {
        "src_node_name": "n1",
        "src_dsn": cluster["n1"].dsn(),
        "new_node_name": "n3",
        "new_node_dsn": cluster["n3"].dsn(),
        **overrides,
    }


def check_failure(cluster: Cluster, procedure: str, arguments: Arguments, sqlstate: str, words: str, at: str) -> None:
    """Call, and look at the error: its class, what it names, that it helps, and that it tells no secret."""
    failed = failure(cluster[at], procedure, **arguments)
    told = f"{failed.sqlstate} {failed.everything}"
    assert failed.sqlstate == sqlstate, told
    assert words in failed.message + failed.detail, told
    assert failed.hint, told
    assert "\n" not in failed.message
    assert list(find(failed.everything)) == []


Case = tuple[Callable[[Cluster], Arguments], str, str]

ADDING: dict[str, Case] = {
    "source that nobody knows": (lambda c: {"src_node_name": "n9"}, "ZD003", 'leads to node "n1"'),
    "source is no node": (lambda c: {"src_dsn": c["n4"].dsn()}, "ZD003", "no Spock node"),
    "dsn of another member as the source's": (lambda c: {"src_dsn": c["n2"].dsn()}, "ZD003", 'leads to node "n2"'),
    "dsn of another member as the new node's": (lambda c: {"new_node_dsn": c["n2"].dsn()}, "ZD100", 'it is node "n2"'),
    "name of the source": (lambda c: {"new_node_name": "n1"}, "ZD002", "two nodes"),
    "dsn of the source": (lambda c: {"new_node_dsn": c["n1"].dsn()}, "ZD100", 'it is node "n1"'),
    "a member already": (
        lambda c: {"new_node_name": "n2", "new_node_dsn": c["n2"].dsn()},
        "ZD100",
        'node "n2" has joined already',
    ),
    "name of a member": (lambda c: {"new_node_name": "n2"}, "ZD100", "the cluster knows a node of this name"),
    "database on the source's server": (
        lambda c: {"new_node_dsn": c["n1"].dsn(dbname="postgres")},
        "ZD100",
        "the same server as the source",
    ),
    "wrong password of the source": (
        lambda c: {"src_dsn": make_conninfo(c["n1"].dsn(), password=WRONG)},
        "ZD100",
        "password authentication failed",
    ),
    "wrong password of the new node": (
        lambda c: {"new_node_dsn": make_conninfo(c["n3"].dsn(), password=WRONG)},
        "ZD100",
        "password authentication failed",
    ),
    "no such database": (
        lambda c: {"new_node_dsn": c["n3"].dsn(dbname="nowhere")},
        "ZD100",
        '"nowhere" does not exist',
    ),
    "nobody listens": (lambda c: {"new_node_dsn": make_conninfo(c["n3"].dsn(), port=1)}, "ZD100", "Connection refused"),
    "no superuser": (
        lambda c: {"new_node_dsn": make_conninfo(c["n4"].dsn(), user="plain")},
        "ZD100",
        "not a superuser",
    ),
    "Spock missing": (lambda c: {"new_node_dsn": c["n4"].dsn(dbname="bare")}, "ZD100", "not installed"),
    "database not empty": (lambda c: {"new_node_dsn": c["n4"].dsn(dbname="crowded")}, "ZD100", "1 relations"),
    "name too long for subscriptions": (lambda c: {"new_node_name": "n" * 60}, "ZD100", "63 bytes at most"),
    "name too long for anything": (lambda c: {"new_node_name": "n" * 80}, "ZD100", "63 bytes at most"),
    "no name": (lambda c: {"new_node_name": ""}, "ZD002", "two nodes"),
    "null as a name": (lambda c: {"src_node_name": None}, "ZD002", "two nodes"),
    "null as a dsn": (lambda c: {"src_dsn": None}, "ZD001", "empty"),
    "dsn with an open quote": (lambda c: {"src_dsn": f"host=h password='{WRONG}"}, "ZD001", "malformed"),
    "dsn with an unknown setting": (lambda c: {"new_node_dsn": f"host=h pasword={WRONG}"}, "ZD001", "a setting"),
    "dsn without an equals sign": (lambda c: {"new_node_dsn": f"host=h password {WRONG}"}, "ZD001", "malformed"),
    "uri with a bad escape": (lambda c: {"src_dsn": f"postgresql://u:{WRONG}%zz@h/d"}, "ZD001", "percent"),
    "uri with an unknown setting": (
        lambda c: {"src_dsn": f"postgresql://u@h/d?pasword={WRONG}"},
        "ZD001",
        "a setting",
    ),
}


@pytest.mark.parametrize("case", ADDING.values(), ids=ADDING)
def test_adding(cluster: Cluster, unchanged: None, case: Case) -> None:
    overrides, sqlstate, words = case
    check_failure(cluster, "spock.add_node", joining(cluster, **overrides(cluster)), sqlstate, words, at="n3")


_OTHER_ZONES = (
    "DATABASE beside SET timezone = 'Pacific/Auckland'",
    "ROLE elsewhere SET timezone = 'Pacific/Auckland'",
    "ROLE elsewhere IN DATABASE beside SET timezone = 'Asia/Kathmandu'",
    "DATABASE beside SET DateStyle = 'SQL, DMY'",
)


def test_a_database_beside_the_source_in_another_time_zone(cluster: Cluster, unchanged: None) -> None:
    """Whatever a database or a role has set, it is on the source's own server, and told so in the same words.

    The database stays: to drop it may wait for minutes, for the sleep of the stand-in's supervisor.
    """
    n1 = cluster["n1"]
    beside = make_conninfo(n1.dsn(dbname="beside"), user="elsewhere")
    with closing(n1.connect(dbname="postgres")) as admin:
        admin.execute("CREATE DATABASE beside")
        admin.execute("CREATE ROLE elsewhere SUPERUSER LOGIN")
        admin.execute(f"ALTER ROLE elsewhere PASSWORD {literal(PASSWORD)}")
    with closing(n1.connect(dbname="beside")) as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
        connection.execute("CREATE EXTENSION dblink")
    joined = joining(cluster, new_node_dsn=beside)
    plain = failure(cluster["n3"], "spock.add_node", **joined)
    assert plain.sqlstate == "ZD100"
    assert [line for line in plain.detail.splitlines() if line.startswith(f'{name_of("own-server")} on "n3": the same')]
    started = "SELECT pg_postmaster_start_time()::text"
    for zone in _OTHER_ZONES:
        n1.execute(f"ALTER {zone}")
        with closing(psycopg.connect(beside)) as connection:
            assert connection.execute(started).fetchall() != n1.execute(started)
        other = failure(cluster["n3"], "spock.add_node", **joined)
        assert (other.sqlstate, other.message, other.detail) == (plain.sqlstate, plain.message, plain.detail), zone
        n1.execute(f"ALTER {zone.partition(' SET ')[0]} RESET ALL")


REMOVING: dict[str, Case] = {
    "target that nobody knows": (lambda c: {"target_node_name": "n9"}, "ZD003", 'leads to node "n1"'),
    "dsn of another member": (lambda c: {"target_node_dsn": c["n2"].dsn()}, "ZD003", 'leads to node "n2"'),
    "target is no node": (
        lambda c: {"target_node_name": "n3", "target_node_dsn": c["n3"].dsn()},
        "ZD100",
        "no node",
    ),
    "Spock missing": (lambda c: {"target_node_dsn": c["n4"].dsn(dbname="bare")}, "ZD100", "no node"),
    "wrong password": (
        lambda c: {"target_node_dsn": make_conninfo(c["n1"].dsn(), password=WRONG)},
        "ZD100",
        "password authentication failed",
    ),
    "no name": (lambda c: {"target_node_name": ""}, "ZD002", "the name of the node is missing"),
    "null as a name": (lambda c: {"target_node_name": None}, "ZD002", "the name of the node is missing"),
    "dsn with an open quote": (lambda c: {"target_node_dsn": f"host=h password='{WRONG}"}, "ZD001", "malformed"),
}


@pytest.mark.parametrize("case", REMOVING.values(), ids=REMOVING)
def test_removing(cluster: Cluster, unchanged: None, case: Case) -> None:
    overrides, sqlstate, words = case
    arguments = {"target_node_name": "n1", "target_node_dsn": cluster["n1"].dsn(), **overrides(cluster)}
    check_failure(cluster, "spock.remove_node", arguments, sqlstate, words, at="n3")


def test_inside_a_transaction_block(cluster: Cluster, engine: Engine, unchanged: None) -> None:
    calls = {
        "add_node": f"'n1', {literal(cluster['n1'].dsn())}, 'n3', {literal(cluster['n3'].dsn())}",
        "remove_node": f"'n2', {literal(cluster['n2'].dsn())}",
    }
    for procedure, arguments in calls.items():
        done = psql(
            engine,
            cluster["n3"].dsn(),
            "-v",
            "VERBOSITY=verbose",
            script=f"BEGIN; SELECT 1;\nCALL spock.{procedure}({arguments});\nCOMMIT;\n",
        )
        assert done.returncode != 0
        assert f"ERROR:  ZD005: {procedure} cannot run inside a transaction block" in done.stderr
        assert "HINT:  Call it on its own, with autocommit on." in done.stderr
        with closing(cluster["n3"].connect(autocommit=False)) as connection:
            connection.execute("SELECT 1")
            with pytest.raises(psycopg.Error) as raised:
                connection.execute(f"CALL spock.{procedure}({arguments})".encode())
            # Through the extended protocol only PostgreSQL itself can tell.
            assert raised.value.sqlstate in ("ZD005", "2D000")


def test_all_faults_are_told_at_once(cluster: Cluster, engine: Engine) -> None:
    n1, n4 = cluster["n1"], cluster["n4"]
    n1.execute("CREATE ROLE only_here")
    n1.execute("CREATE SCHEMA only_here AUTHORIZATION only_here")
    faults = {"wal_level": "replica", "max_replication_slots": "1"}
    if not engine.is_real:
        # Spock itself does not start without.
        faults["track_commit_timestamp"] = "off"
    if engine.has_plugin_allow_list:
        faults["output_plugin_libraries"] = "pgoutput"
    for name, value in faults.items():
        n4.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    n4.restart()
    before = state(cluster.nodes)
    failed = failure(n4, "spock.add_node", **joining(cluster, new_node_dsn=n4.dsn(dbname="crowded")))
    assert failed.sqlstate == "ZD100"
    lines = failed.detail.splitlines()
    for key in [*(name.replace("_", "-") for name in faults), "roles", "empty"]:
        start = f'{name_of(key)} on "n3": '
        assert [line for line in lines if line.startswith(start) and "; needed: " in line], failed.detail
    assert "missing: only_here" in failed.detail
    assert str(len(lines)) == failed.message.split()[0]
    assert state(cluster.nodes) == before
    n1.execute("DROP SCHEMA only_here")
    n1.execute("DROP ROLE only_here")


def test_a_member_that_is_down(cluster: Cluster) -> None:
    n2 = cluster["n2"]
    running = [node for node in cluster.nodes if node is not n2]
    n2.stop()
    before = state(running)
    check_failure(cluster, "spock.add_node", joining(cluster), "ZD100", f'{name_of("reachable")} on "n2"', at="n3")
    arguments = {"target_node_name": "n1", "target_node_dsn": cluster["n1"].dsn()}
    check_failure(cluster, "spock.remove_node", arguments, "ZD100", f'{name_of("reachable")} on "n2"', at="n3")
    assert state(running) == before
    n2.start()
    cluster.wait_replicating()


def test_then_the_good_calls_work(cluster: Cluster) -> None:
    """After every failure above the same cluster takes the node, and lets it go: nothing stayed behind or locked."""
    add_node(cluster, "n1", "n3")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    remove_node(cluster, "n3")
