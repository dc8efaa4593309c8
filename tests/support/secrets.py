"""Passwords that tests use, and the net into which everything goes that comes out of a run."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

from zodan_sql.sandbox.cluster import PASSWORD_PREFIX

#: Of every role of every cluster that tests make: to be quoted in keywords, URIs, SQL, shells and JSON, and by its
#: long words known even where only a part of it is told. {dsn:n1} is what a plan binds, $do$ what it quotes with.
PASSWORD = r"""Qz7hXaK2 '"\%41@:/?&#=+;$do${dsn:n1} Wv9kRdM3"""
#: Of nobody: given where a call has to fail.
WRONG = "Hj5vBq8T-Yn3dLz6C"
#: What a test tells on purpose, to see the net hold it.
PLANTED = "Rf4wGp9S 'Tk2mNx7B"
_REGISTERED = (PASSWORD, WRONG, PLANTED)

#: A password that a sandbox has made for itself.
_GENERATED = re.compile(rf"{PASSWORD_PREFIX}[\w-]{{24}}(?![\w-])")
_WORD = re.compile(r"[A-Za-z0-9]{8,}")
_AROUND = 100

#: A line of a server's log begins with this (log_line_prefix of the sandbox); others continue the one before.
_STAMP = r"^\d{4}-\d\d-\d\d [\d:.]+ [A-Z]+ \[\d+\] "
_LOG_LINE = re.compile(_STAMP, re.MULTILINE)
#: Spock's own background workers (pglogical's, on the stand-in) write the connection string to the log when they cannot
#: reach their provider: "DETAIL:  dsn was:  host=... password=...". No session of Zodan's has a part in that, and no
#: setting that Zodan may change keeps it out. The same line from a client's session is a leak.
_WORKERS_DSN = re.compile(_STAMP + r"(?:spock|pglogical) (?:apply|sync) [^\n]* DETAIL:  dsn was: ")


@dataclass(frozen=True)
class Leak:
    """A password where none may be."""

    kind: str
    where: str
    test: str
    secret: str
    excerpt: str

    def __str__(self) -> str:
        return f"{self.kind}, {self.where}, {self.test}: {self.excerpt!r}"


def words(secret: str) -> list[str]:
    """Return the words of a password that no way of quoting changes, each too long to be anything else."""
    return _WORD.findall(secret)


def spellings(secret: str) -> list[str]:
    """Return what betrays a password: each of its words, in letters, percent-encoded to the last letter, or in hex."""
    found = []
    for word in words(secret):
        percent = "".join(f"%{byte:02X}" for byte in word.encode())
        found += [word, percent, percent.lower(), word.encode().hex(), word.encode().hex().upper()]
    return found


def find(text: str) -> Iterator[tuple[str, int]]:
    """Find registered passwords in a text, and those that sandboxes make: which, and where."""
    for secret in _REGISTERED:
        for spelling in spellings(secret):
            place = text.find(spelling)
            if place >= 0:
                yield secret, place
                break
    if PASSWORD_PREFIX in text and (made := _GENERATED.search(text)):
        yield made[0], made.start()


@dataclass(frozen=True)
class _Entry:
    kind: str
    where: str
    test: str
    start: int
    length: int


class Net:
    """Keeps what comes out of a run until somebody looks. Texts lie in a file: logs are long."""

    def __init__(self) -> None:
        #: The test under way.
        self.test = ""
        #: What should have been collected and could not.
        self.missed: list[str] = []
        self._entries: list[_Entry] = []
        self._texts = tempfile.TemporaryFile()  # noqa: SIM115
        self._lock = threading.Lock()

    def add(self, kind: str, where: str, text: str) -> None:
        """Keep a text. ``where`` says where it came out."""
        data = text.encode(errors="replace")
        if not data.strip():
            return
        with self._lock:
            start = self._texts.seek(0, 2)
            self._texts.write(data)
            self._entries.append(_Entry(kind, where, self.test, start, len(data)))

    def add_log(self, where: str, text: str) -> None:
        """Keep a server's log, without what no session of Zodan's says."""
        starts = [0, *(found.start() for found in _LOG_LINE.finditer(text)), len(text)]
        self.add("log", where, "".join(line for a, b in pairwise(starts) if not is_foreign(line := text[a:b])))

    def kinds(self, but: str = "no test") -> Counter[str]:
        """Count what was kept, by kind, without what came out of tests whose names hold ``but``."""
        return Counter(entry.kind for entry in self._entries if but not in entry.test)

    def tests(self) -> set[str]:
        """Return the tests that anything came out of."""
        return {entry.test for entry in self._entries}

    def leaks(self) -> list[Leak]:
        """Look for every password in everything."""
        return [leak for entry in list(self._entries) for leak in self._look(entry)]

    def save(self, file: Path) -> None:
        """Write everything to a file and one beside it, for a net in another process."""
        with self._lock, file.open("wb") as texts:
            self._texts.seek(0)
            shutil.copyfileobj(self._texts, texts)
            about = {"entries": [astuple(entry) for entry in self._entries], "missed": self.missed}
            _about(file).write_text(json.dumps(about))

    def take(self, file: Path) -> None:
        """Add what another net has saved, and delete it there."""
        about = json.loads(_about(file).read_text())
        with self._lock, file.open("rb") as texts:
            start = self._texts.seek(0, 2)
            shutil.copyfileobj(texts, self._texts)
            for kind, where, test, begins, length in about["entries"]:
                self._entries.append(_Entry(kind, where, test, start + begins, length))
        self.missed += about["missed"]
        file.unlink()
        _about(file).unlink()

    def _look(self, entry: _Entry) -> Iterator[Leak]:
        with self._lock:
            self._texts.seek(entry.start)
            text = self._texts.read(entry.length).decode()
        for secret, place in find(text):
            excerpt = text[max(0, place - _AROUND) : place + _AROUND]
            yield Leak(entry.kind, entry.where, entry.test, secret, excerpt)


def _about(file: Path) -> Path:
    return file.with_suffix(".json")


def is_foreign(line: str) -> bool:
    """Tell whether a line of a server's log is one that Spock's workers write without anybody asking them."""
    return _WORKERS_DSN.match(line) is not None
