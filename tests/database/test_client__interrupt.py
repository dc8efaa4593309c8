"""A Ctrl-C ends the wait for a statement, also if it comes while a message of the statement is shown."""

from __future__ import annotations

import os
import signal
from typing import Any

import psycopg
import pytest

from zodan_sql.client.connection import listen


def test_ctrl_c_while_a_message_is_shown(database: psycopg.Connection[Any]) -> None:
    shown: list[str] = []

    def show(severity: str, message: str, hint: str) -> None:
        shown.append(message)
        os.kill(os.getpid(), signal.SIGINT)

    listen(database, show)
    with pytest.raises(KeyboardInterrupt):
        database.execute("DO $$ BEGIN RAISE NOTICE 'a step'; PERFORM pg_sleep(60); END $$")
    assert shown == ["a step"]
    # The statement was cancelled, and the session is of use.
    assert database.execute("SELECT 1").fetchone() == (1,)
