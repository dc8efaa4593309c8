"""Write the stand-in for Spock into a private folder, so that nothing goes into the system's folders.

The server finds the extension through ``extension_destdir`` (Debian, up to 17) or ``extension_control_path``
(18 and later), and the output plugin through ``dynamic_library_path``. pglogical calls two programs for a structure
copy and looks for them beside the server's binary: so the folder has a copy of ``postgres``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from zodan_sql.sandbox.engine import Engine
from zodan_sql.sandbox.errors import SandboxError

#: The version of Spock whose interface the stand-in has.
VERSION = "5.0.11-standin"

_SOURCES = Path(__file__).resolve().parent
_FIRST_WITH_CONTROL_PATH = 18
_CONTROL = f"""\
comment = 'Stand-in for Spock on pglogical: only for trials and tests'
default_version = '{VERSION}'
relocatable = false
requires = 'pglogical'
"""


@dataclass(frozen=True)
class StandIn:
    """The server's program, and the settings that make it use the stand-in."""

    postgres: Path
    settings: dict[str, str]


def sql_files() -> list[Path]:
    """Return the parts of the extension's script, in order."""
    return sorted((_SOURCES / "standin_sql").glob("*.sql"))


def lay_out(engine: Engine, folder: Path) -> StandIn:
    """Write the stand-in for ``engine`` into ``folder``."""
    if engine.is_real:
        raise SandboxError(f"{engine.description} needs no stand-in")
    settings = {"dynamic_library_path": f"{_write_library(engine, folder)}:$libdir"}
    settings |= _write_extension(engine, folder)
    return StandIn(postgres=_write_programs(engine, folder), settings=settings)


def _write_extension(engine: Engine, folder: Path) -> dict[str, str]:
    if engine.server_version >= _FIRST_WITH_CONTROL_PATH:
        share, settings = folder / "share", {"extension_control_path": f"{folder / 'share'}:$system"}
    else:
        share = folder / engine.share_dir.relative_to("/")
        settings = {"extension_destdir": str(folder)}
    extension = share / "extension"
    extension.mkdir(parents=True)
    (extension / "spock.control").write_text(_CONTROL)
    script = "\n".join(path.read_text() for path in sql_files())
    (extension / f"spock--{VERSION}.sql").write_text(script)
    return settings


def _write_library(engine: Engine, folder: Path) -> Path:
    library = folder / "lib"
    library.mkdir(parents=True)
    (library / "spock_output.so").symlink_to(engine.lib_dir / "pglogical_output.so")
    return library


def _write_programs(engine: Engine, folder: Path) -> Path:
    # Not "bin": in a folder of that name, the server would look for its own libraries beside the folder.
    programs = folder / "programs"
    programs.mkdir(parents=True)
    for source in (_SOURCES / "standin_bin").iterdir():
        program = programs / source.name
        program.write_text(source.read_text().replace("@PG_BIN@", str(engine.pg_bin)))
        program.chmod(0o755)
    # A server finds its psql beside itself, too.
    (programs / "psql").symlink_to(engine.pg_bin / "psql")
    # A copy, not a link: the server resolves links before it looks for programs beside itself.
    return Path(shutil.copy2(engine.pg_bin / "postgres", programs / "postgres"))
