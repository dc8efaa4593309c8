"""Extensions whose scripts bring rows: never doubled or lost on the new node, and refused where they would be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.calls import add_node
from support.clusters import MakeCluster
from support.joins import make_filled, refused
from support.objects import at, everywhere
from support.tables import wait_level
from zodan_sql.sandbox import Cluster, Engine

Provide = Callable[[Cluster], None]

_SCRIPTS = {
    "bare": "CREATE TABLE plain (id int PRIMARY KEY, word text);",
    "seeding": "CREATE TABLE seeded (id int PRIMARY KEY, word text); INSERT INTO seeded VALUES (1, 'script');",
    "configured": "CREATE TABLE options (id int PRIMARY KEY, word text); INSERT INTO options VALUES (2, 'script');"
    " SELECT pg_catalog.pg_extension_config_dump('options', '');",
}
_ADD = "SELECT spock.repset_add_table('default', '{}')"
_REMOVE = "SELECT spock.repset_remove_table('default', '{}')"


@pytest.fixture
def provide(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Provide:
    """Return what makes the extensions available on every server of a cluster."""

    def on(cluster: Cluster) -> None:
        folder = Path(str(tmp_path_factory.mktemp("extensions")))
        settings = {row[0]: row[1] for row in cluster.nodes[0].execute("SELECT name, setting FROM pg_settings")}
        if "extension_control_path" in settings:
            share, name = folder, "extension_control_path"
            value = f"{folder}:{settings[name]}"
        elif "extension_destdir" in settings:
            # One folder, which stands before that of the system: with what is in the one before.
            name, value = "extension_destdir", str(folder)
            share = folder / engine.share_dir.relative_to("/")
            if settings[name]:
                shutil.copytree(settings[name], folder, dirs_exist_ok=True)
        else:
            pytest.skip("before PostgreSQL 18 this server has one folder of extensions, and that is not ours to fill")
        (share / "extension").mkdir(parents=True, exist_ok=True)
        for extension, script in _SCRIPTS.items():
            control = "default_version = '1'\nrelocatable = true\n"
            (share / "extension" / f"{extension}.control").write_text(control)
            (share / "extension" / f"{extension}--1.sql").write_text(script + "\n")
        for path in (folder, *folder.parents[:2], *folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
        for node in cluster.nodes:
            at(node, f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
            node.restart()
        cluster.wait_replicating()

    return on


def test_rows_of_a_script_come_once(make_cluster: MakeCluster, provide: Provide) -> None:
    cluster = make_filled(make_cluster, 100)
    n1, n2, n3 = cluster.nodes
    provide(cluster)
    everywhere(cluster, *(f"CREATE EXTENSION {extension}" for extension in _SCRIPTS))
    everywhere(cluster, *map(_ADD.format, ("plain", "seeded", "options")))
    refused(cluster, "extension-tables", "public.options")
    everywhere(cluster, _REMOVE.format("options"))
    refused(cluster, "extension-tables", "public.seeded")
    # In no set, the script brings the rows. A table that its extension leaves empty is copied like any other.
    everywhere(cluster, _REMOVE.format("seeded"))
    at(n1, "INSERT INTO plain VALUES (7, 'user')")
    add_node(cluster, "n1", "n3")
    wait_level(cluster.members)
    at(n2, "INSERT INTO plain VALUES (8, 'later')")
    wait_level(cluster.members)
    assert n3.execute("SELECT * FROM plain ORDER BY id") == [(7, "user"), (8, "later")]
    assert n3.execute("SELECT * FROM seeded") == [(1, "script")]
    assert n3.execute("SELECT * FROM options") == [(2, "script")]
