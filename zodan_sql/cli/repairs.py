"""The statements that repair rows, as files that psql runs, and what became of them."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryFile

from zodan_sql.cli.screen import Screen
from zodan_sql.client.verify import Outcome, Repair, Wish
from zodan_sql.errors import ZodanError, caller_error

#: Only the caller reads the values of rows.
_MODE = 0o600


def show(screen: Screen, outcome: Outcome, wish: Wish, output: Path | None) -> None:
    """Print the statements, or write them to a file for each node; and say which rows are left alone."""
    if output is not None:
        write(screen, outcome, wish, output)
    elif not wish.apply:
        for node in outcome.frames:
            screen.raw(script(outcome, wish, node))
    for each in outcome.repairs:
        if each.outcome not in (None, "repaired"):
            screen.line(f"{_name(each)} on {each.node} was left alone: {each.outcome}")
    if wish.apply:
        done = sum(each.outcome == "repaired" for each in outcome.repairs)
        screen.line(f"{done} of {len(outcome.repairs)} repairs done, as {wish.like} has the rows")
    elif not outcome.repairs:
        screen.line("there is nothing to repair")


def make_folder(output: Path) -> None:
    """Make the folder for the files if it is missing: a comparison may take hours, and a repair cannot be undone."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise _not_written(error) from None


def write(screen: Screen, outcome: Outcome, wish: Wish, output: Path) -> None:
    """Write a file for each node into a folder."""
    try:
        for node in outcome.frames:
            path = output / f"{node.replace('/', '_')}.sql"
            # A file that is there may be one that others can read.
            beside = path.with_name(path.name + ".new")
            beside.unlink(missing_ok=True)
            beside.touch(mode=_MODE, exist_ok=False)
            beside.write_text(script(outcome, wish, node), encoding="utf-8")
            beside.replace(path)
            screen.line(str(path))
    except OSError as error:
        raise _not_written(error) from None


def _not_written(error: OSError) -> ZodanError:
    return caller_error(f"could not write {error.filename}: {error.strerror}", "Choose another folder.")


def script(outcome: Outcome, wish: Wish, node: str) -> str:
    """Return the statements for a node."""
    first, last = outcome.frames[node]
    lines = [
        f"-- Makes rows of node {_word(node)} as node {_word(wish.like)} has them.",
        "-- Run it on that node, with psql, as superuser. A row that has changed since it was compared is left alone.",
        "-- It goes on after an error, and drops its replication origins in any case.",
        "\\set ON_ERROR_STOP off",
        "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;",
        f"{first};",
    ]
    for each in outcome.repairs:
        if each.node == node:
            lines.append(f"-- {each.action} {_word(_name(each))}")
            lines.append(
                f"-- left alone: {_word(each.outcome or '')}" if each.statement is None else f"{each.statement};"
            )
    return "\n".join([*lines, f"{last};", ""])


def _name(each: Repair) -> str:
    return f"{each.table_name} {json.dumps(each.row_key, ensure_ascii=False)}"


def _word(text: str) -> str:
    """Return a text that does not end the comment it stands in."""
    return " ".join(text.split())
