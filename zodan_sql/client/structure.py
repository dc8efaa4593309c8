"""Bring the structure of a source to a new node with this machine's pg_dump and pg_restore."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg

from zodan_sql.building import render
from zodan_sql.client.connection import connect, describe
from zodan_sql.client.programs import connect_by
from zodan_sql.client.redaction import Redactor
from zodan_sql.errors import ZodanError, from_database, precondition_error

#: Schemas that every node has by itself.
_OWN_SCHEMAS = ("spock", "pglogical", "zodan")
_SECTIONS = ("--section=pre-data", "--section=post-data")
#: What PostgreSQL itself calls an error, without the program's name and the severity.
_NOISE = re.compile(r"^(?:pg_dump|pg_restore): (?:error: )?", re.MULTILINE)

_VERSION = "SELECT pg_catalog.current_setting('server_version_num')::int / 10000"
_SCHEMAS = "SELECT n.nspname FROM pg_catalog.pg_namespace AS n"
_RELATIONS = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND n.nspname !~ %(own)s
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY 1 LIMIT 1
"""


@dataclass(frozen=True)
class _Program:
    """pg_dump or pg_restore as it is called for one server. No argument holds a secret."""

    path: str
    environment: dict[str, str]
    target: str
    redact: Redactor

    def run(self, *arguments: str, problem: str) -> str:
        """Return what the program prints. Raises ZodanError (ZD200) with its last words, which are the server's."""
        done = subprocess.run(
            [self.path, *arguments], env=self.environment, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            said = self.redact(_NOISE.sub("", done.stderr).strip())
            raise ZodanError(problem, sqlstate="ZD200", detail=said, hint="Fix the cause, then call again.")
        return done.stdout


def bring_structure(src_dsn: str, new_node_dsn: str) -> str:
    """Bring the structure without a row, in one transaction: all of it, or nothing. Return a line that says so.

    Raises ZodanError: ZD001 for a connection string that the programs cannot be given safely, ZD100 if a program is
    missing or older than the source or the new node is not empty, ZD200 with the server's own words if one failed.
    """
    redact = Redactor([src_dsn, new_node_dsn])
    dump = _program("pg_dump", src_dsn, "--src-dsn", redact)
    restore = _program("pg_restore", new_node_dsn, "--new-node-dsn", redact)
    _check_versions(dump, restore, int(str(_read(src_dsn, "--src-dsn", _VERSION)[0])))
    if found := _read(new_node_dsn, "--new-node-dsn", _RELATIONS):
        raise precondition_error(
            f"the new node is not empty: {found[0]}",
            "Join an empty database; or give --structure present if the source's structure is there already.",
        )
    present = [str(name) for name in _read(new_node_dsn, "--new-node-dsn", _SCHEMAS)]
    with tempfile.TemporaryDirectory(prefix="zodan-") as folder:
        archive, contents = str(Path(folder, "structure")), Path(folder, "contents")
        dump.run(
            "--schema-only",
            *_SECTIONS,
            "--format=custom",
            "--no-subscriptions",
            *(f"--exclude-schema={name}" for name in _OWN_SCHEMAS),
            f"--file={archive}",
            f"--dbname={dump.target}",
            problem=f"pg_dump could not read the structure of {describe(src_dsn)}; nothing was changed",
        )
        listed = restore.run("--list", archive, problem="pg_restore could not read what pg_dump wrote")
        contents.write_text("\n".join(wanted(listed.splitlines(), present)) + "\n", encoding="utf-8")
        restore.run(
            "--single-transaction",
            "--exit-on-error",
            f"--use-list={contents}",
            f"--dbname={restore.target}",
            archive,
            problem=f"pg_restore could not make the structure in {describe(new_node_dsn)}; nothing was changed",
        )
    return f"brought the structure to {describe(new_node_dsn)}; it stays there if the join fails or is rolled back"


def has_relations(dsn: str) -> bool:
    """Tell whether a database has a relation of a user. Raises ZodanError."""
    return bool(_read(dsn, "--new-node-dsn", _RELATIONS))


def wanted(contents: Sequence[str], present: Collection[str]) -> list[str]:
    """Return the entries of an archive to restore: no extension that every node has, no schema that is there."""
    own_extensions = render.read_default("own_extensions", list)
    skipped = [
        *(f" EXTENSION - {name} " for name in own_extensions),
        *(f" COMMENT - EXTENSION {name} " for name in own_extensions),
        *(f" SCHEMA - {name} " for name in present),
    ]
    return [line for line in contents if not any(each in f"{line} " for each in skipped)]


def _program(name: str, dsn: str, option: str, redact: Redactor) -> _Program:
    path = shutil.which(name)
    if path is None:
        raise precondition_error(
            f"{name} is not on this machine",
            "Install PostgreSQL's client programs, or add their folder to PATH.",
        )
    target, environment = connect_by(name, dsn, option, "zodan-sql structure")
    return _Program(path, {**environment, "LC_MESSAGES": "C"}, target, redact)


def _check_versions(dump: _Program, restore: _Program, server: int) -> None:
    for program in (dump, restore):
        said = program.run("--version", problem=f"{program.path} does not run")
        found = re.search(r"\) (\d+)", said)
        if found is None or int(found[1]) < server:
            raise precondition_error(
                f"{Path(program.path).name} is {said.strip()}, older than the source's PostgreSQL {server}",
                f"Put the client programs of PostgreSQL {server} or later first in PATH.",
            )


def _read(dsn: str, option: str, query: LiteralString) -> list[object]:
    with connect(dsn, option) as connection:
        try:
            return [row[0] for row in connection.execute(query, {"own": render.read_default("own_schemas", str)})]
        except psycopg.Error as error:
            raise from_database(error) from None
