"""Structure that changes on the members while a node joins: by hand on every member, or replicated by Spock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from support.calls import call, exceptions
from support.clusters import MakeCluster
from support.joins import Join
from support.objects import at
from support.tables import add_to_sets, assert_rows_equal, wait_level
from zodan_sql.sandbox import Node

_BEFORE = ("wider", "retyped", "gone", "renamed", "indexed", "moody", "loose", "slim", "inner_renamed", "moved")
_DDL = "CREATE TABLE {} (id int PRIMARY KEY, v int)"
_TYPES = (
    "CREATE TYPE mood AS ENUM ('glad', 'mad')",
    "CREATE DOMAIN small AS int CHECK (VALUE < 10)",
    "CREATE SCHEMA elsewhere",
)
_MORE = (
    "ALTER TABLE moody ADD COLUMN m mood DEFAULT 'mad'",
    "ALTER TABLE loose ADD COLUMN s small DEFAULT 1",
    "ALTER TABLE slim ADD COLUMN d int DEFAULT 1",
    "ALTER TABLE inner_renamed ADD COLUMN d int DEFAULT 1",
)
#: One of every kind.
_CHANGES = (
    "ALTER TABLE public.wider ADD COLUMN w text DEFAULT 'w'",
    "ALTER TABLE public.retyped ALTER COLUMN v TYPE bigint",
    "DROP TABLE public.gone CASCADE",
    "ALTER TABLE public.renamed RENAME TO other",
    "CREATE INDEX indexed_v ON public.indexed (v)",
    "CREATE TABLE public.made (id int PRIMARY KEY, v int)",
    "ALTER TYPE public.mood ADD VALUE 'sad' BEFORE 'glad'",
    "ALTER DOMAIN public.small DROP CONSTRAINT small_check",
    "ALTER TABLE public.slim DROP COLUMN d",
    "ALTER TABLE public.inner_renamed RENAME COLUMN d TO e",
    "ALTER TABLE public.moved SET SCHEMA elsewhere",
)
_AFTER = ("wider", "retyped", "other", "indexed", "made", "moody", "loose", "slim", "inner_renamed", "elsewhere.moved")
#: What only the changed structure can hold.
_NEW = (
    "UPDATE moody SET m = 'sad' WHERE id = {0}",
    "UPDATE loose SET s = 99 WHERE id = {0}",
    "UPDATE inner_renamed SET e = 5 WHERE id = {0}",
)
_SHAPE = (
    "SELECT c.relname,"
    " string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod)), ',' ORDER BY a.attname)"
    " FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    f" WHERE c.relname = ANY ('{{{','.join([*_BEFORE, *_AFTER, 'indexed_v'])}}}') GROUP BY c.relname ORDER BY 1"
)


def _change(join: Join, replicated: bool) -> None:
    """Change the structure on every member, then write to every table."""
    if replicated:
        for change in _CHANGES:
            join.n1.execute("SELECT spock.replicate_ddl(%(change)s)", {"change": change})
        wait_level([join.n1, join.n2])
    else:
        for node in (join.n1, join.n2):
            at(node, *_CHANGES)
    for node in (join.n1, join.n2):
        add_to_sets(node, {"made": "default"})


def _write(nodes: Sequence[Node], first: int) -> None:
    for number, node in enumerate(nodes, first):
        at(node, *(f"INSERT INTO {table} (id, v) VALUES ({number}, 7)" for table in _AFTER))
        at(node, *(change.format(number) for change in _NEW))


@pytest.fixture
def join(make_cluster: MakeCluster) -> Join:
    join = Join(make_cluster)
    for node in (join.n1, join.n2):
        at(node, *_TYPES, *(_DDL.format(table) for table in _BEFORE), *_MORE)
        add_to_sets(node, dict.fromkeys(_BEFORE, "default"))
    at(join.n1, *(f"INSERT INTO {table} SELECT i, i FROM generate_series(1, 500) i" for table in _BEFORE))
    wait_level([join.n1, join.n2])
    return join


def _check(join: Join) -> None:
    """Check that the new node has the structure of the others, and that rows of every table go everywhere."""
    join.check()
    _write(join.cluster.members, 2001)
    wait_level(join.cluster.members)
    assert_rows_equal(join.cluster.members, _AFTER)
    assert len({str(node.execute(_SHAPE)) for node in join.cluster.members}) == 1
    assert exceptions(join.cluster.nodes) == []


@pytest.mark.parametrize("replicated", [False, True], ids=["by hand", "replicated"])
@pytest.mark.parametrize("point", ["copied", "streaming"])
def test_a_change_during_the_copy_is_on_the_new_node(join: Join, point: str, replicated: bool) -> None:
    held = join.held(point, "n3")
    _change(join, replicated)
    _write([join.n1, join.n2], 1001)
    held.let_go()
    assert held.error is None, held.error
    # What Spock brings by itself needs no second copy, once the rows have their snapshot.
    copies = 1 if replicated and point == "streaming" else 2
    assert join.attempts("slot", "n1") == copies
    _check(join)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("ALTER TYPE tone ADD VALUE 'low'", "(low,1)"),
        ("ALTER DOMAIN tiny DROP CONSTRAINT tiny_check", "(high,99)"),
    ],
    ids=["enum", "domain"],
)
def test_a_change_inside_a_type_by_hand_is_on_the_new_node(join: Join, change: str, value: str) -> None:
    for node in (join.n1, join.n2):
        at(
            node,
            "CREATE TYPE tone AS ENUM ('high')",
            "CREATE DOMAIN tiny AS int CHECK (VALUE < 10)",
            "CREATE TYPE sound AS (t tone, n tiny)",
            "CREATE TABLE heard (id int PRIMARY KEY, s sound[])",
        )
        add_to_sets(node, {"heard": "default"})
    held = join.held("copied", "n3")
    for node in (join.n1, join.n2):
        at(node, change)
    at(join.n1, f"INSERT INTO heard VALUES (1, ARRAY['{value}'::sound])")
    held.let_go()
    assert held.error is None, held.error
    assert join.attempts("slot", "n1") == 2
    join.check()
    assert_rows_equal(join.cluster.members, ["heard"])


@pytest.mark.parametrize("point", ["streaming", "near"])
def test_rows_of_a_table_that_is_published_late_are_on_the_new_node(join: Join, point: str) -> None:
    rows = "SELECT i, i FROM generate_series(1, 100) i"
    unpublish = "SELECT spock.repset_remove_table(set_name, '{0}') FROM spock.tables WHERE relid = '{0}'::regclass"
    for node in (join.n1, join.n2):
        at(node, *(_DDL.format(table) for table in ("late", "widened")))
        at(node, *(f"{unpublish.format(table)} AND set_name IS NOT NULL" for table in ("late", "widened")))
        at(node, *(f"INSERT INTO {table} {rows}" for table in ("late", "widened")))
        at(node, "SELECT spock.repset_add_table('default', 'widened', row_filter := 'id > 50')")
    held = join.held(point, "n3" if point == "streaming" else "n1")
    for node in (join.n1, join.n2):
        at(node, "SELECT spock.repset_remove_table('default', 'widened')")
        add_to_sets(node, {"late": "default", "widened": "default"})
    at(join.n1, "INSERT INTO late VALUES (1001, 7)")
    held.let_go()
    if point == "streaming":
        assert held.error is None, held.error
        assert join.attempts("slot", "n1") == 2
    else:
        assert held.error is not None
        assert "ZD407" in str(held.error.diag.message_detail), held.error
        assert "public.late, public.widened" in str(held.error.diag.message_detail)
        at(
            join.n3,
            "SET session_replication_role = replica",
            f"INSERT INTO late {rows}",
            f"INSERT INTO widened {rows} ON CONFLICT DO NOTHING",
        )
        call(join.n3, "zodan.resume", p_operation=1)
    join.check()
    assert_rows_equal(join.cluster.members, ["late", "widened"])


def test_a_table_that_is_made_again_by_hand_is_copied_again(join: Join) -> None:
    held = join.held("streaming", "n3")
    for node in (join.n1, join.n2):
        at(node, "DROP TABLE public.gone CASCADE", _DDL.format("gone"))
        add_to_sets(node, {"gone": "default"})
    at(join.n1, "INSERT INTO gone SELECT -i, i FROM generate_series(1, 5) i")
    held.let_go()
    assert held.error is None, held.error
    assert join.attempts("slot", "n1") == 2
    join.check()
    assert_rows_equal(join.cluster.members, ["gone"])


def test_a_replicated_change_after_the_copy_is_on_the_new_node(join: Join) -> None:
    held = join.held("near", "n1")
    _change(join, replicated=True)
    _write([join.n1, join.n2], 1001)
    held.let_go()
    assert held.error is None, held.error
    _check(join)


@pytest.mark.slow
def test_a_change_by_hand_that_stops_the_stream_is_told(join: Join) -> None:
    join.n3.execute("ALTER DATABASE app SET zodan.sync_timeout = '8 s'")
    held = join.held("near", "n1")
    _change(join, replicated=False)
    _write([join.n1, join.n2], 1001)
    held.let_go()
    assert held.error is not None
    said = str(held.error) + str(held.error.diag.message_detail)
    assert "the worker of the stream from node n1 is not running" in said or "disabled" in said, said
    if not join.cluster.engine.is_real:
        at(join.n3, *_CHANGES)
    # Real Spock has discarded what it could not apply: the copy begins again, and brings the new structure.
    call(join.n3, "zodan.resume", p_operation=1)
    _check(join)


def test_a_change_by_hand_that_stops_nothing_is_told(join: Join) -> None:
    held = join.held("near", "n1")
    for node in (join.n1, join.n2):
        at(node, *_CHANGES, "CREATE TABLE of_one_node_alone (id int)")
    held.let_go()
    assert held.error is not None
    assert held.error.sqlstate == "ZD114"
    told = str(held.error.diag.message_detail)
    for what in ("wider differs", "retyped differs", "gone is missing on the source", "other is missing here"):
        assert f"table public.{what}" in told
    assert "of_one_node" not in told
    at(join.n3, *_CHANGES)
    call(join.n3, "zodan.resume", p_operation=1)
    for node in join.cluster.nodes:
        add_to_sets(node, {"made": "default"})
    _check(join)
