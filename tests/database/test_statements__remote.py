"""Every statement that reaches out or tries something does what it says, alone on one server, and leaves nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support.objects import everything_in
from support.programs import left_by_programs
from support.secrets import PASSWORD
from support.statements import ODD, forgotten, run, value
from zodan_sql.sandbox import Node, os_user

_ODD = sql.Identifier(ODD).as_string()
_SOURCE = "source " + ODD


def test_every_statement_is_run_here() -> None:
    # The copy's own are with those of the copy.
    copies = Path(__file__).with_name("test_statements__copy.py")
    assert forgotten("remote", __file__, str(copies)) == set()


def outcome(
    zodan: psycopg.Connection[Any],
    on: psycopg.Connection[Any],
    name: str,
    dsns: dict[str, str] | None = None,
    **texts: str,
) -> Any:
    """Run a statement that ends with an error, and return the object that this carries; nothing else is left of it."""
    before = everything_in(on)
    with pytest.raises(psycopg.Error) as raised:
        run(zodan, name, on=on, dsns=dsns, **texts)
    assert raised.value.sqlstate == "ZD000", raised.value
    assert everything_in(on) == before
    return json.loads(str(raised.value.diag.message_detail))


# --- roles


_ROLE, _GROUP, _PLAIN = "role " + ODD, "group " + ODD, "plain_role"
_ROLES = [sql.Identifier(name).as_string() for name in (_ROLE, _GROUP, _PLAIN)]

_CATALOGS = {
    "roles": "SELECT to_jsonb(a) - 'oid' FROM pg_authid AS a WHERE rolname !~ '^pg_'",
    "settings": "SELECT jsonb_build_array(setrole::regrole::text, datname, setconfig) FROM pg_db_role_setting"
    " LEFT JOIN pg_database AS d ON d.oid = setdatabase WHERE setrole <> 0",
    "memberships": "SELECT (to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])"
    " || jsonb_build_object('of', roleid::regrole::text, 'who', member::regrole::text) FROM pg_auth_members AS m"
    " WHERE member >= 16384",
    "parameters": "SELECT jsonb_build_array(parname, grantee::regrole::text, privilege_type, is_grantable)"
    " FROM pg_parameter_acl CROSS JOIN aclexplode(paracl) WHERE grantee >= 16384",
}


def roles_in(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return everything about the roles of a server that a copy of them brings."""
    return {
        name: value(connection, f"SELECT jsonb_agg(t.item ORDER BY t.item) FROM ({query}) AS t(item)")
        for name, query in _CATALOGS.items()
    }


@pytest.fixture
def roles(database: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """Make roles with all that a role can have; return a connection to the database that some settings are for."""
    role, group, plain = _ROLES
    dbname = sql.Identifier(database.info.dbname).as_string()
    for statement in (
        f"CREATE ROLE {role} SUPERUSER CREATEDB CREATEROLE LOGIN REPLICATION BYPASSRLS NOINHERIT CONNECTION LIMIT 7"
        " PASSWORD 'it''s $do$ {dsn:n1}' VALID UNTIL '2030-03-02 01:00'",
        f"CREATE ROLE {group} VALID UNTIL 'infinity'",
        f"CREATE ROLE {plain} LOGIN",
        f"""ALTER ROLE {role} SET search_path = {_ODD}, "$user", public, "A,b", ''""",
        f"ALTER ROLE {role} SET work_mem = '5MB'",
        f'ALTER ROLE {role} SET "my.setting" = $v${ODD}$v$',
        f"ALTER ROLE {role} IN DATABASE {dbname} SET datestyle = 'SQL, DMY'",
        f"ALTER ROLE {plain} SET search_path = ''",
        f"ALTER ROLE {plain} IN DATABASE {dbname} SET session_preload_libraries = ''",
        f"GRANT {group} TO {role} WITH ADMIN OPTION",
        f"GRANT {role} TO {plain}",
        f"GRANT pg_monitor TO {plain}",
        f"GRANT SET ON PARAMETER log_min_messages TO {group}",
        f'GRANT SET, ALTER SYSTEM ON PARAMETER "my.setting" TO {role} WITH GRANT OPTION',
    ):
        database.execute(statement.encode())
    yield database
    database.rollback()
    drop_roles(database)


def drop_roles(connection: psycopg.Connection[Any]) -> None:
    """Drop them, with the rights that they have on parameters."""
    role, group, _ = _ROLES
    for statement in (
        f"REVOKE ALL ON PARAMETER log_min_messages FROM {group}",
        f'REVOKE ALL ON PARAMETER "my.setting" FROM {role}',
        f"DROP ROLE {', '.join(_ROLES)}",
    ):
        connection.execute(statement.encode())


@contextmanager
def without(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Drop the roles in a transaction, so that to any other session they are still there: that one is the source."""
    with connection.transaction(force_rollback=True):
        drop_roles(connection)
        yield


@pytest.mark.parametrize("with_dblink", [True, False])
def test_missing_roles_come_with_all_that_they_have(
    zodan: psycopg.Connection[Any], roles: psycopg.Connection[Any], server: Node, with_dblink: bool
) -> None:
    dsns = {_SOURCE: server.dsn(dbname=roles.info.dbname)}
    if not with_dblink:
        roles.execute("DROP EXTENSION dblink")
    is_there = roles_in(roles)
    before = everything_in(roles)
    with without(roles):
        assert roles_in(roles) != is_there
        for _ in range(2):
            run(zodan, "copy_roles", on=roles, dsns=dsns, source=_SOURCE)
            assert roles_in(roles) == is_there
        assert everything_in(roles) == before


def test_a_role_that_is_there_is_left_as_it_is(
    zodan: psycopg.Connection[Any], roles: psycopg.Connection[Any], server: Node
) -> None:
    dsns = {_SOURCE: server.dsn(dbname=roles.info.dbname)}
    with roles.transaction(force_rollback=True):
        roles.execute(f"ALTER ROLE {_ROLES[0]} NOSUPERUSER PASSWORD 'another'".encode())
        roles.execute(f"REVOKE {_ROLES[0]} FROM {_ROLES[2]}".encode())
        changed = roles_in(roles)
        run(zodan, "copy_roles", on=roles, dsns=dsns, source=_SOURCE)
        assert roles_in(roles) == changed


@pytest.mark.parametrize("style", ["SQL, DMY", "German", "Postgres, DMY"])
def test_the_end_of_a_password_does_not_hang_on_how_the_source_writes_dates(
    zodan: psycopg.Connection[Any], roles: psycopg.Connection[Any], server: Node, style: str
) -> None:
    dbname = sql.Identifier(roles.info.dbname).as_string()
    roles.execute(f"ALTER DATABASE {dbname} SET datestyle = '{style}'".encode())
    roles.execute(f"ALTER DATABASE {dbname} SET timezone = 'Asia/Kolkata'".encode())
    is_there = roles_in(roles)
    with without(roles):
        run(zodan, "copy_roles", on=roles, dsns={_SOURCE: server.dsn(dbname=roles.info.dbname)}, source=_SOURCE)
        assert roles_in(roles) == is_there


def test_a_list_that_was_emptied_comes_as_one(
    zodan: psycopg.Connection[Any], roles: psycopg.Connection[Any], server: Node
) -> None:
    roles.execute("SELECT set_config('search_path', '', false)")
    roles.execute(f"ALTER ROLE {_ROLES[1]} SET search_path FROM CURRENT".encode())
    query = "SELECT setconfig FROM pg_catalog.pg_db_role_setting WHERE setrole = %s::regrole"
    assert value(roles, query, _ROLES[1]) == ["search_path="]
    with without(roles):
        run(zodan, "copy_roles", on=roles, dsns={_SOURCE: server.dsn(dbname=roles.info.dbname)}, source=_SOURCE)
        assert value(roles, query, _ROLES[1]) in (["search_path="], ['search_path=""'])


# --- reaching other nodes


def targets(zodan: psycopg.Connection[Any], of: dict[str, str | None]) -> str:
    """Write the targets of a probe as zodan.probe_pairs does: each node with who it should be."""
    pieces = [
        value(
            zodan,
            "SELECT format('%%s, jsonb_build_object(''dsn'', %%s, ''who'', %%s)', zodan.quote_text(%s),"
            " zodan.placeholder('dsn', %s), zodan.quote_text(%s))",
            *(node, node, who),
        )
        for node, who in of.items()
    ]
    return f"jsonb_build_object({', '.join(pieces)})"


@pytest.mark.parametrize("with_dblink", [True, False])
def test_a_probe_tells_who_is_reached_and_how(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], server: Node, with_dblink: bool
) -> None:
    if not with_dblink:
        database.execute("DROP EXTENSION dblink")
    here = server.dsn(dbname=database.info.dbname)
    who = run(zodan, "server_facts", on=database)["facts"]["who"]
    dsns = {
        "n1": here,
        ODD: here,
        "unknown": here,
        "other": server.dsn(dbname="postgres"),
        "wrong": f"host=127.0.0.1 port={server.port} dbname=postgres user=plain password=wrong",
        "nowhere": server.dsn(dbname="not_there"),
    }
    known = dict.fromkeys(dsns, who) | {"unknown": None}
    database.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    dsns["plain"] = f"host=127.0.0.1 port={server.port} dbname={database.info.dbname} user=plain password=plain"
    known["plain"] = None
    faults = outcome(zodan, database, "probe", dsns, targets=targets(zodan, known))
    database.execute("DROP ROLE plain")
    assert set(faults) == set(dsns)
    fine = {"connection": None, "replication": None}
    assert faults["n1"] == faults[ODD] == fine | {"identity": None}
    assert faults["unknown"] == fine
    assert (
        faults["other"].pop("identity").startswith('another one: database "postgres" of the server at 127.0.0.1, port ')
    )
    assert faults["other"] == fine
    assert list(faults["wrong"]) == ["connection"] == list(faults["nowhere"])
    assert "password authentication failed" in faults["wrong"]["connection"]
    assert '"not_there" does not exist' in faults["nowhere"]["connection"]
    assert faults["plain"]["connection"] is None
    assert "replication" in faults["plain"]["replication"].lower()


def test_a_probe_of_no_one_is_empty(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> None:
    assert outcome(zodan, database, "probe", targets="'{}'") == {}


# --- foreign keys


@pytest.fixture
def referring(database: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Return a database with a table that refers to another one, of odd names, and rows in both."""
    for statement in (
        f"CREATE SCHEMA {_ODD}",
        f"CREATE TABLE {_ODD}.{_ODD} ({_ODD} int, second int, PRIMARY KEY ({_ODD}, second))",
        f"CREATE TABLE public.refers (id int, {_ODD} int, other int,"
        f" CONSTRAINT {_ODD} FOREIGN KEY ({_ODD}, other) REFERENCES {_ODD}.{_ODD})",
        f"INSERT INTO {_ODD}.{_ODD} VALUES (1, 1), (2, 2)",
        "INSERT INTO public.refers VALUES (1, 1, 1), (2, 2, 2), (3, NULL, 7)",
    ):
        database.execute(statement.encode())
    return database


_REFERRED = f"{_ODD}.{_ODD}"
_NOTHING: dict[str, Any] = {"broken": [], "unread": [], "violated": [], "unchecked": [], "extension_rows": {}}


def tried(
    zodan: psycopg.Connection[Any],
    on: psycopg.Connection[Any],
    filters: dict[str, str | None],
    references: list[Any] | None = None,
    unvalidated: list[Any] | None = None,
) -> Any:
    """Return what is found on the source, if these tables are published with these filters."""
    on.execute("SET search_path = pg_catalog")
    given = {"filters": filters, "references": references or [], "unvalidated": unvalidated or []}
    texts = {name: json.dumps(value) for name, value in given.items()}
    answer = outcome(zodan, on, "try_references", **texts)
    on.execute("RESET search_path")
    return answer


def structure_of(zodan: psycopg.Connection[Any], on: psycopg.Connection[Any]) -> Any:
    """Return what a session of Zodan reads of a structure."""
    on.execute("SET search_path = pg_catalog")
    facts = run(zodan, "structure_facts", on=on, objects="[]")["facts"]
    on.execute("RESET search_path")
    return facts


def tried_all(zodan: psycopg.Connection[Any], on: psycopg.Connection[Any], *tables: str) -> Any:
    """Return what is found of all keys and constraints, if these tables are published."""
    facts = structure_of(zodan, on)
    return tried(zodan, on, dict.fromkeys(tables), facts["references"], facts["unvalidated"])


@pytest.mark.parametrize(
    ("filters", "broken"),
    [
        ({"public.refers": None, _REFERRED: None}, False),
        ({_REFERRED: None}, False),
        ({}, False),
        ({"public.refers": None}, True),
        ({"public.refers": "id = 3"}, False),
        ({"public.refers": "id = 2"}, True),
        ({"public.refers": None, _REFERRED: "second = 1"}, True),
        ({"public.refers": "id <> 2", _REFERRED: "second = 1"}, False),
        ({"public.refers": None, _REFERRED: f"{_ODD} < 7"}, False),
    ],
)
def test_a_foreign_key_that_would_not_hold_is_found(
    zodan: psycopg.Connection[Any], referring: psycopg.Connection[Any], filters: dict[str, str | None], broken: bool
) -> None:
    facts = run(zodan, "structure_facts", on=referring, objects="[]")["facts"]
    answer = tried(zodan, referring, filters, references=facts["references"])
    assert answer == _NOTHING | {"broken": [f"{ODD} on public.refers, to {_REFERRED}"] if broken else []}


def test_a_large_table_is_not_read(zodan: psycopg.Connection[Any], referring: psycopg.Connection[Any]) -> None:
    facts = run(zodan, "structure_facts", on=referring, objects="[]")["facts"]
    (reference,) = facts["references"]
    answer = tried(zodan, referring, {"public.refers": None}, references=[reference | {"rows": 10**9}])
    assert answer == _NOTHING | {"unread": [f"{ODD} on public.refers"]}


#: What a key may be made of: what to run first, the type that is referred to, the one that refers, and two values that
#: are equal to the key although they are not the same.
_EQUAL = {
    "citext": ("CREATE EXTENSION citext SCHEMA public", "public.citext", "public.citext", "Abc", "aBC"),
    "a domain of it": (
        "CREATE EXTENSION citext SCHEMA public; CREATE DOMAIN public.word AS public.citext",
        *("public.word", "public.citext", "Abc", "aBC"),
    ),
    "ltree": ("CREATE EXTENSION ltree SCHEMA public", "public.ltree", "public.ltree", "a.b", "a.b"),
    "isn": ("CREATE EXTENSION isn SCHEMA public", "public.isbn13", "public.isbn", "978-0-393-04002-9", "0-393-04002-X"),
    "two collations": ("SELECT 1", 'text COLLATE "C"', 'text COLLATE "POSIX"', "a", "a"),
    "case does not count": (
        "CREATE COLLATION public.nocase (PROVIDER = icu, LOCALE = 'und-u-ks-level2', DETERMINISTIC = false)",
        *("text COLLATE public.nocase", "text COLLATE public.nocase", "Abc", "aBC"),
    ),
    "name and text": ("SELECT 1", "name", "text", "a", "a"),
    "bpchar": ("SELECT 1", "char(3)", "char(5)", "a", "a"),
    "two numbers": ("SELECT 1", "int8", "int2", "7", "7"),
    "arrays": ("SELECT 1", "int[]", "int[]", "{7}", "{7}"),
    "enum": ("CREATE TYPE public.mood AS ENUM ('good', 'bad')", "public.mood", "public.mood", "bad", "bad"),
}


@pytest.mark.parametrize("kind", _EQUAL)
def test_a_key_is_compared_as_the_key_does(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], kind: str
) -> None:
    first, referred, refers, there, here = _EQUAL[kind]
    database.execute(
        f"{first}; CREATE TABLE public.ref (k {referred} PRIMARY KEY); INSERT INTO public.ref VALUES ('{there}');"
        f" CREATE TABLE public.fact (k {refers} CONSTRAINT fact_k REFERENCES public.ref);"
        f" INSERT INTO public.fact VALUES ('{here}')".encode()
    )
    assert tried_all(zodan, database, "public.ref", "public.fact") == _NOTHING
    database.execute("SET session_replication_role = replica; DELETE FROM public.ref")
    broken = {"broken": ["fact_k on public.fact, to public.ref"]}
    assert tried_all(zodan, database, "public.ref", "public.fact") == _NOTHING | broken


def test_a_key_with_a_period_is_in_the_sum_of_several_rows(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    if database.info.server_version < 180000:
        pytest.skip("keys have a PERIOD from PostgreSQL 18 on")
    database.execute(
        "CREATE TABLE ref (id int4range, r int4range, PRIMARY KEY (id, r WITHOUT OVERLAPS));"
        " INSERT INTO ref VALUES ('[1,2)', '[1,5)'), ('[1,2)', '[5,9)');"
        " CREATE TABLE fact (id int4range, r int4range,"
        " CONSTRAINT fact_r FOREIGN KEY (id, PERIOD r) REFERENCES ref (id, PERIOD r));"
        " INSERT INTO fact VALUES ('[1,2)', '[3,7)')"
    )
    assert tried_all(zodan, database, "public.ref", "public.fact") == _NOTHING
    database.execute("SET session_replication_role = replica; DELETE FROM ref WHERE r = '[5,9)'")
    broken = _NOTHING | {"broken": ["fact_r on public.fact, to public.ref"]}
    assert tried_all(zodan, database, "public.ref", "public.fact") == broken
    assert tried_all(zodan, database, "public.fact") == broken


def test_rows_of_tables_that_inherit_are_no_concern_of_a_key(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    database.execute(
        "CREATE TABLE ref (k int PRIMARY KEY); CREATE TABLE fact (k int CONSTRAINT fact_k REFERENCES ref);"
        " CREATE TABLE heir () INHERITS (fact); INSERT INTO heir VALUES (7)"
    )
    assert tried_all(zodan, database, "public.ref", "public.fact") == _NOTHING


def test_a_key_that_cannot_be_read_is_named_with_its_cause(
    zodan: psycopg.Connection[Any], referring: psycopg.Connection[Any]
) -> None:
    facts = run(zodan, "structure_facts", on=referring, objects="[]")["facts"]
    (reference,) = facts["references"]
    references = [reference | {"name": "odd", "given": "1 / 0 = 1", "rows": 0}, reference]
    assert tried(zodan, referring, {"public.refers": None}, references) == _NOTHING | {
        "broken": [f"{ODD} on public.refers, to {_REFERRED}"],
        "unread": ["odd on public.refers: division by zero"],
    }


# --- constraints that are NOT VALID

#: A constraint: the table that rows are written to before it is there, and it.
_UNVALIDATED = {
    "CHECK": ("id int, v int", "ALTER TABLE t ADD CONSTRAINT c CHECK (v <> 7) NOT VALID"),
    "a function": (
        "id int, v int",
        "CREATE FUNCTION fits(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 <> 7';"
        " ALTER TABLE t ADD CONSTRAINT c CHECK (fits(v)) NOT VALID",
    ),
    "a domain": ("id int, v public.d", "ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE <> 7) NOT VALID"),
    "a domain of it": ("id int, v public.e", "ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE <> 7) NOT VALID"),
    "an array of it": ("id int, v public.d[]", "ALTER DOMAIN d ADD CONSTRAINT c CHECK (VALUE <> 7) NOT VALID"),
    "NOT NULL": ("id int, v int", "ALTER TABLE t ADD CONSTRAINT c NOT NULL v NOT VALID"),
}


@pytest.mark.parametrize("kind", _UNVALIDATED)
def test_old_rows_that_violate_a_constraint_are_found(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], kind: str
) -> None:
    if kind == "NOT NULL" and database.info.server_version < 180000:
        pytest.skip("NOT NULL is NOT VALID from PostgreSQL 18 on")
    columns, constraint = _UNVALIDATED[kind]
    database.execute(f"CREATE DOMAIN d AS int; CREATE DOMAIN e AS public.d; CREATE TABLE t ({columns})".encode())
    old, new = {"an array of it": ("{7}", "{8}"), "NOT NULL": (None, "7")}.get(kind, ("7", "8"))
    database.execute("INSERT INTO t VALUES (1, %s), (2, %s)", [old, new])
    database.execute(constraint.encode())
    violated = {"violated": ["c on public.t"]}
    assert tried_all(zodan, database, "public.t") == _NOTHING | violated
    assert tried_all(zodan, database) == _NOTHING
    facts = structure_of(zodan, database)["unvalidated"]
    assert tried(zodan, database, {"public.t": "id = 1"}, unvalidated=facts) == _NOTHING | violated
    assert tried(zodan, database, {"public.t": "id = 2"}, unvalidated=facts) == _NOTHING
    large = [fact | {"rows": 10**9} for fact in facts]
    unchecked = {"unchecked": ["c on public.t"]}
    assert tried(zodan, database, {"public.t": None}, unvalidated=large) == _NOTHING | unchecked
    database.execute("DELETE FROM t WHERE id = 1")
    assert tried_all(zodan, database, "public.t") == _NOTHING


def test_partitions_and_what_inherits_have_constraints_of_their_own(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    database.execute(
        "CREATE TABLE p (id int, v int) PARTITION BY RANGE (id);"
        " CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); INSERT INTO p VALUES (1, 7);"
        " ALTER TABLE p ADD CONSTRAINT c CHECK (v <> 7) NOT VALID;"
        " CREATE TABLE t (id int, v int); CREATE TABLE heir () INHERITS (t); INSERT INTO heir VALUES (1, 7);"
        " ALTER TABLE t ADD CONSTRAINT d CHECK (v <> 7) NOT VALID"
    )
    assert tried_all(zodan, database, "public.p", "public.p1")["violated"] == ["c on public.p"]
    assert tried_all(zodan, database, "public.t")["violated"] == []
    assert tried_all(zodan, database, "public.t", "public.heir")["violated"] == ["d on public.heir"]


def test_a_constraint_that_cannot_be_read_is_named_with_its_cause(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    database.execute(
        "CREATE TABLE t (v int); INSERT INTO t VALUES (0); ALTER TABLE t ADD CONSTRAINT c CHECK (1 / v = 1) NOT VALID"
    )
    unchecked = {"unchecked": ["c on public.t: division by zero"]}
    assert tried_all(zodan, database, "public.t") == _NOTHING | unchecked


# --- structure


def test_a_structure_that_can_be_made_leaves_no_trace(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]
) -> None:
    extensions = {
        "hstore": {"schema": ODD, "made": True, "used": True},
        "citext": {"schema": "public", "made": False, "used": False},
        "earthdistance": {"schema": "public", "made": False, "used": False},
        "dblink": {"schema": "not there", "made": False, "used": False},
    }
    for _ in range(2):
        answer = outcome(zodan, database, "try_structure", extensions=json.dumps(extensions))
        assert answer.pop("extension_rows") == {}
        assert answer == {"objects": None, "extensions": {}}
    assert value(database, "SELECT to_regnamespace(%s)", _ODD) is None


def test_what_a_copy_would_fail_at_is_told(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any]) -> None:
    database.execute(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF tg_tag = ''CREATE VIEW'' THEN RAISE EXCEPTION ''no views here''; END IF; END'"
    )
    database.execute(f"CREATE EVENT TRIGGER {_ODD} ON ddl_command_start EXECUTE FUNCTION forbid()".encode())
    database.execute(f"CREATE TABLE public.{_ODD} AS SELECT 1".encode())
    database.execute(f"ALTER EXTENSION dblink ADD TABLE public.{_ODD}".encode())
    extensions = {
        ODD: {"schema": "public", "made": False, "used": False},
        "hstore": {"schema": "x" + ODD, "made": False, "used": False},
        "citext": {"schema": ODD, "made": True, "used": False},
    }
    answer = outcome(zodan, database, "try_structure", extensions=json.dumps(extensions))
    assert answer["objects"] == "no views here"
    assert set(answer["extensions"]) == {ODD, "hstore"}
    assert answer["extensions"]["hstore"] == f'schema "x{ODD}" does not exist'
    assert answer["extension_rows"][f"public.{_ODD}"].startswith("1 ")


# --- psql


def test_psql_is_tried(zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], server: Node) -> None:
    def tried(dsn: str) -> Any:
        return outcome(zodan, database, "try_psql", dsns={ODD: dsn}, source=ODD)["fault"]

    assert tried(server.dsn()) is None
    assert "refused" in tried(server.dsn().replace(f"port={server.port}", "port=1"))
    said = tried(server.dsn(password=False) + " passfile=/dev/null")
    assert "password" in said
    # It asks nobody for it.
    assert "Password for user" not in said
    # A file has one password on each line.
    assert "line break" in tried(server.dsn(password=False) + " password='of\ntwo lines'")
    # To libpq, an empty password is none.
    file = server.folder / "passwords"
    file.write_text("*:*:*:*:" + re.sub(r"([\\:])", r"\\\1", PASSWORD))
    file.chmod(0o600)
    os_user.give(file)
    assert tried(f"{server.dsn(password=False)} passfile='{file}' password=''") is None
    # The command line of a program is seen by all.
    assert "sslpassword" in tried(server.dsn() + " sslpassword=secret")
    assert left_by_programs(database) == []


def test_a_psql_that_prints_more_than_rows_is_found(
    zodan: psycopg.Connection[Any], database: psycopg.Connection[Any], server: Node
) -> None:
    program = Path(value(database, "SELECT setting || '/psql' FROM pg_config() WHERE name = 'BINDIR'"))
    if not program.is_relative_to(server.folder.parent):
        pytest.skip("the server has no folder of programs to itself")
    real = program.readlink()
    program.unlink()
    program.write_text(f"#!/bin/sh\necho welcome\nexec '{real}' \"$@\"\n")
    program.chmod(0o755)
    fault = outcome(zodan, database, "try_psql", dsns={ODD: server.dsn()}, source=ODD)["fault"]
    program.unlink()
    program.symlink_to(real)
    assert str(fault).startswith("psql writes something other than the rows")
    assert left_by_programs(database) == []


# --- levelling


def test_levelling_finds_nobody_further(zodan: psycopg.Connection[Any], server: Node) -> None:
    dbname = "level_alone"
    with server.connect(dbname="postgres") as admin:
        admin.execute(f"CREATE DATABASE {dbname}".encode())
    with server.connect(dbname=dbname) as alone:
        alone.execute("CREATE EXTENSION spock CASCADE")
        alone.execute("SELECT spock.node_create(%s, %s)", [ODD, server.dsn(dbname=dbname)])
        given: dict[str, Any] = {"target": "dead " + ODD, "members": [ODD], "sets": [ODD]}
        given |= {"accept": "false", "session": "SELECT 1::text"}
        for _ in range(2):
            run(zodan, "open_level", on=alone, **given)
            seen = json.loads(run(zodan, "level_rows", on=alone)["p_seen"])
            assert (seen["ok"], seen["furthest"]) == (True, ODD)
        # Another member that Spock's catalog does not know cannot be asked.
        run(zodan, "open_level", on=alone, **(given | {"members": [ODD, "other " + ODD]}))
        with pytest.raises(psycopg.Error) as unknown:
            run(zodan, "level_rows", on=alone)
        assert unknown.value.sqlstate == "ZD202"
        alone.execute("SELECT spock.node_drop(%s)", [ODD])
