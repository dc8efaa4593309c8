"""What a node says of the machine that it runs on, where its role may know, and nothing where it may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.statements import run

_ROLE = "machine_reader"
_CALL = f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text, bigint, bigint, boolean) TO {_ROLE}"
_READ = f"GRANT pg_read_server_files TO {_ROLE}"


@pytest.fixture
def role(database: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """Return the connection of a superuser to a database that has a role which is none, and sees Spock's tables."""
    database.execute(f"CREATE ROLE {_ROLE}".encode())
    database.execute(f"GRANT USAGE ON SCHEMA spock TO {_ROLE}".encode())
    database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA spock TO {_ROLE}".encode())
    yield database
    database.execute("RESET ROLE")
    database.execute(f"DROP OWNED BY {_ROLE}".encode())
    database.execute(f"DROP ROLE {_ROLE}".encode())


@pytest.mark.parametrize(("grants", "knows"), [([], False), ([_CALL], False), ([_READ], False), ([_CALL, _READ], True)])
def test_it_is_told_where_the_role_may_know(
    zodan: psycopg.Connection[Any], role: psycopg.Connection[Any], grants: list[str], knows: bool
) -> None:
    for grant in grants:
        role.execute(grant.encode())
    role.execute(f"SET ROLE {_ROLE}".encode())
    machine = run(zodan, "list_replicated", on=role, sets=["default"])["machine"]
    processors = run(zodan, "server_facts", on=role)["facts"]["processors"]
    role.execute("RESET ROLE")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (machine, processors) == ((boot, os.cpu_count()) if knows else (None, None))
