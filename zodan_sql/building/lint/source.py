"""Rendered SQL as the rules see it: statements, routines, and every SQL expression within a routine.

libpg_query knows no catalog but pg_catalog and public, so PL/pgSQL is handed to it with the project's own
types standing as types of public; everything a rule looks at is taken from the text as it was written.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pglast
from pglast import ast, enums
from pglast.parser import ParseError

from zodan_sql.building.lint.findings import Finding
from zodan_sql.building.script import without_meta

SYNTAX = "ZL000"

_BLANK = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_OPAQUE = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|(?P<tag>\$\w*\$).*?(?P=tag)", re.DOTALL)
_DECLARE = re.compile(r"\bDECLARE\b(.*?)\bBEGIN\b", re.DOTALL | re.IGNORECASE)
_OWN_ARRAY = re.compile(r"\b(?!pg_catalog\b)\w+\.\w+\s*\[\s*\]")
_OWN_TYPE = re.compile(r"\b(?!pg_catalog\b)\w+\.(?=\w+)")
_DECLARED_TYPE = re.compile(r"((?:^|;)\s*\w+\s+(?:CONSTANT\s+)?)(\w+(?:\.\w+)*(?:%\w+)?(?:\s*\[\s*\])?)", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"^[^=]*?:?=")


@dataclass(frozen=True)
class Text:
    """A text of a file with its lines: where an offset stands."""

    file: str
    content: str

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(found.end() for found in re.finditer("\n", self.content))]

    def line(self, offset: int) -> int:
        """Return the line, from 1, in which the character at ``offset`` stands."""
        return bisect.bisect_right(self._starts, offset)

    def offset(self, line: int) -> int:
        """Return where a line begins."""
        return self._starts[line - 1]


@dataclass(frozen=True)
class Expression:
    """A piece of SQL with its parse tree: a statement, or an expression as the target of a SELECT."""

    line: int
    tree: Any
    #: Where ``tree`` counts its offsets from; None when the text could not be found again.
    source: Text | None = None
    shift: int = 0
    #: Whether it is an argument or an option of RAISE.
    raised: bool = False

    def line_of(self, node: Any) -> int:
        """Return the line a node stands in, as nearly as the parser tells."""
        location = getattr(node, "location", None)
        if self.source is None or not isinstance(location, int) or location < 0:
            return self.line
        return self.source.line(max(0, location + self.shift))


@dataclass
class Routine:
    """A function or procedure as declared in one file."""

    file: str
    schema: str
    name: str
    language: str
    line: int
    end_line: int
    body: str
    body_line: int
    parameters: list[Any]
    returns: Any
    expressions: list[Expression] = field(default_factory=list)
    #: PL/pgSQL only: libpg_query's tree, its nodes as (kind, fields, line).
    nodes: list[tuple[str, dict[str, Any], int]] = field(default_factory=list)
    declared_types: list[tuple[str, int]] = field(default_factory=list)
    comment: str | None = None
    comment_line: int = 0
    revoked: bool = False

    @property
    def full_name(self) -> str:
        """Return schema and name as SQL has them."""
        return f"{self.schema}.{self.name}" if self.schema else self.name


@dataclass
class Block:
    """A DO block of a file."""

    line: int
    end_line: int
    nodes: list[tuple[str, dict[str, Any], int]]


@dataclass
class Source:
    """A rendered file, taken apart."""

    file: str
    routines: list[Routine]
    #: Everything that is not a routine, its COMMENT or its REVOKE; DO blocks by their expressions.
    statements: list[Expression]
    findings: list[Finding]
    #: Of DO blocks, as those of a routine; each with the lines of its block.
    blocks: list[Block] = field(default_factory=list)
    #: The text without what only psql understands, and where each statement of it ends, before the semicolon.
    text: str = ""
    ends: list[int] = field(default_factory=list)


def walk(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield every node of a parse tree with the nodes above it, from the root down."""
    if isinstance(node, tuple | list):
        for each in node:
            yield from walk(each, above)
    elif isinstance(node, ast.Node):
        yield node, above
        for name in node:
            yield from walk(getattr(node, name), (*above, node))


def without_comments(text: str) -> str:
    """Return the text with comments blanked out, lines and offsets kept."""
    return _OPAQUE.sub(lambda found: _blank(found[0]) if found[0][0] in "-/" else found[0], text)


def read(file: str, content: str) -> Source:
    """Take a rendered file apart. What does not parse is a finding, not an exception."""
    text = Text(file, without_meta(content))
    source = Source(file, [], [], [], text=text.content)
    try:
        statements = pglast.parse_sql(text.content)
    except ParseError as error:
        source.findings.append(_syntax(file, text.line(_location(error)), error))
        return source
    for raw in statements:
        start, length = raw.stmt_location or 0, raw.stmt_len or 0
        end = start + length if length else len(text.content)
        source.ends.append(end)
        blank = _BLANK.match(text.content, start)
        _take(source, text, raw.stmt, blank.end() if blank else start, end)
    return source


def _take(source: Source, text: Text, statement: Any, offset: int, end: int) -> None:
    line = text.line(offset)
    if isinstance(statement, ast.CreateFunctionStmt):
        source.routines.append(_routine(source, text, statement, offset, end))
    elif isinstance(statement, ast.CommentStmt) and statement.objtype in _ROUTINE_KINDS:
        for routine in _named(source, [statement.object]):
            routine.comment, routine.comment_line = statement.comment or "", line
    elif isinstance(statement, ast.GrantStmt) and statement.objtype in _ROUTINE_KINDS:
        public = any(role.roletype == enums.RoleSpecType.ROLESPEC_PUBLIC for role in statement.grantees)
        for routine in _named(source, statement.objects):
            routine.revoked |= public and not statement.is_grant
    elif isinstance(statement, ast.DoStmt):
        body, body_offset = _body(text, statement.args, offset)
        expressions, nodes = _read_plpgsql(source, text, body, body_offset, "DO $zodan$", "$zodan$")
        source.statements.extend(expressions)
        source.blocks.append(Block(line, text.line(end), nodes))
    else:
        source.statements.append(Expression(line, statement, text))


def _routine(source: Source, text: Text, statement: Any, offset: int, end: int) -> Routine:
    names = [name.sval for name in statement.funcname]
    options = {option.defname: option.arg for option in statement.options or ()}
    body, body_offset = _body(text, statement.options, offset)
    routine = Routine(
        file=source.file,
        schema=names[0] if len(names) > 1 else "",
        name=names[-1],
        language=options["language"].sval if "language" in options else "sql",
        line=text.line(offset),
        end_line=text.line(end),
        body=body,
        body_line=text.line(body_offset),
        parameters=list(statement.parameters or ()),
        returns=statement.returnType,
    )
    routine.expressions.append(Expression(routine.line, (statement.parameters, statement.returnType), text))
    if routine.language == "plpgsql":
        written_as = next(option.location for option in statement.options if option.defname == "as")
        heading = without_comments(text.content[offset:written_as]).replace("VARIADIC ", "")
        heading = _OWN_TYPE.sub("public.", _OWN_ARRAY.sub("text[]", heading))
        language = "" if "language" in heading.lower() else " LANGUAGE plpgsql"
        expressions, routine.nodes = _read_plpgsql(
            source, text, body, body_offset, f"{heading} AS $zodan$", f"$zodan${language}"
        )
        routine.expressions.extend(expressions)
        routine.declared_types = [(name, routine.body_line + line) for name, line in _declared_types(body)]
    elif statement.sql_body:
        routine.expressions.append(Expression(routine.line, statement.sql_body, text))
    else:
        routine.expressions.extend(_read_sql(source, text, body, body_offset))
    return routine


def _named(source: Source, objects: Any) -> Iterator[Routine]:
    for named in objects:
        names = [name.sval for name in named.objname]
        yield from (each for each in source.routines if each.full_name == ".".join(names))


def _body(text: Text, options: Any, offset: int) -> tuple[str, int]:
    """Return the text of a routine's body and its offset in the file."""
    for option in options or ():
        if option.defname == "as":
            body = option.arg[0].sval if isinstance(option.arg, tuple) else option.arg.sval
            return body, max(text.content.find(body, max(offset, option.location)), offset)
    return "", offset


def _read_sql(source: Source, text: Text, body: str, body_offset: int) -> list[Expression]:
    first = text.line(body_offset)
    try:
        return [Expression(first, raw.stmt, text, body_offset) for raw in pglast.parse_sql(body)]
    except ParseError as error:
        source.findings.append(_syntax(source.file, text.line(body_offset + _location(error)), error))
        return []


def _read_plpgsql(
    source: Source, text: Text, body: str, body_offset: int, heading: str, end: str
) -> tuple[list[Expression], list[tuple[str, dict[str, Any], int]]]:
    """Parse a PL/pgSQL body and every SQL expression in it."""
    first = text.line(body_offset)
    try:
        tree = pglast.parse_plpgsql(f"{heading}{_with_public_types(body)}{end}")
    except ParseError as error:
        source.findings.append(_syntax(source.file, first, error))
        return [], []
    nodes = [(kind, fields, first + line - 1) for kind, fields, line in _nodes(tree, 1)]
    raises = [fields for kind, fields, _ in nodes if kind == "PLpgSQL_stmt_raise"]
    raised = {id(fields) for each in raises for _, fields, _ in _nodes(each, 1)}
    expressions = []
    for kind, fields, line in nodes:
        if kind == "PLpgSQL_expr":
            try:
                expression = _expression(text, body, body_offset, fields, line)
                expressions.append(replace(expression, raised=id(fields) in raised))
            except ParseError as error:
                source.findings.append(_syntax(source.file, line, error))
    return expressions, nodes


def _nodes(tree: Any, line: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Yield (kind, fields, line within the body) of every node; a node without a line has its parent's."""
    if isinstance(tree, list):
        for each in tree:
            yield from _nodes(each, line)
    elif isinstance(tree, dict):
        for kind, fields in tree.items():
            if kind.startswith("PLpgSQL_") and isinstance(fields, dict):
                here = max(fields.get("lineno", line), 1)
                yield kind, fields, here
                yield from _nodes(fields, here)
            elif isinstance(fields, dict | list):
                yield from _nodes(fields, line)


def _expression(text: Text, body: str, body_offset: int, fields: dict[str, Any], line: int) -> Expression:
    query, mode = fields["query"], fields["parseMode"]
    prefix = ""
    if mode == 2:
        prefix = "SELECT "
    elif mode > 2:
        prefix, query = "SELECT ", _ASSIGNMENT.sub("", query, count=1)
    tree = tuple(raw.stmt for raw in pglast.parse_sql(prefix + query))
    # PERFORM is parsed as SELECT, and an INTO clause as blanks: look for the part that stands as written.
    written = query.removeprefix("SELECT").split("   ")[0] if mode == 0 else query
    found = text.content.find(written, text.offset(line), body_offset + len(body))
    if found < 0:
        return Expression(line, tree)
    return Expression(line, tree, text, found - query.find(written) - len(prefix))


def _declared_types(body: str) -> list[tuple[str, int]]:
    """Return the types named in DECLARE sections, with the line each stands in, counted from 0."""
    masked = _OPAQUE.sub(lambda found: _blank(found[0]), body)
    types = []
    for section in _DECLARE.finditer(masked):
        for found in _DECLARED_TYPE.finditer(section[1]):
            types.append((found[2], masked.count("\n", 0, section.start(1) + found.start(2))))
    return [(name, line) for name, line in types if name.lower() not in ("cursor", "alias")]


def _with_public_types(body: str) -> str:
    """Return the body with schema-qualified types in its declarations as types libpg_query accepts."""
    masked = _OPAQUE.sub(lambda found: _blank(found[0]), body)
    pieces, end = [], 0
    for section in _DECLARE.finditer(masked):
        for found in _DECLARED_TYPE.finditer(section[1]):
            start, stop = (section.start(1) + place for place in found.span(2))
            pieces += [body[end:start], _public_type(found[2])]
            end = stop
    return "".join([*pieces, body[end:]])


def _public_type(name: str) -> str:
    if name.lower().endswith("%rowtype"):
        return "record"
    if "." not in name or name.startswith("pg_catalog."):
        return name
    return "text[]" if name.endswith("]") else _OWN_TYPE.sub("public.", name, count=1)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def _location(error: ParseError) -> int:
    return error.args[1] or 0 if len(error.args) > 1 else 0


def _syntax(file: str, line: int, error: ParseError) -> Finding:
    return Finding(file, line, SYNTAX, f"does not parse: {error.args[0]}")


_ROUTINE_KINDS = (
    enums.ObjectType.OBJECT_FUNCTION,
    enums.ObjectType.OBJECT_PROCEDURE,
    enums.ObjectType.OBJECT_ROUTINE,
)
