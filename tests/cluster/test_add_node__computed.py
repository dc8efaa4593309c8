"""What nodes compute from copied rows, and what is copied of them, is what it is where rows come by the stream."""

from __future__ import annotations

import pytest

from support.calls import add_node, exceptions
from support.clusters import MakeCluster
from support.tables import add_to_sets, assert_rows_equal, wait_level

_ZONE = "Asia/Tokyo"
_HOURS = "SELECT i, '2026-01-01 00:30+09'::timestamptz + i * interval '1 hour' AS at FROM generate_series(0, 47) AS i"
_COMPUTED = """
CREATE FUNCTION day_of(timestamptz) RETURNS date LANGUAGE sql IMMUTABLE AS 'SELECT $1::date';
CREATE FUNCTION read(text) RETURNS date LANGUAGE sql IMMUTABLE AS 'SELECT $1::date';
CREATE TABLE indexed (id int PRIMARY KEY, at timestamptz);
CREATE INDEX indexed_day ON indexed (day_of(at));
CREATE TABLE checked (id int PRIMARY KEY, at timestamptz, day date, spelt text,
    CHECK (day_of(at) = day AND read(spelt) = day));
CREATE TABLE parted (id int, at timestamptz) PARTITION BY RANGE (day_of(at));
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-01-02') TO ('2026-01-03');
"""
_DAYS = "SELECT day::text, count FROM days ORDER BY 1"


@pytest.mark.parametrize("copy", ["rows", "psql"])
def test_functions_that_rely_on_settings(make_cluster: MakeCluster, copy: str) -> None:
    cluster = make_cluster(members=1, blanks=1, extra_conf={"timezone": _ZONE, "datestyle": "iso, dmy"})
    n1, n2 = cluster.nodes
    with n1.connect() as connection:
        connection.execute(_COMPUTED)
        generates = bool(connection.execute("SELECT spock.spock_version_num() >= 60000").fetchall()[0][0])
        if generates:
            connection.execute("ALTER TABLE indexed ADD day date GENERATED ALWAYS AS (day_of(at)) STORED")
        connection.execute(f"INSERT INTO indexed (id, at) {_HOURS}".encode())
        connection.execute(
            f"INSERT INTO checked SELECT i, at, at::date, to_char(at, 'DD/MM/YYYY') FROM ({_HOURS}) AS h".encode()
        )
        connection.execute(f"INSERT INTO parted {_HOURS}".encode())
        connection.execute(
            "CREATE MATERIALIZED VIEW days AS SELECT day_of(at) AS day, count(*) FROM indexed GROUP BY 1"
        )
    add_to_sets(n1, {"indexed": "default", "checked": "default", "parted": "default_insert_only"})
    add_node(cluster, "n1", "n2", copy=copy)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, ["indexed", "checked", "parted_1", "parted_2"])
    assert n2.execute(_DAYS) == n1.execute(_DAYS) == [("2026-01-01", 24), ("2026-01-02", 24)]
    with n2.connect() as connection:
        connection.execute("SET enable_seqscan = off")
        assert connection.execute("SELECT count(*) FROM indexed WHERE day_of(at) = '2026-01-02'").fetchall() == [(24,)]
    assert not exceptions(cluster.members)
