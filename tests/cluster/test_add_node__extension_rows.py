"""Tables that an extension's script fills: their rows arrive once, or the join is refused, or it warns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.calls import add_node, load_zodan
from support.checks import name_of
from support.clusters import MakeCluster
from support.extensions import cluster_with_extensions
from support.joins import refused
from support.objects import at, everywhere
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Engine, Node

_TABLE = "CREATE TABLE {0} (id int PRIMARY KEY, word text, users boolean DEFAULT true);"
_ROWS = "INSERT INTO {0} VALUES (1, 'first', false), (2, 'second', false);"

#: Each has a table of its name. What a user adds to a configuration table is in a dump, if the extension says so.
_SCRIPTS = {
    "seeds": _TABLE + _ROWS,
    "seeds_config": _TABLE + _ROWS + "SELECT pg_catalog.pg_extension_config_dump('{0}', 'WHERE users');",
    "seeds_whole_config": _TABLE + _ROWS + "SELECT pg_catalog.pg_extension_config_dump('{0}', '');",
    "seeds_nothing": _TABLE,
    "seeds_nothing_config": _TABLE + "SELECT pg_catalog.pg_extension_config_dump('{0}', '');",
}
_SEEDING = [name for name in _SCRIPTS if "nothing" not in name]
_USER_ROW = "INSERT INTO {} VALUES (7, 'user')"
_ADD = "SELECT spock.repset_add_table('default', '{}')"
_REMOVE = "SELECT spock.repset_remove_table('default', '{}')"


@pytest.fixture
def cluster(sandbox_folder: Path, make_cluster: MakeCluster, engine: Engine) -> Iterator[Cluster]:
    """Two members that have every extension, and a blank that has none of them.

    The servers may run from the folder: it is asked for first, so that they end before it goes.
    """
    scripts = {name: script.format(name) for name, script in _SCRIPTS.items()}
    with cluster_with_extensions(make_cluster, engine, sandbox_folder, scripts) as cluster:
        create_tables(cluster)
        fill(cluster["n1"], 100)
        wait_level(cluster.members)
        everywhere(cluster, *(f"CREATE EXTENSION {name}" for name in _SCRIPTS))
        load_zodan(cluster["n3"])
        yield cluster


def _differing(cluster: Cluster) -> str | None:
    """Return the tables whose rows a join of n3 would not bring, as the check names them."""
    n1, n3 = cluster["n1"], cluster["n3"]
    ((severity, passed, observed),) = n3.execute(
        "SELECT severity, passed, observed FROM zodan.checks('pre', 'n1', %(source)s, 'n3', %(new)s)"
        " WHERE key = 'extension-rows'",
        {"source": n1.dsn(), "new": n3.dsn()},
    )
    assert severity == "warn"
    return None if passed else str(observed)


def _rows(node: Node, table: str) -> list[int]:
    return [row[0] for row in node.execute(f"SELECT id FROM {table} ORDER BY id")]


def test_rows_of_a_script_are_neither_doubled_nor_lost(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    # In a set, the copy would bring them a second time.
    for name in _SEEDING:
        everywhere(cluster, _ADD.format(name))
        refused(cluster, "extension-tables", f"public.{name}")
        assert n3.execute("SELECT extname FROM pg_extension WHERE extname LIKE 'seeds%%'") == []
        everywhere(cluster, _REMOVE.format(name))

    # In no set, the script brings them, and nothing brings what differs from them.
    assert _differing(cluster) is None
    everywhere(cluster, _USER_ROW.format("seeds_nothing"))
    assert _differing(cluster) == "public.seeds_nothing"
    everywhere(cluster, _ADD.format("seeds_nothing"), _ADD.format("seeds_nothing_config"))
    assert _differing(cluster) is None
    everywhere(cluster, _USER_ROW.format("seeds_config"), "DELETE FROM seeds_whole_config WHERE id = 2")
    assert _differing(cluster) == "public.seeds_config, public.seeds_whole_config"

    told = add_node(cluster, "n1", "n3")
    assert [line for line in told if name_of("extension-rows") in line and "seeds_config" in line], told
    cluster.wait_replicating()
    at(cluster["n1"], "INSERT INTO seeds_nothing VALUES (8, 'later')")
    at(n3, "INSERT INTO seeds_nothing_config VALUES (9, 'later')")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, "seeds", "seeds_nothing", "seeds_nothing_config"])
    assert _rows(n3, "seeds") == _rows(n3, "seeds_config") == _rows(n3, "seeds_whole_config") == [1, 2]
    assert _rows(n3, "seeds_nothing") == [7, 8]
    assert _rows(cluster["n2"], "seeds_nothing_config") == [9]


def test_a_table_whose_rows_were_deleted_first_is_copied(cluster: Cluster) -> None:
    n3 = cluster["n3"]
    everywhere(cluster, *(_ADD.format(name) for name in _SEEDING))
    at(cluster["n1"], _USER_ROW.format("seeds_config"))
    at(n3, *(f"CREATE EXTENSION {name}" for name in _SEEDING))
    refused(cluster, "extension-tables", "public.seeds")
    at(n3, *(f"DELETE FROM {name}" for name in _SEEDING))
    add_node(cluster, "n1", "n3")
    cluster.wait_replicating()
    at(n3, "INSERT INTO seeds VALUES (8, 'later')")
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, [*TABLES, *_SEEDING])
    assert _rows(cluster["n2"], "seeds") == [1, 2, 8]
    assert _rows(n3, "seeds_config") == [1, 2, 7]
