"""What a source may have that a copy of it must keep, or must not: tablespaces, prepared transactions, databases."""

from __future__ import annotations

from pathlib import Path

from support.calls import exceptions
from support.clones import clone, make_place, record_of, take_in
from support.clusters import MakeCluster
from support.objects import at
from support.tables import TABLES, assert_rows_equal, create_tables, fill, wait_level
from support.writers import Writers
from zodan_sql.sandbox.os_user import make_folder

_ROWS = "SELECT count(*), sum(hashtext(t::text)) FROM {} AS t"


def test_what_a_source_may_have(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1, extra_conf={"max_prepared_transactions": "10"})
    n1 = cluster["n1"]
    create_tables(cluster)
    fill(n1, 1000)
    wait_level(cluster.members)
    there, here = (make_folder(cluster.base / name) for name in ("space there", "space here"))
    at(
        n1,
        f"CREATE TABLESPACE fast LOCATION '{there}'",
        "CREATE TABLE local (id int PRIMARY KEY, v text) TABLESPACE fast",
    )
    at(n1, "INSERT INTO local SELECT i, md5(i::text) FROM generate_series(1, 500) AS i", "CREATE DATABASE beside")
    at(n1, "CREATE SEQUENCE loose", "SELECT nextval('loose') FROM generate_series(1, 10)", "CREATE ROLE nobody_else")
    with n1.connect(dbname="beside") as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS a")
    place = make_place(cluster)
    mapping = ["--tablespace-mapping", f"{there}={here}"]
    with Writers(cluster.members) as writers:
        ended = clone(n1, place, *mapping, ZODAN_CLONE_HOOK="slot")
        # The slot waits for what was open when it was made; what is prepared later is in the copy, and undone there.
        assert ended.code == 9, ended.err
        with n1.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO app_keyed VALUES (-100007, 'prepared', 0, 'x')")
            connection.execute("PREPARE TRANSACTION 'one'")
        ended = clone(n1, place, *mapping, ZODAN_CLONE_HOOK="strip")
        assert ended.code == 9, ended.err
        at(n1, "COMMIT PREPARED 'one'")
        # What Spock replicates comes by the stream; what is changed by hand is named at the end.
        at(n1, "SELECT spock.replicate_ddl('ALTER TABLE public.app_keyed ADD COLUMN extra int DEFAULT 7')")
        for node in cluster.members:
            at(node, "CREATE INDEX by_hand ON app_keyed (value)")
        ended = clone(n1, place, *mapping)
        assert ended.code == 3, ended.err
        assert "by_hand" in ended.err
        at(place, "CREATE INDEX by_hand ON app_keyed (value)")
        ended = clone(n1, place, *mapping)
        assert ended.code == 0, ended.err
    assert writers.failures == []
    assert not record_of(place).exists()
    take_in(cluster, place)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert exceptions(cluster.members) == []
    assert place.execute("SELECT count(*) FROM app_keyed WHERE id = -100007") == [(1,)]
    assert place.execute(_ROWS.format("local")) == n1.execute(_ROWS.format("local"))
    assert (
        Path(place.execute("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'")[0][0])
        == here
    )
    assert place.execute("SELECT count(*) FROM pg_prepared_xacts") == [(0,)]
    assert place.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'nobody_else'") == [(1,)]
    with place.connect(dbname="beside") as connection:
        assert connection.execute("SELECT a FROM kept").fetchall() == [(1,)]


def test_a_server_that_others_start(make_cluster: MakeCluster) -> None:
    """The configuration is not in the data directory, and a command of the caller's starts the server."""
    cluster = make_cluster(members=2, blanks=1)
    n1 = cluster["n1"]
    create_tables(cluster)
    fill(n1, 500)
    wait_level(cluster.members)
    place = cluster["n3"]
    outside = make_folder(cluster.base / "etc")
    for name in ("postgresql.conf", "pg_hba.conf"):
        (outside / name).write_text((place.data_dir / name).read_text())
        (outside / name).chmod(0o644)
    with (outside / "postgresql.conf").open("a") as file:
        file.write(f"hba_file = '{outside}/pg_hba.conf'\n")
    make_place(cluster)
    said = cluster.base / "said"
    begin = f"setpriv --reuid=postgres --regid=postgres --init-groups {place.engine.pg_bin}/pg_ctl start -w"
    # What the server says goes where the command's own words go.
    begin += f" -D {place.data_dir} -o '-c config_file={outside}/postgresql.conf'"
    ended = clone(n1, place, "--start-command", "exit 3")
    assert ended.code == 4
    assert "exit 3" in ended.err
    ended = clone(n1, place, "--start-command", begin, "--set", "shared_preload_libraries=nowhere")
    assert ended.code == 4
    assert "nowhere" in ended.err
    ended = clone(n1, place, "--start-command", f"{begin} && touch {said}")
    assert ended.code == 0, ended.err
    assert said.exists()
    take_in(cluster, place)
    wait_level(cluster.members)
    assert_rows_equal(cluster.members, TABLES)
    assert place.execute("SHOW config_file") == [(f"{outside}/postgresql.conf",)]
