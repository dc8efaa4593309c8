"""Extensions of a test's own, on servers whose installation stays as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from support.clusters import MakeCluster
from zodan_sql.sandbox import Cluster, Engine
from zodan_sql.sandbox.template import template_folder

_FIRST_WITH_CONTROL_PATH = 18
_DATABASE = "app"


@contextmanager
def cluster_with_extensions(
    make: MakeCluster, engine: Engine, folder: Path, scripts: Mapping[str, str]
) -> Iterator[Cluster]:
    """Make two members and a blank whose servers have the files of the extensions in ``scripts``.

    The stand-in's servers find extensions in a folder of the sandbox. Real ones look into ``folder`` where they have
    a setting for that; older ones are run from links in ``folder`` to their installation.
    """
    if not engine.is_real:
        cluster = make(members=2, blanks=1, dbname=_DATABASE)
        write_extensions(cluster.base / "engine" / _share_of(engine), scripts)
        yield cluster
    elif engine.server_version >= _FIRST_WITH_CONTROL_PATH:
        write_extensions(folder, scripts)
        yield make(members=2, blanks=1, dbname=_DATABASE, extra_conf={"extension_control_path": f"{folder}:$system"})
    else:
        linked = link_installation(engine, folder)
        write_extensions(linked.share_dir, scripts)
        try:
            yield make(members=2, blanks=1, dbname=_DATABASE, engine=linked)
        finally:
            # No later run has this folder, so none would use it.
            shutil.rmtree(template_folder(linked, _DATABASE))


def write_extensions(share: Path, scripts: Mapping[str, str]) -> None:
    """Write control files and scripts of extensions into a share folder."""
    extensions = share / "extension"
    extensions.mkdir(parents=True, exist_ok=True)
    for name, script in scripts.items():
        (extensions / f"{name}.control").write_text("default_version = '1'\nrelocatable = true\n")
        (extensions / f"{name}--1.sql").write_text(script + "\n")


def link_installation(engine: Engine, folder: Path) -> Engine:
    """Return a server of ``folder``: programs of its own, links to the rest, and a folder of extensions to add to.

    The server looks for its other folders where they are relative to its program, and follows links to find out
    where that is.
    """
    root = Path(os.path.commonpath([engine.pg_bin.resolve(), engine.share_dir, engine.lib_dir]))
    programs, share, library = (
        folder / path.relative_to(root) for path in (engine.pg_bin.resolve(), engine.share_dir, engine.lib_dir)
    )
    shutil.copytree(engine.pg_bin, programs)
    library.parent.mkdir(parents=True, exist_ok=True)
    library.symlink_to(engine.lib_dir)
    for source, target in ((engine.share_dir, share), (engine.share_dir / "extension", share / "extension")):
        target.mkdir(parents=True)
        for path in source.iterdir():
            if path != engine.share_dir / "extension":
                (target / path.name).symlink_to(path)
    return replace(engine, pg_bin=programs, share_dir=share, lib_dir=library)


def _share_of(engine: Engine) -> Path:
    if engine.server_version >= _FIRST_WITH_CONTROL_PATH:
        return Path("share")
    return engine.share_dir.relative_to("/")
