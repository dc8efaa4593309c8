"""What is known of an unfinished clone: a file beside the data directory, because the copy has no journal yet."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from zodan_sql.errors import caller_error

_SUFFIX = ".zodan-clone.json"


@dataclass
class Record:
    """The facts of a clone. None of them is a secret."""

    source: str
    new: str
    slot: str
    #: Whether the data directory was filled by this clone, and not restored by somebody else.
    fills: bool
    #: The source's slot was there before the copy began, and has kept everything since.
    slot_lsn: str = ""
    system: str = ""
    #: The timeline of the source.
    timeline: int = 0
    #: When the source's server started, in seconds.
    source_started: int = 0
    #: How far the copy goes.
    lsn: str = ""
    #: The steps that are done, and when.
    done: dict[str, str] = field(default_factory=dict)

    def note(self, step: str) -> None:
        """Record that a step is done."""
        self.done[step] = datetime.now(UTC).isoformat(timespec="seconds")


class RecordFile:
    """The file of a record. What is saved is on disk when ``save`` returns."""

    def __init__(self, pgdata: Path) -> None:
        self.path = pgdata.parent / (pgdata.name + _SUFFIX)

    def load(self) -> Record | None:
        """Return the record; None if there is no file. Raises ZodanError (ZD001) for a file of something else."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return Record(**{each.name: found[each.name] for each in fields(Record)})
        except FileNotFoundError:
            return None
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
