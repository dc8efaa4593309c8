"""A copy that still believes to be its source must not start: what keeps it from that, and what it starts with later.

PostgreSQL refuses a data directory that others may enter, and one whose pg_hba.conf is missing. The first holds from
before the copy begins until it is complete; the second, in postgresql.auto.conf, which every start reads, from then on
until it is stripped of the source's identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from zodan_sql.cloning.host import Host, settings_lines, write

_SHUT = 0o701
_OPEN = 0o700
_BEGIN = "# zodan clone: until this copy is a node of its own, it must not start"
_SETTLED = "# zodan clone: what this node has other than its source"
_END = "# zodan clone: end"
_HBA = "zodan-clone-is-not-finished"
_BLOCK = re.compile(
    rf"^(?:{re.escape(_BEGIN)}|{re.escape(_SETTLED)})$.*?^{re.escape(_END)}\n", re.MULTILINE | re.DOTALL
)


def shut(pgdata: Path, host: Host) -> None:
    """Make an empty data directory in which no server starts."""
    pgdata.mkdir(parents=True, exist_ok=True)
    host.give(pgdata)
    pgdata.chmod(_SHUT)


def fence(pgdata: Path, host: Host) -> None:
    """Let a complete copy be started by a clone only, and nobody else."""
    block = [_BEGIN, *settings_lines({"hba_file": str(pgdata / _HBA), "shared_preload_libraries": ""}), _END, ""]
    _replace(pgdata, "\n".join(block), host)
    pgdata.chmod(_OPEN)


def settle(pgdata: Path, settings: Mapping[str, str], host: Host) -> None:
    """Take the fence away, and leave the settings that the new node is to have."""
    _replace(pgdata, "\n".join([_SETTLED, *settings_lines(settings), _END, ""]), host)


def is_fenced(pgdata: Path) -> bool:
    """Return whether a copy is kept from starting."""
    path = pgdata / "postgresql.auto.conf"
    return pgdata.stat().st_mode & 0o777 == _SHUT or (path.exists() and _BEGIN in path.read_text(errors="replace"))


def read_setting(pgdata: Path, name: str) -> str:
    """Return what postgresql.auto.conf has for a setting; nothing if it has none."""
    path = pgdata / "postgresql.auto.conf"
    text = path.read_text(errors="replace") if path.exists() else ""
    found = re.findall(rf"^\s*{name}\s*=?\s*'((?:[^'\\]|''|\\.)*)'", _BLOCK.sub("", text), re.MULTILINE)
    return re.sub(r"(?:'|\\)(.)", r"\1", found[-1]) if found else ""


def _replace(pgdata: Path, block: str, host: Host) -> None:
    path = pgdata / "postgresql.auto.conf"
    before = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    kept = _BLOCK.sub("", before)
    write(path, kept + ("\n" if kept and not kept.endswith("\n") else "") + block, host)
