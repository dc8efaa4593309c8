"""What is known of an unfinished clone: a file beside the data directory, because the copy has no journal yet."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from zodan_sql.errors import ZodanError, caller_error, precondition_error

_SUFFIX = ".zodan-clone.json"
_LOCK_SUFFIX = ".zodan-clone.lock"
#: Seconds for which a call waits for the end of one that was killed.
_LOCK_S = 15.0
_REST_S = 0.1
#: The only program that inherits the lock, as the kernel calls it.
_PROGRAM = "pg_basebackup"


@dataclass
class Record:
    """The facts of a clone. None of them is a secret."""

    source: str
    new: str
    slot: str
    #: The origin in the copy that says how far it goes.
    mark: str
    #: Whether the data directory was filled by this clone, and not restored by somebody else.
    fills: bool
    #: The member that the new node replaces; empty if it joins beside all of them.
    replaces: str
    #: The source's slot was there before the copy began, and has kept everything since.
    slot_lsn: str = ""
    system: str = ""
    #: The timeline of the source.
    timeline: int = 0
    #: When the source's server started, in seconds.
    source_started: int = 0
    #: How far the copy goes.
    lsn: str = ""
    #: Where the copy's server was last shut down, before it is started as a server of its own.
    rested: str = ""
    #: The steps that are done, and when.
    done: dict[str, str] = field(default_factory=dict)
    #: How many seconds each took, the last time it was tried.
    took: dict[str, float] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command that this is the record of."""
        return "replace-node --clone" if self.replaces else "clone"

    def note(self, step: str, took: float) -> None:
        """Record that a step is done, and how many seconds it took."""
        self.done[step] = datetime.now(UTC).isoformat(timespec="seconds")
        self.took[step] = round(took, 2)


def end_orphans(lock: Path) -> None:
    """End the programs that hold ``lock`` for a caller that was killed: they would go on writing."""
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(each.readlink() == lock for each in (process / "fd").iterdir()):
                holders.append((int(process.name), (process / "comm").read_text().strip()))
    own = os.getpid()
    if all(name == _PROGRAM for pid, name in holders if pid != own):
        for pid, _ in holders:
            if pid != own:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


class RecordFile:
    """The file of a record. What is saved is on disk when ``save`` returns."""

    def __init__(self, pgdata: Path) -> None:
        self.path = pgdata.parent / (pgdata.name + _SUFFIX)
        self._lock = pgdata.parent / (pgdata.name + _LOCK_SUFFIX)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Yield the descriptor of a lock that one call has at a time, and the programs that inherit it.

        Raises ZodanError: ZD110 if another call has it, ZD100 if the file cannot be written.
        """
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            file = self._lock.open("w")
        except OSError as error:
            raise precondition_error(
                f"{self._lock} cannot be written: {error.strerror}",
                "Let this user write there: the record is kept there.",
            ) from None
        with file:
            until = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise ZodanError(
                            "another clone is under way there", sqlstate="ZD110", hint="Wait for its end."
                        ) from None
                    end_orphans(self._lock)
                    time.sleep(_REST_S)
            yield file.fileno()
            if not self.path.exists():
                self._lock.unlink(missing_ok=True)

    def load(self) -> Record | None:
        """Return the record; None if there is no file. Raises ZodanError: ZD001 for a file of something else, ZD100."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return Record(**{each.name: found[each.name] for each in fields(Record)})
        except FileNotFoundError:
            return None
        except OSError as error:
            raise precondition_error(
                f"{self.path} cannot be read: {error.strerror}", "Give a data directory that this user can read."
            ) from None
        except (ValueError, KeyError, TypeError):
            raise caller_error(
                f"{self.path} is no record of a clone", "Look what it is, and move it out of the way."
            ) from None

    def save(self, record: Record) -> None:
        """Write the record in place of the one before, whole or not at all."""
        beside = self.path.with_name(self.path.name + ".new")
        with beside.open("w", encoding="utf-8") as file:
            json.dump(asdict(record), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)

    def remove(self) -> None:
        """Forget the clone."""
        self.path.unlink(missing_ok=True)
