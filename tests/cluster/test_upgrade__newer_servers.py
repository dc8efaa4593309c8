"""Members are replaced by servers of ZODAN_PG_BIN_NEW, if that is set, while everybody writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.calls import exceptions, leftovers, remove_node
from support.clusters import MakeCluster
from support.shell import add_by_client
from support.tables import TABLES, add_to_sets, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox import Cluster, Engine, Node, detect_engine

#: Types of which the binary form is copied, and one of which the text is.
_KINDS = """
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE in_binary (id int PRIMARY KEY, f float8, n numeric, at timestamptz, iv interval, b bytea, jb jsonb, u uuid,
    ip inet, a int[], r int4range, m int8multirange, e mood, ts tsvector, o money, c char(9), bits varbit, t text);
INSERT INTO in_binary SELECT i, i / 7.0, i / 7.0, to_timestamp(i * 1e5), i * interval '1 day 1 s',
    decode(md5(i::text), 'hex'), jsonb_build_object('k', i), md5(i::text)::uuid, '10.0.0.1'::inet + i, ARRAY[i, NULL],
    int4range(i, i + 2), int8multirange(int8range(i, i + 2)), CASE i % 2 WHEN 0 THEN 'sad' ELSE 'happy' END::mood,
    to_tsvector('simple', 'a b' || i), i::money, 'ab', i::bit(9)::varbit, repeat('ü', i % 100)
  FROM generate_series(1, 50000) AS i;
CREATE DOMAIN short AS text CHECK (length(VALUE) < 900);
CREATE TABLE in_text (id int PRIMARY KEY, s short, g regclass);
INSERT INTO in_text SELECT i, repeat(E'\\\\', i % 100) || E'\\t', 'in_binary' FROM generate_series(1, 90000) AS i
"""
_KIND_TABLES = ["in_binary", "in_text"]


@pytest.fixture
def newer(engine: Engine) -> Engine:
    """Return the server of the nodes that join; without the setting it is that of the members."""
    pg_bin = os.environ.get("ZODAN_PG_BIN_NEW")
    return detect_engine(Path(pg_bin)) if pg_bin else engine


def _join(cluster: Cluster, new: Node) -> None:
    ended = add_by_client(cluster["n1"], new)
    assert ended.code == 0, ended.err
    cluster.members.append(new)


def test_a_newer_server_copies_with_its_psql(make_cluster: MakeCluster, newer: Engine) -> None:
    cluster = make_cluster(members=1, blanks=0)
    others = make_cluster(members=0, blanks=["n3"], engine=newer)
    n1, n3 = cluster["n1"], others["n3"]
    with n1.connect() as connection:
        for statement in _KINDS.strip().split(";\n"):
            connection.execute(statement.encode())
    add_to_sets(n1, dict.fromkeys(_KIND_TABLES, "default"))
    ended = add_by_client(n1, n3, "--copy", "psql")
    assert ended.code == 0, ended.err
    wait_level([n1, n3])
    assert_rows_equal([n1, n3], _KIND_TABLES)
    parts = n3.execute("SELECT count(*) FROM zodan.unit WHERE title LIKE 'public.in_binary, part%'")
    assert parts[0][0] > 1


@pytest.mark.slow
def test_members_are_replaced_under_writers(make_cluster: MakeCluster, newer: Engine) -> None:
    cluster = make_cluster(members=2, blanks=0)
    others = make_cluster(members=0, blanks=["n3", "n4"], engine=newer)
    n1, n2 = cluster.members
    create_tables(cluster)
    fill(n1, 2000)
    wait_level(cluster.members)
    with Writers([n1, n2]) as before:
        for node in others.blanks:
            _join(cluster, node)
        with Writers([*others.blanks], series=1) as between:
            wait_level(cluster.members)
    assert before.failures == between.failures == []
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    with Writers([*others.blanks], series=2) as after:
        for name in ("n1", "n2"):
            remove_node(cluster, name, at="n4")
    assert after.failures == []
    wait_level(others.blanks)
    assert_rows_equal(others.blanks, TABLES)
    for node in (n1, n2):
        assert leftovers(others.blanks, node.name) == []
    assert exceptions(others.blanks) == []
