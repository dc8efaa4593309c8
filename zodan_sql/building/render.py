"""Render the SQL templates into the files of ``build/``.

Rendering has no effects but the files it writes: no clock, no network, undefined names are errors, and
the same templates give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from zodan_sql.building import declaration, statement

_PACKAGE = Path(__file__).resolve().parents[1]
#: Of an installed package this is the folder of all packages, where "build" may be somebody else's: it is asked last.
REPOSITORY = _PACKAGE.parent
Value = TypeVar("Value")

_VERSION = re.compile(r"default_version = '([^']+)'")

#: Contents page of each rendered file; ``{version}`` is filled in.
CONTENTS = {
    "zodan.sql": "pages/zodan.sql.j2",
    "zodremove.sql": "pages/zodremove.sql.j2",
    "zodan--{version}.sql": "pages/extension.sql.j2",
    "zodan.control": "pages/zodan.control.j2",
}

#: Contents page of the script that brings an earlier version of the extension up to this one.
UPGRADE = ("zodan--{earlier}--{version}.sql", "pages/upgrade.sql.j2")

#: Versions released before this one, each of which gets such a script.
EARLIER_VERSIONS: tuple[str, ...] = ()


class RenderError(Exception):
    """A template is missing, or says something that cannot be rendered."""


def is_installed() -> bool:
    """Tell whether this is an installed package, which has copies of its own, and not the repository."""
    return (_PACKAGE / "templates").is_dir()


def find_templates() -> Path:
    """Return the folder of the templates: the installed package's copy, or the repository's."""
    return _first_folder(_PACKAGE / "templates", REPOSITORY / "sql" / "templates")


def find_build() -> Path:
    """Return the folder of the rendered files: the installed package's copy, or the repository's."""
    return _first_folder(_PACKAGE / "sql", REPOSITORY / "build")


def _first_folder(*candidates: Path) -> Path:
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise RenderError(f"none of these folders exists: {', '.join(map(str, candidates))}")


def read_version(templates: Path) -> str:
    """Return the version, which stands in the control file and nowhere else."""
    found = _VERSION.search((templates / "pages" / "zodan.control.j2").read_text(encoding="utf-8"))
    if found is None:
        raise RenderError("zodan.control.j2 names no default_version")
    return found.group(1)


def read_build(templates: Path) -> str:
    """Return a name for what the templates say: two builds of one version have different names."""
    digest = hashlib.sha256()
    for path in sorted(templates.rglob("*.j2")):
        digest.update(path.relative_to(templates).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def read_default(name: str, kind: type[Value]) -> Value:
    """Return a bound or default, of type ``kind``, by its name in constants/defaults.sql.j2, where each stands once."""
    value = getattr(_constants("defaults"), name, None)
    if not isinstance(value, kind):
        raise RenderError(f"constants/defaults.sql.j2 has no {kind.__name__} named {name}")
    return value


def read_phases() -> dict[str, list[str]]:
    """Return the names of the phases of each plan, in order, by the plan.

    The phases of a replacement are those between its two halves.
    """
    module = _constants("phases")
    return {plan: list(getattr(module, plan)) for plan in ("add", "remove", "replace", "mend")}


def read_groups() -> dict[str, int]:
    """Return how often one call tries each group of steps that is tried by itself."""
    groups = getattr(_constants("phases"), "groups", {})
    return {name: group["tries"] for name, group in groups.items() if isinstance(group["tries"], int)}


@cache
def _constants(name: str) -> object:
    with _told(f"constants/{name}.sql.j2") as page:
        return _environment(find_templates()).get_template(page).module


@contextmanager
def _told(page: str) -> Iterator[str]:
    """Turn what goes wrong with a page into a RenderError that names the template and the line."""
    try:
        yield page
    except jinja2.TemplateError as error:
        where = f"{getattr(error, 'filename', None) or page}:{getattr(error, 'lineno', '?')}"
        raise RenderError(f"could not render {where}: {error}") from error


@jinja2.pass_context
def _create(context: jinja2.runtime.Context, path: str) -> str:
    """Return the SQL that creates what the template ``path``, a folder and a name, declares.

    What is in statement/ becomes the function that writes the statement, unless it declares one itself.
    """
    page = f"{path}.sql.j2"
    environment = context.environment

    def upgrade(kind: str, name: str, columns: str) -> str:
        return environment.get_template(f"pages/upgrade_{kind}.sql.j2").render(name=name, columns=columns)

    try:
        declared = _declaration(path, environment.get_template(page).render())
        return declaration.write(declared, replace=bool(context["replace"]), upgrade=upgrade)
    except (declaration.DeclarationError, statement.StatementError) as error:
        raise RenderError(f"could not render {page}: {error}") from error


def _declaration(path: str, text: str) -> declaration.Declaration:
    room, _, name = path.rpartition("/")
    if room.partition("/")[0] == "statement" and not _declares_itself(text):
        return statement.declare(name, statement.read(text))
    return declaration.read(text)


def _declares_itself(text: str) -> bool:
    return "*/\nCREATE FUNCTION zodan." in text


@jinja2.pass_context
def _part(context: jinja2.runtime.Context, name: str) -> str:
    """Return what several statements have in common: the SQL in the file statement/part/name."""
    page = f"statement/part/{name}.sql.j2"
    try:
        return statement.read(context.environment.get_template(page).render()).sql
    except statement.StatementError as error:
        raise RenderError(f"could not render {page}: {error}") from error


def _environment(templates: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals |= {"create": _create, "part": _part}
    return environment


def _with_constants(folder: Path) -> jinja2.Environment:
    environment = _environment(folder)
    constants: dict[str, Any] = {"version": read_version(folder), "build": read_build(folder)}
    for name in ("defaults", "phases"):
        page = f"constants/{name}.sql.j2"
        if (folder / page).is_file():
            with _told(page):
                constants[name] = environment.get_template(page).module
    environment.globals |= constants
    return environment


def render(templates: Path | None = None, earlier: Sequence[str] = EARLIER_VERSIONS) -> dict[str, str]:
    """Render every contents page.

    Takes the folder of templates (the project's own by default) and the versions to upgrade from, and returns the
    text of each file by its name. Raises RenderError with the template and the line for anything undefined or
    malformed.
    """
    folder = templates or find_templates()
    version = read_version(folder)
    environment = _with_constants(folder)
    files = {}
    pages = [(name.format(version=version), page) for name, page in CONTENTS.items()]
    pages += [(UPGRADE[0].format(earlier=each, version=version), UPGRADE[1]) for each in earlier]
    for name, page in pages:
        with _told(page):
            files[name] = environment.get_template(page).render()
    return files


def render_statements(templates: Path | None = None) -> dict[str, str]:
    """Render every statement for another node by itself, with something harmless for each parameter.

    Returns the text of each, doc comment included, by the path of its template. What they have in common, in
    statement/part, stands in those that use it. Raises RenderError.
    """
    folder = templates or find_templates()
    environment = _with_constants(folder)
    statements = {}
    for path in sorted(folder.glob("statement/**/*.sql.j2")):
        page = path.relative_to(folder).as_posix()
        if path.parent.name == "part":
            continue
        with _told(page):
            text = environment.get_template(page).render()
        if not _declares_itself(text):
            try:
                found = statement.read(text)
            except statement.StatementError as error:
                raise RenderError(f"could not render {page}: {error}") from error
            statements[page] = f"/* {found.doc} */\n{statement.example(found)}\n"
    return statements


def build(folder: Path | None = None, templates: Path | None = None) -> list[Path]:
    """Write every rendered file into ``folder`` (``build/`` by default) and return their paths.

    Files of earlier versions are removed, so that the folder holds what the templates say and no more.
    """
    target = folder or find_build()
    target.mkdir(parents=True, exist_ok=True)
    files = render(templates)
    for stale in set(target.glob("zodan--*.sql")) - {target / name for name in files}:
        stale.unlink()
    paths = []
    for name, text in files.items():
        path = target / name
        path.write_text(text, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def stale_files(folder: Path | None = None, templates: Path | None = None) -> list[str]:
    """Return the names of the files in ``folder`` that differ from what the templates render to."""
    target = folder or find_build()
    return [
        name
        for name, text in render(templates).items()
        if not (target / name).is_file() or (target / name).read_text(encoding="utf-8") != text
    ]
