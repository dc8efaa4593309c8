"""What sqlfluff says of the rendered SQL: layout and capitals of scripts, statements and bodies of SQL functions."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from sqlfluff.core import FluffConfig, Linter

from zodan_sql.building.lint.findings import Finding
from zodan_sql.building.lint.source import Routine, Source

#: Layout and capitals. sqlfluff takes parameters for columns, and does not parse every expression of PostgreSQL's. How
#: wide a line is, is a matter of its template: a constant may be long.
_OF_A_BODY = re.compile("(?!LT05)(?:LT|CP)")
_CONFIG = Path(__file__).with_name("sqlfluff.cfg")
#: What stands in the place of the statements before a piece: a script may not begin with an empty line.
_BEFORE = "SELECT 1;"
#: The same routine is created in one script, and replaced in another.
_CREATE = re.compile(r"^CREATE (?=FUNCTION|PROCEDURE)", re.MULTILINE)
#: About how many characters sqlfluff is given at once: each call takes time of its own.
_BATCH = 20_000
_FEW = 4

_Finding = tuple[int, str, str]


@dataclass(frozen=True)
class _Piece:
    """A text that stands on its own, and where its first line is in its file."""

    file: str
    line: int
    text: str
    #: The routine whose body it is.
    routine: str | None = None


def style(sources: Iterable[Source], routines: Iterable[Routine]) -> list[Finding]:
    """Return sqlfluff's findings for scripts, and for bodies of SQL functions, under sqlfluff's own codes.

    Of a body, what needs its parameters to be known is left out.
    """
    pieces = [piece for source in sources for piece in _split(source)]
    pieces += [_body(routine) for routine in routines]
    # Most of it stands in several files, and sqlfluff takes its time.
    batches = list(_batches(dict.fromkeys(piece.text for piece in pieces)))
    found: dict[str, list[_Finding]] = {}
    # A process takes longer to begin than a few texts to read.
    with ProcessPoolExecutor() if len(batches) > _FEW else nullcontext() as pool:
        for each in (pool.map if pool else map)(_style, batches):
            found |= each
    return [
        Finding(piece.file, piece.line + line - 1, code, f"{piece.routine}: {message}" if piece.routine else message)
        for piece in pieces
        for line, code, message in found[piece.text]
        if piece.routine is None or _OF_A_BODY.match(code)
    ]


def _split(source: Source) -> Iterator[_Piece]:
    """Yield the statements of a script, each with what stands before it; all of it if it does not parse."""
    content = source.text
    start, line = 0, 1
    for statement_end in source.ends[:-1]:
        end = content.find("\n", statement_end)
        # Another statement may stand in the same line.
        if end <= start or content[start:end].rstrip()[-1:] != ";":
            continue
        yield _piece(source.file, line, content[start:end] + "\n", is_first=start == 0)
        line += content.count("\n", start, end)
        start = end
    yield _piece(source.file, line, content[start:], is_first=start == 0)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists. One that cannot follow another, because it is no whole statement, has its own."""
    batch: list[str] = []
    for text in texts:
        if not text.startswith(_BEFORE) or not text.endswith(";\n"):
            yield [text]
            continue
        batch.append(text)
        if sum(map(len, batch)) > _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _piece(file: str, line: int, text: str, *, is_first: bool) -> _Piece:
    return _Piece(file, line, f"{'' if is_first else _BEFORE}{_CREATE.sub('CREATE OR REPLACE ', text)}")


def _body(routine: Routine) -> _Piece:
    empty = len(routine.body) - len(routine.body.lstrip("\n"))
    return _Piece(routine.file, routine.body_line + empty, routine.body.strip("\n") + "\n", routine.full_name)


def _style(texts: list[str]) -> dict[str, list[_Finding]]:
    """Return the findings of texts that follow each other, each with its line within its text."""
    found: dict[str, list[_Finding]] = {text: [] for text in texts}
    first = list(accumulate((text.count("\n") for text in texts), initial=1))
    for error in _linter().lint_string("".join(texts)).get_violations():
        place = min(bisect_right(first, error.line_no), len(texts)) - 1
        found[texts[place]].append((error.line_no - first[place] + 1, error.rule_code(), error.desc()))
    return found


@cache
def _linter() -> Linter:
    return Linter(config=FluffConfig.from_string(_CONFIG.read_text(encoding="utf-8")))
