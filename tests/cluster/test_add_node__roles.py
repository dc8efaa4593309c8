"""roles => true: roles arrive as they are on the source, settings, memberships and rights included."""

from __future__ import annotations

from typing import Any

import psycopg

from support.calls import add_node, load_zodan
from support.clusters import MakeCluster
from support.objects import at
from support.tables import create_tables, wait_level
from zodan_sql.sandbox import Node

_ROLES = """
CREATE ROLE app LOGIN PASSWORD 'a secret of app';
CREATE ROLE "Odd, one" NOLOGIN;
CREATE ROLE readers;
GRANT readers TO app WITH ADMIN OPTION;
GRANT "Odd, one" TO readers;
ALTER ROLE app SET search_path = "$user", sales, "a ""quoted"" one", public;
ALTER ROLE app SET session_preload_libraries = 'auto_explain', 'plpgsql';
ALTER ROLE app SET temp_tablespaces = '';
ALTER ROLE app SET DateStyle = 'SQL, DMY';
ALTER ROLE app SET work_mem = '5MB';
ALTER ROLE app SET app.motto = 'one, "two", it''s three';
ALTER ROLE app IN DATABASE app SET search_path = sales, public;
ALTER ROLE "Odd, one" SET statement_timeout = '7s';
GRANT SET ON PARAMETER log_statement TO app;
GRANT ALTER SYSTEM ON PARAMETER work_mem TO readers WITH GRANT OPTION;
GRANT SELECT ON app_keyed TO app
"""
#: From PostgreSQL 16 on.
_OPTIONS = """
CREATE ROLE member LOGIN;
GRANT app TO member WITH INHERIT FALSE, SET FALSE;
GRANT readers TO member WITH INHERIT TRUE, SET FALSE, ADMIN TRUE
"""
_LOOK = """
SELECT 'setting', coalesce(r.rolname, ''), coalesce(d.datname, ''), s.setconfig::text
  FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
UNION ALL
SELECT 'member', m.roleid::regrole::text, m.member::regrole::text,
       (to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])::text
  FROM pg_auth_members m WHERE m.roleid >= 16384
UNION ALL
SELECT 'parameter', p.parname, x.grantee::regrole::text, x.privilege_type || x.is_grantable
  FROM pg_parameter_acl p, aclexplode(p.paracl) x
UNION ALL
SELECT 'password', rolname, '', rolpassword FROM pg_authid WHERE rolname IN ('app', 'readers', 'Odd, one')
 ORDER BY 1, 2, 3, 4
"""


def roles_of(node: Node) -> list[tuple[Any, ...]]:
    return node.execute(_LOOK)


def test_roles_arrive_as_they_are(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    create_tables(cluster)
    statements = _ROLES.strip().split(";\n")
    if int(n1.execute("SHOW server_version_num")[0][0]) >= 160000:
        statements += _OPTIONS.strip().split(";\n")
    for node in (n1, n2):
        at(node, *statements)
    wait_level(cluster.members)
    add_node(cluster, "n1", "n3", roles=True)
    assert roles_of(n3) == roles_of(n1)
    # Somebody who could log in on the source can log in here.
    with psycopg.connect(n3.dsn(), user="app", password="a secret of app") as session:
        assert session.execute("SHOW search_path").fetchone() == ("sales, public",)


def test_the_role_that_initdb_made_is_needed_where_it_owns_something(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    load_zodan(n2)
    at(n1, "CREATE ROLE second SUPERUSER LOGIN PASSWORD 'x'", "CREATE TABLE owned (id int PRIMARY KEY)")
    with psycopg.connect(n1.dsn(), user="second", password="x", autocommit=True) as session:
        session.execute("ALTER ROLE dba RENAME TO platform")
        try:
            needed = session.execute("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'owned'").fetchone()
            assert needed == ("platform",)
            rows = n2.execute(
                "SELECT passed, observed FROM zodan.checks('pre', 'n1', %(dsn)s, 'n2', %(new)s) WHERE key = 'roles'",
                {"dsn": psycopg.conninfo.make_conninfo(n1.dsn(), user="second", password="x"), "new": n2.dsn()},
            )
        finally:
            session.execute("ALTER ROLE platform RENAME TO dba")
    assert len(rows) == 1
    assert not rows[0][0]
    assert "platform" in rows[0][1]


def test_settings_of_all_roles_are_named(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=1, blanks=1)
    n1, n2 = cluster.nodes
    load_zodan(n2)
    at(n1, "ALTER ROLE ALL SET log_duration = on")
    rows = n2.execute(
        "SELECT passed, observed FROM zodan.checks('pre', 'n1', %(dsn)s, 'n2', %(new)s)"
        " WHERE key = 'database-settings'",
        {"dsn": n1.dsn(), "new": n2.dsn()},
    )
    assert rows == [(False, "lacks all roles: log_duration=on")]
