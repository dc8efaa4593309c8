"""A template as a contents page has it: the file is plain SQL, and what must never be forgotten is added here.

The file of a routine, a row type or a table is its doc comment and its CREATE. Added are OR REPLACE where a script may
be loaded twice, the COMMENT, the REVOKE, the doc comment again inside a PL/pgSQL body (psql shows that with the body),
and for types and tables what brings an earlier version's up to date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_FILE = re.compile(
    r"/\* (?P<doc>.*?) \*/\n(?P<create>CREATE (?P<kind>FUNCTION|PROCEDURE|TYPE|TABLE) (?P<name>\w+\.\w+).*)", re.DOTALL
)
_COLUMNS = re.compile(r"(?: AS)? \((?P<columns>.*)\);\n", re.DOTALL)
_BODY = "AS $zodan$\n"

#: Renders the template that brings an earlier version's "type" or "table" up to date, from its name and its columns.
Upgrade = Callable[[str, str, str], str]


class DeclarationError(Exception):
    """A file is not a doc comment and a CREATE."""


@dataclass(frozen=True)
class Declaration:
    """What a file declares. ``create`` is its statement as written."""

    kind: str
    name: str
    doc: str
    create: str

    @property
    def columns(self) -> str:
        """Return the columns of a type or a table as written, without the parentheses around them."""
        found = _COLUMNS.fullmatch(self.create.partition(self.name)[2])
        if found is None:
            raise DeclarationError(f"{self.name} has no list of columns")
        return found["columns"].strip()


def read(text: str) -> Declaration:
    """Take a file apart. Raises DeclarationError for one that is not a doc comment and a CREATE."""
    found = _FILE.fullmatch(text)
    if found is None:
        raise DeclarationError(
            "must be a doc comment /* ... */ and a CREATE FUNCTION, PROCEDURE, TYPE or TABLE schema.name"
        )
    return Declaration(found["kind"], found["name"], found["doc"], found["create"])


def write(declaration: Declaration, *, replace: bool, upgrade: Upgrade) -> str:
    """Return the SQL of a declaration; ``replace``: it may be there already, perhaps from an earlier version."""
    kind, name = declaration.kind, declaration.name
    create = declaration.create
    comment = f"COMMENT ON {kind} {name} IS\n'{_quoted(declaration.doc)}';\n"
    if kind == "TYPE":
        return (upgrade("type", name, declaration.columns) if replace else create) + comment
    if kind == "TABLE":
        if replace:
            create = create.replace("TABLE ", "TABLE IF NOT EXISTS ", 1) + upgrade("table", name, declaration.columns)
        return create + comment + f"REVOKE ALL ON TABLE {name} FROM PUBLIC;\n"
    if replace:
        create = create.replace("CREATE ", "CREATE OR REPLACE ", 1)
    head, body_begins, body = create.partition(_BODY)
    if not body_begins:
        raise DeclarationError(f"the body of {name} must begin with {_BODY.strip()}")
    if "\nLANGUAGE plpgsql" in head:
        body = f"/* {declaration.doc} */\n{body}"
    return f"{head}{body_begins}{body}{comment}REVOKE ALL ON {kind} {name} FROM PUBLIC;\n"


def _quoted(text: str) -> str:
    return text.replace("'", "''")
