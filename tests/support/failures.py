"""Calls that must fail, and everything that the caller is told then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from support.watching import words_of
from zodan_sql.sandbox import Node


@dataclass(frozen=True)
class Failure:
    """An error as the caller sees it. ``everything`` is every word of it, NOTICEs and WARNINGs before it too."""

    sqlstate: str
    message: str
    detail: str
    hint: str
    everything: str


def failure(node: Node, procedure: str, **arguments: Any) -> Failure:
    """Call a procedure that must fail and return how it did."""
    said: list[str] = []
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    with node.connect() as connection:
        connection.add_notice_handler(lambda notice: said.append(words_of(notice)))
        try:
            connection.execute(f"CALL {procedure}({names})".encode(), arguments)
        except psycopg.Error as error:
            diagnostic = error.diag
            return Failure(
                error.sqlstate or "",
                diagnostic.message_primary or str(error),
                diagnostic.message_detail or "",
                diagnostic.message_hint or "",
                "\n".join([*said, words_of(diagnostic), str(error)]),
            )
    raise AssertionError(f"{procedure} did not fail; it said: {said}")
