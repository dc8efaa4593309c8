"""A statement for another node: a file of plain SQL with named parameters, and the function that fills them in.

The form of a parameter says what it is, so that quoting is never the caller's business (those of text and names are
psql's own):

=============  ==========================================  ==========
form           what it stands for                          parameter
=============  ==========================================  ==========
``:'name'``    a text, as a literal; NULL stays NULL       text
``:[name]``    a list of texts, as an array of literals    text[]
``:"name"``    an identifier, quoted where it has to be    text
``:{name}``    what an earlier step gave, by placeholder   text
``:{dsn:n}``   the connection string of the node named n   text
``:(name)``    a piece of SQL, written as it is            text
=============  ==========================================  ==========

The function takes them in the order in which they appear, each with the prefix p_, and returns the statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from zodan_sql.building.declaration import Declaration

_FILE = re.compile(r"/\* (?P<doc>.*?) \*/\n(?P<sql>.*?);?\n", re.DOTALL)
_PARAMETER = re.compile(
    r"(?<!:):(?:'(?P<text>\w+)'|\[(?P<list>[a-z]\w*)\]|\"(?P<name>\w+)\"|\{dsn:(?P<dsn>\w+)\}|\{(?P<result>\w+)\}|\((?P<sql>\w+)\))"
)

#: Letters of a list of parameters that stands in one line.
_LONGEST_LIST = 60

#: By form: the type of the parameter, how the function fills it in, and what stands for it where lint reads the file.
_FORMS = {
    "text": ("text", "zodan.quote_text({})", "'{}'"),
    "list": ("text[]", "zodan.quote_list({})", "ARRAY['{}']::text[]"),
    "name": ("text", "zodan.quote_name({})", '"{}"'),
    "result": ("text", "zodan.quote_result({})", "'{}'"),
    "dsn": ("text", "zodan.placeholder('dsn', {})", "'{}'"),
    "sql": ("text", "{}", "(SELECT NULL)"),
}


class StatementError(Exception):
    """A file is not a doc comment and a statement, or its parameters contradict one another."""


@dataclass(frozen=True)
class Statement:
    """A statement as its file has it, without the semicolon. ``places``: what is filled in, name and form, in order."""

    doc: str
    sql: str
    places: list[tuple[str, str]]

    @property
    def parameters(self) -> dict[str, str]:
        """Return the parameters of the function in order: name and type."""
        return {name: _FORMS[form][0] for name, form in self.places}


def read(text: str) -> Statement:
    """Take a file apart. Raises StatementError for one that is not a doc comment and SQL."""
    found = _FILE.fullmatch(text)
    if found is None:
        raise StatementError("must be /* a doc comment */ and a statement")
    places = list(dict.fromkeys(map(_place, _PARAMETER.finditer(found["sql"]))))
    types: dict[str, str] = {}
    for name, form in places:
        if types.setdefault(name, _FORMS[form][0]) != _FORMS[form][0]:
            raise StatementError(f'parameter "{name}" is a text in one place and a list in another')
    return Statement(found["doc"], found["sql"], places)


def declare(name: str, statement: Statement) -> Declaration:
    """Return the declaration of the function ``name`` of schema zodan, which writes the statement."""
    if "$sql$" in statement.sql or "$zodan$" in statement.sql:
        raise StatementError("may not hold $sql$ or $zodan$")
    places = {place: number for number, place in enumerate(statement.places, 1)}
    arguments = [f"p_{name} {kind}" for name, kind in statement.parameters.items()]
    if places:
        pieces, end = [], 0
        for found in _PARAMETER.finditer(statement.sql):
            pieces += [_without_format(statement.sql[end : found.start()]), f"%{places[_place(found)]}$s"]
            end = found.end()
        pieces.append(_without_format(statement.sql[end:]))
        values = [_FORMS[form][1].format(f"p_{name}") for name, form in places]
        body = f"SELECT pg_catalog.format($sql${''.join(pieces)}$sql$,\n    {', '.join(values)})"
    else:
        body = f"SELECT $sql${statement.sql}$sql$"
    listed = ", ".join(arguments)
    if len(listed) > _LONGEST_LIST:
        listed = "\n    " + ",\n    ".join(arguments) + "\n"
    create = (
        f"CREATE FUNCTION zodan.{name}({listed})\nRETURNS text\nLANGUAGE sql IMMUTABLE\nAS $zodan$\n{body}\n$zodan$;\n"
    )
    return Declaration("FUNCTION", f"zodan.{name}", statement.doc, create)


def example(statement: Statement) -> str:
    """Return the SQL with something harmless in the place of each parameter, line by line as it is written."""
    return _PARAMETER.sub(lambda found: _FORMS[_place(found)[1]][2].format(_place(found)[0]), statement.sql)


def _place(found: re.Match[str]) -> tuple[str, str]:
    form = found.lastgroup or ""
    return found[form], form


def _without_format(sql: str) -> str:
    return sql.replace("%", "%%")
