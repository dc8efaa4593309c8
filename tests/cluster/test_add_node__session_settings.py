"""Settings of a role, a database or a server that every session gets, and what a join makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from support.calls import call, load_zodan, remove_node, state
from support.checks import name_of
from support.clusters import MakeCluster
from support.joins import join, refused
from support.objects import at, everywhere
from support.tables import TABLES, assert_rows_equal, create_tables, wait_level
from zodan_sql.sandbox import Cluster


@pytest.fixture(scope="module")
def cluster(make_module_cluster: MakeCluster) -> Cluster:
    cluster = make_module_cluster(members=2, blanks=1)
    create_tables(cluster)
    everywhere(
        cluster,
        "CREATE TABLE words (id int PRIMARY KEY, word text, price money, document xml)",
        "CREATE TABLE counted (id serial PRIMARY KEY, word text)",
        "CREATE SEQUENCE s",
        "SELECT spock.repset_add_table('default', t) FROM unnest(ARRAY['words', 'counted']::regclass[]) AS t",
    )
    at(cluster["n1"], "INSERT INTO words VALUES (1, U&'caf\\00e9', 12.5, '<a/><b/>')", "SELECT setval('s', 10)")
    at(cluster["n2"], "SELECT setval('s', 5000)")
    wait_level(cluster.members)
    load_zodan(cluster["n3"])
    return cluster


@pytest.fixture(params=["ROLE CURRENT_USER", "DATABASE app", "SYSTEM"])
def where(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """Where a setting is set; whatever it was is reset everywhere afterwards."""
    yield request.param
    for node in cluster.nodes:
        at(node, f"ALTER {request.param} RESET ALL", "SELECT pg_reload_conf()")


@pytest.mark.parametrize(
    ("setting", "value", "check"),
    [
        ("client_encoding", "LATIN1", "client-encoding"),
        ("xmloption", "document", "xml-option"),
        ("default_transaction_isolation", "serializable", "transaction-isolation"),
    ],
)
def test_a_setting_that_changes_values_is_refused(
    cluster: Cluster, where: str, setting: str, value: str, check: str
) -> None:
    at(cluster["n3"], f"ALTER {where} SET {setting} = '{value}'", "SELECT pg_reload_conf()")
    refused(cluster, check, value)


def test_money_of_another_locale_is_refused(cluster: Cluster) -> None:
    locale = at_most_one(cluster)
    at(cluster["n3"], f"ALTER DATABASE app SET lc_monetary = '{locale}'")
    refused(cluster, "monetary-locale", locale)
    at(cluster["n3"], "ALTER DATABASE app RESET ALL")


def at_most_one(cluster: Cluster) -> str:
    """Return a locale that the source does not use for money."""
    is_ = str(cluster["n1"].execute("SHOW lc_monetary")[0][0])
    return "POSIX" if is_ == "C" else "C"


@pytest.mark.parametrize("noisy", ["n1", "n2", "n3"])
def test_what_only_changes_how_values_are_printed_does_no_harm(cluster: Cluster, noisy: str) -> None:
    n3, before = cluster["n3"], state(cluster.nodes)
    at(
        cluster[noisy],
        "ALTER DATABASE app SET quote_all_identifiers = on",
        "ALTER DATABASE app SET DateStyle = 'SQL, DMY'",
        "ALTER DATABASE app SET IntervalStyle = 'sql_standard'",
        "ALTER DATABASE app SET TimeZone = 'Asia/Kathmandu'",
        "ALTER DATABASE app SET extra_float_digits = -5",
        "ALTER DATABASE app SET bytea_output = 'escape'",
        "ALTER DATABASE app SET standard_conforming_strings = off",
    )
    warned = join(cluster)
    known = (name_of("database-settings"), name_of("sequences"))
    assert [line for line in warned if not line.startswith(known)][1:] == []
    cluster.blanks.remove(n3)
    cluster.members.append(n3)
    cluster.wait_replicating()
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, (*TABLES, "words"))
    assert n3.execute("SELECT nextval('s') > 5000") == [(True,)]
    given = {"src_node_name": "n1", "src_dsn": cluster["n1"].dsn(), "new_node_name": "n3", "new_node_dsn": n3.dsn()}
    call(n3, "spock.health_check", **given, check_type="post")
    remove_node(cluster, "n3")
    at(n3, "DROP TABLE words, counted, app_keyed, app_keyless, app_chain", "DROP SEQUENCE s")
    for node in cluster.nodes:
        at(node, "ALTER DATABASE app RESET ALL")
    assert state(cluster.nodes) == before


def make_spelled(make: MakeCluster) -> Cluster:
    """Make two members and a blank, and a table whose values Spock sends as text."""
    cluster = make(members=2, blanks=1)
    everywhere(
        cluster,
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TYPE stay AS (since date, lasts interval, rent float8)",
        "CREATE TABLE spelled (id int PRIMARY KEY, moods mood[], stay stay)",
        "SELECT spock.repset_add_table('default', 'spelled')",
    )
    load_zodan(cluster["n3"])
    return cluster


def test_nulls_of_arrays_that_travel_as_text_are_not_made_strings(make_cluster: MakeCluster) -> None:
    cluster = make_spelled(make_cluster)
    at(cluster["n3"], "ALTER DATABASE app SET array_nulls = off")
    refused(cluster, "array-nulls", "array_nulls off")
    at(cluster["n3"], "ALTER DATABASE app SET array_nulls = true")
    assert_joins(cluster)


def test_dates_that_travel_as_text_stay_the_same(make_cluster: MakeCluster) -> None:
    cluster = make_spelled(make_cluster)
    for node in cluster.members:
        at(node, "ALTER DATABASE app SET DateStyle = 'SQL, DMY'")
        node.restart()
    cluster.wait_replicating()
    if cluster["n1"].execute("SELECT extversion ~ '^5' FROM pg_extension WHERE extname = 'spock'")[0][0]:
        refused(cluster, "value-formats", "ISO, MDY")
        at(cluster["n3"], "ALTER DATABASE app SET datestyle TO 'sql,dmy'")
    assert_joins(cluster)


def assert_joins(cluster: Cluster) -> None:
    """Check that n3 joins, and that it has a row of every node as that has it."""
    join(cluster)
    cluster.members.append(cluster.blanks.pop())
    cluster.wait_replicating()
    row = "ARRAY['sad', NULL]::mood[], ROW('2024-03-02', '-1 day -2 hours', 0.1::float8 + 0.2)"
    for number, node in enumerate(cluster.members):
        at(node, f"INSERT INTO spelled VALUES ({number}, {row})")
    wait_level(cluster.members)
    assert (
        len({str(n.execute("SET DateStyle = ISO; SELECT s.* FROM spelled AS s ORDER BY 1")) for n in cluster.nodes})
        == 1
    )


def test_settings_in_other_letters_are_not_refused(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    at(
        n3,
        "ALTER DATABASE app SET default_transaction_isolation = 'READ COMMITTED'",
        "ALTER DATABASE app SET xmloption = 'CONTENT'",
    )
    given = {"source": n1.dsn(), "new": n3.dsn()}
    judged = n3.execute(
        "SELECT key FROM zodan.checks('pre', 'n1', %(source)s, 'n3', %(new)s) WHERE severity = 'fail' AND NOT passed",
        given,
    )
    at(n3, "ALTER DATABASE app RESET ALL")
    assert judged == []


@pytest.mark.parametrize("node", ["n2", "n3"])
def test_standbys_that_are_not_there_are_not_waited_for(cluster: Cluster, node: str) -> None:
    waiting = cluster[node]
    with waiting.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'any 1 (nobody, none)'")
        connection.execute("SELECT pg_reload_conf()")
    refused(cluster, "synchronous-standbys", "0 of 1 (synchronous_standby_names any 1 (nobody, none))")
    at(waiting, "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")


def test_a_limit_on_temporary_files_is_not_for_sessions_of_a_join(cluster: Cluster) -> None:
    n1, n3 = cluster["n1"], cluster["n3"]
    at(n1, "ALTER DATABASE app SET temp_file_limit = 0")
    judged = n3.execute(
        "SELECT key, observed FROM zodan.checks('pre', 'n1', %(source)s, 'n3', %(new)s)"
        " WHERE severity = 'fail' AND NOT passed",
        {"source": n1.dsn(), "new": n3.dsn()},
    )
    at(n1, "ALTER DATABASE app RESET ALL")
    assert judged == []


def test_a_connection_string_hides_no_setting_of_the_server(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    create_tables(cluster)
    load_zodan(n2)
    n2.execute("ALTER DATABASE app SET default_transaction_read_only = on")
    hiding = n2.dsn() + " options='-c default_transaction_read_only=off'"
    with psycopg.connect(hiding, autocommit=True) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute("CALL spock.add_node('n1', %(source)s, 'n2', %(new)s)", {"source": n1.dsn(), "new": hiding})
    assert refused.value.sqlstate == "ZD100"
    assert 'writable on "n2"' in str(refused.value.diag.message_detail)
