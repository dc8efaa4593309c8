"""The wheel and the sdist hold all that is needed: installed elsewhere, the commands work without the repository."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from psycopg import sql

from support.scripts import load
from zodan_sql.building.render import find_build, find_templates
from zodan_sql.client.install import SCRIPTS, own_version
from zodan_sql.sandbox import Engine, Node

_REPOSITORY = Path(__file__).resolve().parents[2]
_ROUTINES = """
SELECT oid::regprocedure::text, md5(prosrc), obj_description(oid, 'pg_proc') FROM pg_proc
 WHERE pronamespace = 'zodan'::regnamespace OR proname IN ('add_node', 'remove_node', 'health_check')
UNION ALL SELECT oid::regclass::text, pg_get_viewdef(oid), obj_description(oid, 'pg_class') FROM pg_class
 WHERE relnamespace = 'zodan'::regnamespace AND relkind = 'v'
ORDER BY 1
"""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the package and what it says it depends on, and nothing else."""

    folder: Path

    @property
    def site(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, script: str, *arguments: str, code: int = 0) -> str:
        """Run a command of it, from a folder that has nothing to do with the repository."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ZODAN"))}
        done = subprocess.run(
            [self.folder / "bin" / script, *arguments],
            cwd=self.folder,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


def build(source: Path, target: Path, kind: str) -> Path:
    """Build a wheel or an sdist as pip would, by the backend that pyproject.toml names."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", target],
        cwd=source,
        capture_output=True,
        text=True,
        check=True,
    )
    (made,) = target.iterdir()
    return made


def needed(requirements: list[str], extras: set[str]) -> set[str]:
    """Return the distributions that requirements lead to."""
    found: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        found.add(requirement.name)
        of_that = importlib.metadata.distribution(requirement.name).requires or []
        found |= needed(of_that, requirement.extras)
    return found


def link(distribution: str, site: Path) -> None:
    """Put a distribution of this environment into another one's packages."""
    files = importlib.metadata.distribution(distribution).files or []
    for name in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        place = site / name
        if not place.is_symlink():
            place.symlink_to(Path(str(importlib.metadata.distribution(distribution).locate_file(name))))


def install(wheel: Path, folder: Path) -> Installed:
    """Install a wheel into a new virtual environment; what it needs is linked there and not downloaded again."""
    venv.create(folder, with_pip=False, symlinks=True)
    made = Installed(folder)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, capture_output=True)
    (metadata,) = made.site.glob("zodan_sql-*.dist-info")
    requires = importlib.metadata.Distribution.at(metadata).requires or []
    for distribution in needed(requires, set()):
        link(distribution, made.site)
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(_REPOSITORY, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module", params=["the checkout", "the sdist"])
def installed(request: pytest.FixtureRequest, sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Return the package, installed from a wheel that was built from the checkout, or from the sdist."""
    source = _REPOSITORY
    if request.param == "the sdist":
        unpacked = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(sdist) as archive:
            archive.extractall(unpacked, filter="data")
        (source,) = unpacked.iterdir()
    wheel = build(source, tmp_path_factory.mktemp("wheel"), "wheel")
    return install(wheel, tmp_path_factory.mktemp("venv"))


def new_database(server: Node) -> str:
    """Make a database with Spock and dblink, and return its name."""
    name = f"packages_{next(_numbers)}"
    with server.connect(dbname="postgres") as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with server.connect(dbname=name) as connection:
        connection.execute("CREATE EXTENSION spock CASCADE")
        connection.execute("CREATE EXTENSION dblink")
    return name


def routines(connection: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return connection.execute(_ROUTINES).fetchall()


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_carries_the_rendered_sql(installed: Installed) -> None:
    package = installed.site / "zodan_sql"
    assert files_below(package / "sql") == files_below(find_build())
    assert files_below(package / "templates") == files_below(find_templates())
    where = installed.run("python", "-c", "import zodan_sql; print(zodan_sql.__file__)").strip()
    assert Path(where).parent.resolve() == package.resolve()


def test_the_sdist_carries_what_a_dba_without_python_takes(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {f"build/{name}" for name in files_below(find_build())} | {"Makefile", "README.md"}


def test_the_commands_work_without_the_repository(installed: Installed, server: Node, engine: Engine) -> None:
    version = own_version()
    assert installed.run("zodan-sql", "--version") == f"{version}\n"
    for script, command in (("zodan-sql", "install"), ("zodan.py", "add_node"), ("zodremove.py", "remove_node")):
        assert command in installed.run(script, "--help")

    name, by_hand = new_database(server), new_database(server)
    dsn = server.dsn(dbname=name)
    assert f"installed (version {version})" in installed.run("zodan-sql", "install", "--dsn", dsn)
    for script in SCRIPTS:
        assert load(engine, server.dsn(dbname=by_hand), find_build() / script).returncode == 0
    with server.connect(dbname=name) as ours, server.connect(dbname=by_hand) as theirs:
        assert routines(ours) == routines(theirs)
        assert len(routines(ours)) > 100
    assert "removed" in installed.run("zodan-sql", "uninstall", "--dsn", dsn)


def test_a_foreign_package_named_build_is_not_taken_for_the_rendered_files(installed: Installed) -> None:
    decoys = [installed.site / "build", installed.site / "sql"]
    (installed.site / "sql" / "templates").mkdir(parents=True)
    (installed.site / "build").mkdir()
    (installed.site / "build" / "__init__.py").touch()
    try:
        assert installed.run("zodan-sql", "--version") == f"{own_version()}\n"
        assert installed.run("zodan-sql", "build", "--check") == ""
    finally:
        for decoy in decoys:
            shutil.rmtree(decoy)


def test_the_reference_is_not_written_beside_an_installed_package(installed: Installed) -> None:
    assert installed.run("python", "-m", "zodan_sql.docs", code=1) == "docs/reference exists only in the repository\n"
    assert not (installed.site / "docs").exists()


def test_what_needs_an_extra_says_so(installed: Installed) -> None:
    assert 'pip install "zodan-sql[lint]"' in installed.run("zodan-sql", "lint", code=2)
    assert "pip install 'zodan-sql[sandbox]'" in installed.run("zodan-sql", "sandbox", "status", code=3)
