"""The file of a comparison that can be resumed: what was found of each table, written when the table is finished.

It holds no connection string. Passwords of connection strings in the values of rows are masked, as in all output.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from zodan_sql.errors import ZodanError, caller_error

Value = TypeVar("Value")

_WHAT = "zodan-sql verify"
_FORMAT = 1
#: The file has values of rows.
_MODE = 0o600
_OTHER = "Give another file, or move this one out of the way."


@dataclass(frozen=True)
class VerifyResult:
    """A row of zodan.verify: about a table, or about a row if it has a key."""

    table_name: str
    row_key: dict[str, str] | None
    result: str
    compared: int | None
    equal: int | None
    different: int | None
    undecided: int | None
    seconds: float | None
    why: str | None
    nodes: dict[str, Any] | None


@dataclass(frozen=True)
class Entry:
    """What was found of a table: its row, then those of its rows that are not equal."""

    #: A digest of what was compared.
    print: str
    #: When the comparison of the table ended.
    compared_at: datetime
    results: list[VerifyResult]
    #: Whether the call that compared it reached its end: then somebody may have repaired what was different.
    is_closed: bool = False


@dataclass
class _Content:
    #: What tells the database of each node that is compared from others.
    cluster: dict[str, str]
    #: The number of rows after which a table is compared no further.
    most: int
    tables: dict[str, Entry] = field(default_factory=dict)


class VerifyFile:
    """What earlier calls with the same file found, and what this one finds; ``opened`` returns it."""

    def __init__(self, path: Path, lock: int, redact: Callable[[str], str], keeps: timedelta) -> None:
        self.path = path
        self._lock = lock
        self._redact = redact
        self._keeps = keeps
        self._content = self._load()
        self._prints: dict[str, str] = {}
        #: When each table was compared that an earlier call compared, and this one does not.
        self.kept: dict[str, datetime] = {}
        #: Whether the file has a comparison that is not finished.
        self.is_under_way = False

    def begin(
        self, cluster: Mapping[str, str], most: int, prints: Mapping[str, str], *, whole: bool, again: bool
    ) -> None:
        """Begin a comparison, or go on with one, and find the tables that need not be compared: ``kept``.

        ``cluster`` has the identity of each node, ``prints`` a digest of what is compared of each table. ``whole``:
        these are all tables, so that others are gone. ``again``: compare all tables that were different. Raises
        ZodanError (ZD001), and leaves the file as it is, if the file is about something else or cannot be written.
        """
        if self._content is None:
            self._content = _Content(dict(cluster), most)
        self._check(self._content, cluster, most)
        was = self._content
        now = datetime.now(UTC)
        for name, entry in was.tables.items():
            is_young = timedelta(0) <= now - entry.compared_at <= self._keeps
            different = not again and not entry.is_closed
            if prints.get(name) == entry.print and is_young and _is_decided(entry.results[0], most, different):
                self.kept[name] = entry.compared_at
        # Other tables are gone, or left for a call that compares them.
        tables = {
            name: entry for name, entry in was.tables.items() if name in self.kept or not (whole or name in prints)
        }
        self._content = _Content(was.cluster, most, tables)
        self._prints = dict(prints)
        self._save()
        self.is_under_way = True

    def describe(self) -> str:
        """Return a line that says how many tables are not compared, and from when their results are."""
        if not self.kept:
            return f"all {len(self._prints)} tables are compared, and {self.path} gets the results"
        oldest, newest = (
            when.isoformat(timespec="seconds") for when in (min(self.kept.values()), max(self.kept.values()))
        )
        return (
            f"the results of {len(self.kept)} of {len(self._prints)} tables are from {self.path}, "
            f"compared from {oldest} to {newest}"
        )

    def add(self, results: Mapping[str, list[VerifyResult]]) -> None:
        """Write what was found of tables that are finished. Raises ZodanError (ZD001) if the file cannot be written."""
        assert self._content is not None
        for name, rows in results.items():
            masked = [
                replace(
                    row,
                    row_key=_masked(row.row_key, self._redact),
                    why=_masked(row.why, self._redact),
                    nodes=_masked(row.nodes, self._redact),
                )
                for row in rows
            ]
            self._content.tables[name] = Entry(self._prints[name], datetime.now(UTC), masked)
        self._save()

    def finish(self) -> None:
        """Write that the comparison is finished, so that the next call compares again what was different."""
        assert self._content is not None
        for name in self._prints:
            self._content.tables[name] = replace(self._content.tables[name], is_closed=True)
        self._save()
        self.is_under_way = False

    def results(self) -> list[VerifyResult]:
        """Return what was found of the tables of this call, by it and by those before, in the order of their names."""
        assert self._content is not None
        return [row for name in sorted(self._prints) for row in self._content.tables[name].results]

    @property
    def done(self) -> int:
        """The number of tables whose result is in the file."""
        return 0 if self._content is None else len(self._content.tables)

    def _check(self, content: _Content, cluster: Mapping[str, str], most: int) -> None:
        had, has = (", ".join(sorted(nodes)) for nodes in (content.cluster, cluster))
        if had != has:
            raise caller_error(f"{self.path} compares nodes {had}, and this call compares {has}", _OTHER)
        for node, identity in cluster.items():
            if content.cluster[node] != identity:
                raise caller_error(
                    f'{self.path} belongs to another cluster, or node "{node}" was made again or promoted since', _OTHER
                )
        if content.most != most:
            raise caller_error(
                f"{self.path} is of a comparison with --most {content.most}, and this call has {most}",
                f"Give --most {content.most}, or another file.",
            )

    def _load(self) -> _Content | None:
        """Return what is in the file, None if it is empty: then it is new, or its first call was killed at once."""
        try:
            text = self.path.read_text(encoding="utf-8")
            if not text:
                return None
            found = json.loads(text)
        except (OSError, ValueError):
            found = None
        if not isinstance(found, dict) or found.get("what") != _WHAT:
            raise caller_error(f"{self.path} is damaged, or no file of {_WHAT} --resume", _OTHER)
        if found.get("format") != _FORMAT:
            raise caller_error(
                f"{self.path} was written by another version of zodan-sql: its format is {found.get('format')}, "
                f"not {_FORMAT}",
                _OTHER,
            )
        try:
            if found.pop("digest") != _digest(found):
                raise ValueError
            tables = {
                name: Entry(
                    each["print"],
                    datetime.fromisoformat(each["compared_at"]),
                    [VerifyResult(**row) for row in each["results"]],
                    each["is_closed"],
                )
                for name, each in found["tables"].items()
            }
            return _Content(found["cluster"], found["most"], tables)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise caller_error(f"{self.path} is damaged", _OTHER) from None

    def _save(self) -> None:
        """Write the file in place of the one before, whole or not at all."""
        assert self._content is not None
        document: dict[str, Any] = {
            "what": _WHAT,
            "format": _FORMAT,
            "cluster": self._content.cluster,
            "most": self._content.most,
            "tables": {
                name: {
                    "print": entry.print,
                    "compared_at": entry.compared_at.isoformat(),
                    "results": [asdict(row) for row in entry.results],
                    "is_closed": entry.is_closed,
                }
                for name, entry in self._content.tables.items()
            },
        }
        document["digest"] = _digest(document)
        beside = self.path.with_name(self.path.name + ".new")
        try:
            beside.unlink(missing_ok=True)
            lock = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
            try:
                _take(lock, self.path)
                with open(lock, "w", encoding="utf-8", closefd=False) as file:
                    json.dump(document, file, ensure_ascii=False)
                    file.write("\n")
                    file.flush()
                    os.fsync(lock)
                beside.replace(self.path)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _unwritable(self.path, error) from None
        os.close(self._lock)
        self._lock = lock

    def close(self) -> None:
        """Let other calls have the file."""
        os.close(self._lock)


@contextmanager
def opened(path: Path, redact: Callable[[str], str], keeps: timedelta) -> Iterator[VerifyFile]:
    """Yield the file at ``path``, which no other call has meanwhile; it is made if it is missing.

    ``redact`` masks passwords. Results older than ``keeps`` count no longer. Raises ZodanError (ZD001) if the file
    cannot be read or written, is damaged or something else, or if another call has it.
    """
    try:
        path = path.resolve()
        is_new = not path.exists()
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, _MODE)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from None
    file = None
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise caller_error(f"{path} is no regular file", _OTHER)
        _take(lock, path)
        if os.fstat(lock).st_ino != path.stat().st_ino:
            raise _busy(path)
        file = VerifyFile(path, lock, redact, keeps)
        yield file
    finally:
        with suppress(OSError):
            if is_new and path.stat().st_size == 0:
                path.unlink()
        if file is None:
            os.close(lock)
        else:
            file.close()


def _take(lock: int, path: Path) -> None:
    """Lock a file that is open, if its file system can. Raises ZodanError (ZD001) if another call has it."""
    # On a file system without locks, whoever writes last has the file, whole.
    with suppress(OSError):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(path) from None


def _busy(path: Path) -> ZodanError:
    return caller_error(f"another call uses {path}", "Wait for its end, or give another file.")


def _unwritable(path: Path, error: Exception) -> ZodanError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return caller_error(f"could not write {path}: {why}", "Give a file in a folder that you may write to.")


def _is_decided(result: VerifyResult, most: int, different: bool) -> bool:
    """Return whether the result of a table stands; ``different``: whether one does that is different."""
    if result.result == "equal":
        return True
    is_whole = result.why is None or (result.different or 0) >= most
    return different and result.result == "different" and not result.undecided and is_whole


def _masked(value: Value, redact: Callable[[str], str]) -> Value:
    if isinstance(value, str):
        return cast(Value, redact(value))
    if isinstance(value, Mapping):
        return cast(Value, {name: _masked(item, redact) for name, item in value.items()})
    return value


def _digest(document: Mapping[str, Any]) -> str:
    """Return a digest of what a document says: a file that was cut, changed or merged has another one."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
