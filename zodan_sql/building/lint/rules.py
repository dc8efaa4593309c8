"""The house rules, as a table of data: code, name, what it demands, and the function that looks.

Code ZL000 is whatever does not parse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pglast import ast, enums

from zodan_sql.building.lint.findings import Finding
from zodan_sql.building.lint.source import Expression, Routine, Source, walk, without_comments
from zodan_sql.building.routines import WITH_DOCUMENTED_PARAMETERS

#: A file uses its own folder and those after it: docs/explanation/architecture.md.
LAYERS = (
    "public",
    "by_hand",
    "begin",
    "run",
    "plan",
    "check",
    "survey",
    "state",
    "remote",
    "statement",
    "text",
)
LONGEST_ROUTINE = 80
LONGEST_LINE = 140
REACHING_OUT = ("remote", "statement/remote")

_BUILT_IN_VARIABLES = re.compile(r"found|sqlstate|sqlerrm|new|old|tg_\w+|\$\d+|\(unnamed row\)|__.*")
_DECLARES_ROUTINE = re.compile(
    r"\{%-?\s*call\b[^%]*\b(?:function|procedure)\(|\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:FUNCTION|PROCEDURE)\b(?!\s+pg_temp\.)",
    re.IGNORECASE,
)
_DBLINK = re.compile(r"\bdblink\w*\s*[(.]", re.IGNORECASE)
_JINJA = re.compile(r"\{\{|\{%|\{#")
_DSN = re.compile(r"dsn", re.IGNORECASE)
_TELLS_NO_SECRET = re.compile(
    r"zodan\.redact_\w+|pg_catalog\.(?:char_length|octet_length|length|pg_typeof|jsonb_object_keys)"
)
#: libpg_query's numbers: the level of RAISE EXCEPTION, and the options that it must have.
_ERROR = 21
_RAISE_OPTIONS = {"ERRCODE": 0, "MESSAGE": 1, "HINT": 3}

#: Types that stand unqualified: those of pg_catalog, which search_path cannot hide unless asked to.
_CATALOG_TYPES = """
    aclitem anyarray anycompatible anycompatiblearray anyelement anyenum anynonarray anyrange bigint bit bool boolean
    box bpchar bytea char character cid cidr circle cstring date daterange decimal double event_trigger float float4
    float8 inet int int2 int2vector int4 int4range int8 int8range integer internal interval json jsonb jsonpath line
    lseg macaddr macaddr8 money name numeric numrange oid oidvector path pg_lsn pg_node_tree pg_snapshot point polygon
    real record refcursor regclass regcollation regconfig regdictionary regnamespace regoper regoperator regproc
    regprocedure regrole regtype smallint text tid time timestamp timestamptz timetz trigger tsquery tsrange tstzrange
    tsvector txid_snapshot uuid varbit varchar void xid xid8 xml
"""
CATALOG_TYPES = frozenset(_CATALOG_TYPES.split())


@dataclass
class Project:
    """What the rules look at: the rendered files, and the templates they came from by relative path."""

    sources: list[Source]
    templates: dict[str, str]
    files: dict[str, str]
    folders: dict[str, str] = field(init=False)
    rooms: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.rooms = {
            path.name.removesuffix(".sql.j2"): path.parent.as_posix()
            for path in map(PurePosixPath, self.templates)
            if path.parts[0] in LAYERS and path.name.endswith(".sql.j2")
        }
        self.folders = {name: room.partition("/")[0] for name, room in self.rooms.items()}

    def folder(self, routine: Routine) -> str | None:
        """Return the template folder a routine comes from."""
        return self.folders.get(routine.name)

    def reaches_out(self, routine: Routine) -> bool:
        """Tell whether a routine may use dblink and catch any error: what does so stands in two rooms."""
        return self.rooms.get(routine.name) in REACHING_OUT

    def is_statement(self, name: str) -> bool:
        """Tell whether zodan.name writes a statement for another node."""
        return self.folders.get(name) == "statement"

    def routines(self) -> Iterator[Routine]:
        """Yield every routine of every file."""
        for source in self.sources:
            yield from source.routines


Look = Callable[[Project], Iterator[Finding]]
LookAtRoutine = Callable[[Project, Routine], Iterator[tuple[int, str]]]


@dataclass(frozen=True)
class Rule:
    """A coded rule. ``look`` yields findings for a whole project."""

    code: str
    name: str
    what: str
    look: Look


def _each_routine(code: str, look: LookAtRoutine) -> Look:
    def every(project: Project) -> Iterator[Finding]:
        for routine in project.routines():
            for line, message in look(project, routine):
                yield Finding(routine.file, line, code, f"{routine.full_name}: {message}")

    return every


def _comment(_project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    if not routine.comment:
        yield routine.line, "has no COMMENT"


def _revoke(_project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    if not routine.revoked:
        yield routine.line, "has no REVOKE ... FROM PUBLIC"


def _qualified(project: Project) -> Iterator[Finding]:
    for source in project.sources:
        for expression in source.statements:
            for line, message in _unqualified(expression):
                yield Finding(source.file, line, "ZL003", message)
        for routine in source.routines:
            if not routine.schema:
                yield Finding(source.file, routine.line, "ZL003", f'routine "{routine.name}" has no schema')
            for name, line in routine.declared_types:
                if re.split(r"\W", name, maxsplit=1)[0].lower() not in CATALOG_TYPES and not _is_qualified_type(name):
                    yield Finding(source.file, line, "ZL003", f'{routine.full_name}: type "{name}" has no schema')
            # Where dblink is, its DBA decides: remote/ finds it through a search_path of its own.
            bare = "dblink" if project.folder(routine) == "remote" else ()
            for expression in routine.expressions:
                for line, message in _unqualified(expression, bare):
                    yield Finding(source.file, line, "ZL003", f"{routine.full_name}: {message}")


def _is_qualified_type(name: str) -> bool:
    # table%ROWTYPE needs one dot, table.column%TYPE two; v_variable%TYPE needs none.
    base, _, of = name.partition("%")
    if of.lower().startswith("type"):
        return base.count(".") == 2 or base.startswith(("p_", "v_", "c_"))
    return "." in base


def _unqualified(expression: Expression, bare: str | tuple[()] = ()) -> Iterator[tuple[int, str]]:
    nodes = list(walk(expression.tree))
    ctes = {node.ctename for node, _ in nodes if isinstance(node, ast.CommonTableExpr)}
    for node, _ in nodes:
        if isinstance(node, ast.RangeVar):
            if not node.schemaname and node.relname not in ctes:
                yield expression.line_of(node), f'relation "{node.relname}" has no schema'
        elif isinstance(node, ast.FuncCall):
            if len(node.funcname) == 1 and not node.funcname[0].sval.startswith(bare):
                yield expression.line_of(node), f'function "{node.funcname[0].sval}" has no schema'
        elif isinstance(node, ast.TypeName) and node.names and len(node.names) == 1:
            name = node.names[0].sval
            if name not in CATALOG_TYPES:
                yield expression.line_of(node), f'type "{name}" has no schema'


def _when_others(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    if project.reaches_out(routine):
        return
    for kind, fields, line in routine.nodes:
        if kind == "PLpgSQL_condition" and fields.get("condname") == "others":
            yield line, "WHEN OTHERS outside remote/ and statement/remote/"


def _statement_length(project: Project) -> Iterator[Finding]:
    for path, text in project.templates.items():
        lines = text.count("\n") - _comment_lines(text)
        if PurePosixPath(path).parts[0] == "statement" and lines >= LONGEST_ROUTINE:
            yield Finding(path, 1, "ZL007", f"{lines} lines, must be under {LONGEST_ROUTINE}")


def _wide(project: Project) -> Iterator[Finding]:
    for path, text in project.templates.items():
        for number, line in enumerate(text.splitlines(), 1):
            if len(line) > LONGEST_LINE:
                yield Finding(path, number, "ZL014", f"{len(line)} letters, must be at most {LONGEST_LINE}")


def _comment_lines(text: str) -> int:
    """Return how many lines the comment takes that a text begins with."""
    found = re.match(r"\s*/\*.*?\*/\n?", text, re.DOTALL)
    return found[0].lstrip().count("\n") if found else 0


def _blocks(project: Project) -> Iterator[Finding]:
    """Look at DO blocks as at routines: statements for other nodes are most of them."""
    for source in project.sources:
        for block in source.blocks:
            if PurePosixPath(source.file).parent.as_posix() in REACHING_OUT:
                continue
            for kind, fields, line in block.nodes:
                if kind == "PLpgSQL_condition" and fields.get("condname") == "others":
                    yield Finding(source.file, line, "ZL004", "DO: WHEN OTHERS outside remote/ and statement/remote/")


def _dblink(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    if project.reaches_out(routine):
        return
    if found := _DBLINK.search(without_comments(routine.body)):
        yield (
            routine.body_line + routine.body.count("\n", 0, found.start()),
            "dblink outside remote/ and statement/remote/",
        )


def _secrets(_project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    for expression in routine.expressions:
        for node, _ in walk(expression.tree):
            if isinstance(node, ast.FuncCall) and node.funcname[-1].sval == "format":
                for name in _dsn_names(node.args):
                    yield expression.line_of(node), f'"{name}" in format(): bind it, or redact it first'
        if expression.raised:
            for name in _dsn_names(expression.tree):
                yield expression.line, f'"{name}" in RAISE: redact it first'


def _dsn_names(tree: Any) -> Iterator[str]:
    """Yield the names of columns and variables that hold a connection string, unless redacted on the way."""
    for node, above in walk(tree):
        if not isinstance(node, ast.ColumnRef):
            continue
        name = ".".join(part.sval for part in node.fields if isinstance(part, ast.String))
        functions = (".".join(part.sval for part in each.funcname) for each in above if isinstance(each, ast.FuncCall))
        if _DSN.search(name.rpartition(".")[2]) and not any(map(_TELLS_NO_SECRET.fullmatch, functions)):
            yield name


def _length(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    # A statement is as long as its file, without its parts. The comment that a body begins with does not count.
    if project.is_statement(routine.name):
        return
    lines = routine.end_line - routine.line + 1 - _comment_lines(routine.body)
    if lines >= LONGEST_ROUTINE:
        yield routine.line, f"{lines} lines, must be under {LONGEST_ROUTINE}"


def _files(project: Project) -> Iterator[Finding]:
    for path, text in sorted(project.templates.items()):
        declared = len(_DECLARES_ROUTINE.findall(text))
        if PurePosixPath(path).parts[0] in LAYERS and declared > 1:
            yield Finding(path, 1, "ZL008", f"declares {declared} routines, must be one")
    for routine in project.routines():
        if project.folder(routine) is None:
            yield Finding(
                routine.file,
                routine.line,
                "ZL008",
                f"{routine.full_name}: no template {routine.name}.sql.j2 in any layer's folder",
            )


def _names(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    modes = enums.FunctionParameterMode
    parameters = {parameter.name: parameter.mode for parameter in routine.parameters if parameter.name}
    is_door = project.folder(routine) == "public" or routine.name in WITH_DOCUMENTED_PARAMETERS
    for name, mode in parameters.items():
        # Columns of a result keep their own names; the public procedures have the documented ones.
        is_result = mode == modes.FUNC_PARAM_TABLE or (mode == modes.FUNC_PARAM_OUT and routine.returns is not None)
        if not is_result and not is_door and not name.startswith("p_"):
            yield routine.line, f'parameter "{name}" must begin with p_'
    for kind, fields, line in routine.nodes:
        name = fields.get("refname", "")
        if kind not in ("PLpgSQL_var", "PLpgSQL_rec") or name in parameters or _BUILT_IN_VARIABLES.fullmatch(name):
            continue
        prefix = "c_" if fields.get("isconst") else "v_"
        if not name.startswith(prefix):
            yield line, f'{"constant" if prefix == "c_" else "local"} "{name}" must begin with {prefix}'


def _layers(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    folder = project.folder(routine)
    if folder is None:
        return
    for expression in routine.expressions:
        for node, _ in walk(expression.tree):
            if not isinstance(node, ast.FuncCall) or len(node.funcname) != 2:
                continue
            schema, name = (part.sval for part in node.funcname)
            other = project.folders.get(name) if schema == "zodan" else None
            if other is not None and LAYERS.index(other) < LAYERS.index(folder):
                yield expression.line_of(node), f"of {folder}/ calls zodan.{name} of {other}/, a layer above it"


def _unrendered(project: Project) -> Iterator[Finding]:
    for file, text in project.files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if found := _JINJA.search(line):
                yield Finding(file, number, "ZL011", f'"{found[0]}" was not rendered')


def _told_by_name(project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    """Find calls that give a statement several parameters by place: the place of each in the SQL, which may move."""
    for expression in routine.expressions:
        for node, _ in walk(expression.tree):
            if not isinstance(node, ast.FuncCall) or len(node.funcname) != 2 or len(node.args or ()) < 2:
                continue
            name = node.funcname[1].sval
            by_place = not all(isinstance(each, ast.NamedArgExpr) for each in node.args)
            if by_place and project.is_statement(name):
                yield expression.line_of(node), f"calls zodan.{name} with parameters by place: name them"


def _raises(_project: Project, routine: Routine) -> Iterator[tuple[int, str]]:
    """Find errors that lack what a caller needs: a code to go by, and one thing to do."""
    for kind, fields, line in routine.nodes:
        if kind != "PLpgSQL_stmt_raise" or fields.get("elog_level", _ERROR) < _ERROR:
            continue
        options = {each["PLpgSQL_raise_option"].get("opt_type") for each in fields.get("options", ())}
        if not fields.get("options") and not fields.get("message"):
            continue
        missing = [name for name, option in _RAISE_OPTIONS.items() if option not in options]
        if missing:
            yield line, f"RAISE without {', '.join(missing)}"


RULES = (
    Rule("ZL001", "comment", "every routine has a COMMENT", _each_routine("ZL001", _comment)),
    Rule("ZL002", "revoke", "every routine is revoked from PUBLIC", _each_routine("ZL002", _revoke)),
    Rule("ZL003", "qualified", "relations, functions and types of ours are schema-qualified", _qualified),
    Rule(
        "ZL004",
        "when-others",
        "WHEN OTHERS only in remote/ and statement/remote/",
        _each_routine("ZL004", _when_others),
    ),
    Rule("ZL005", "dblink", "dblink only in remote/ and statement/remote/", _each_routine("ZL005", _dblink)),
    Rule("ZL006", "secrets", "a DSN is never in format() or RAISE", _each_routine("ZL006", _secrets)),
    Rule("ZL007", "length", f"a routine is under {LONGEST_ROUTINE} lines", _each_routine("ZL007", _length)),
    Rule("ZL008", "files", "one routine a file, the file named after it", _files),
    Rule("ZL009", "names", "parameters p_, locals v_, constants c_", _each_routine("ZL009", _names)),
    Rule("ZL010", "layers", "a routine calls its own layer and those below", _each_routine("ZL010", _layers)),
    Rule("ZL004", "when-others", "WHEN OTHERS in DO blocks, as in routines", _blocks),
    Rule("ZL007", "length", f"a statement is under {LONGEST_ROUTINE} lines", _statement_length),
    Rule("ZL011", "unrendered", "no {{ and no {% in what is rendered", _unrendered),
    Rule("ZL012", "by-name", "a statement gets its parameters by name", _each_routine("ZL012", _told_by_name)),
    Rule("ZL014", "width", f"a line of a template has at most {LONGEST_LINE} letters", _wide),
    Rule("ZL013", "raise", "an error has ERRCODE, MESSAGE and HINT", _each_routine("ZL013", _raises)),
)
