"""Which server is taken, and what is said when there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zodan_sql.sandbox import SandboxError, detect_engine, engine, standin


def make_installation(folder: Path, version: str, extensions: dict[str, str]) -> Path:
    """Lay out what of an installation is looked at."""
    programs = folder / "bin"
    (folder / "share" / "extension").mkdir(parents=True)
    programs.mkdir()
    for name, lines in {
        "postgres": f'case "$1" in --version) echo "postgres (PostgreSQL) {version}" ;; esac',
        "pg_config": f'case "$1" in --sharedir) echo {folder}/share ;; *) echo {folder}/lib ;; esac',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{lines}\n")
        (programs / name).chmod(0o755)
    for name, default_version in extensions.items():
        control = folder / "share" / "extension" / f"{name}.control"
        control.write_text(f"comment = 'x'\ndefault_version = '{default_version}'\n")
    return programs


def test_real_spock_is_preferred(tmp_path: Path) -> None:
    found = detect_engine(make_installation(tmp_path, "17.11", {"spock": "6.0.0", "pglogical": "2.4.5"}))
    assert found.is_real
    assert found.description == "Spock 6.0.0 on PostgreSQL 17.11"
    assert found.preload_library == "spock"


def test_stand_in_says_what_it_is(tmp_path: Path) -> None:
    found = detect_engine(make_installation(tmp_path, "15.18 (Debian 15.18-0)", {"pglogical": "2.4.2"}))
    assert not found.is_real
    assert found.description == ("stand-in for Spock (pglogical 2.4.2 on PostgreSQL 15.18): only for trials and tests")
    assert found.preload_library == "pglogical"


def test_variable_is_taken_when_nothing_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = make_installation(tmp_path, "16.4", {"spock": "5.0.11"})
    monkeypatch.setenv("ZODAN_PG_BIN", str(programs))
    assert detect_engine().pg_bin == programs


def test_newest_debian_server_that_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_installation(tmp_path / "15", "15.18", {"pglogical": "2.4.2"})
    make_installation(tmp_path / "16", "16.4", {"pglogical": "2.4.5"})
    make_installation(tmp_path / "17", "17.1", {})
    monkeypatch.delenv("ZODAN_PG_BIN", raising=False)
    monkeypatch.setattr(engine, "_DEBIAN_SERVERS", tmp_path)
    assert detect_engine().pg_bin == tmp_path / "16" / "bin"


@pytest.mark.parametrize(
    ("version", "extensions", "words"),
    [("17.11", {}, "neither Spock nor pglogical"), ("14.9", {"pglogical": "2.4.2"}, "older than 15")],
)
def test_useless_server_is_refused_with_advice(
    tmp_path: Path, version: str, extensions: dict[str, str], words: str
) -> None:
    with pytest.raises(SandboxError, match=words) as caught:
        detect_engine(make_installation(tmp_path, version, extensions))
    assert "setup-server" in caught.value.hint


def test_missing_server_is_refused_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="cannot run") as caught:
        detect_engine(tmp_path)
    assert "setup-server" in caught.value.hint
    monkeypatch.delenv("ZODAN_PG_BIN", raising=False)
    monkeypatch.setattr(engine, "_DEBIAN_SERVERS", tmp_path)
    with pytest.raises(SandboxError, match="found no PostgreSQL"):
        detect_engine()


def test_stand_in_stays_in_its_folder(tmp_path: Path) -> None:
    found = detect_engine(make_installation(tmp_path / "server", "15.18", {"pglogical": "2.4.2"}))
    before = sorted((tmp_path / "server").rglob("*"))
    parts = standin.lay_out(found, tmp_path / "private")
    assert sorted((tmp_path / "server").rglob("*")) == before
    (control,) = (tmp_path / "private").rglob("spock.control")
    assert f"default_version = '{standin.VERSION}'" in control.read_text()
    assert "stand" in standin.VERSION
    assert (control.parent / f"spock--{standin.VERSION}.sql").exists()
    assert os.access(parts.postgres.parent / "pg_dump", os.X_OK)


def test_newer_servers_take_a_control_path(tmp_path: Path) -> None:
    found = detect_engine(make_installation(tmp_path / "server", "18.1", {"pglogical": "2.4.6"}))
    parts = standin.lay_out(found, tmp_path / "private")
    folder = parts.settings["extension_control_path"].split(":")[0]
    assert (Path(folder) / "extension" / "spock.control").exists()
