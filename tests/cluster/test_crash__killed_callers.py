"""Callers killed at random moments of a join under load, and called again at once."""

from __future__ import annotations

import os
import random
import threading
import time

import psycopg
import pytest

from support.calls import call
from support.clusters import MakeCluster
from support.crash import Stage
from support.tables import wait_level

#: How many callers are killed; ZODAN_KILLS names another number.
_KILLS = 20
#: How long a call may be told that another operation is under way, after its caller was killed.
_REFUSED_S = 5.0
_BUDGET_S = 120.0


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_every_killed_caller_is_called_again(make_cluster: MakeCluster) -> None:
    stage = Stage(make_cluster)
    if stage.cluster.engine.is_real:
        for node in stage.cluster.nodes:
            for name in ("enable_ddl_replication", "include_ddl_repset", "allow_ddl_from_functions"):
                node.execute(f"ALTER SYSTEM SET spock.{name} = on")
            node.execute("SELECT pg_reload_conf()")
    begun = time.monotonic()
    stage.make_ready("remove_node")
    lasts = time.monotonic() - begun
    stage.make_ready("add_node")
    chance = random.Random(int(os.environ.get("ZODAN_SEED", "1")))
    longest, done = 0.0, 0
    for number in range(int(os.environ.get("ZODAN_KILLS", str(_KILLS)))):
        delay = chance.uniform(0, 1.2 * lasts)
        with stage.writers() as writers:
            if _killed_after(stage, delay):
                longest = max(longest, _call_again(stage, f"kill {number + 1}, after {delay:.2f} s"))
            else:
                done += 1
        assert writers.failures == []
        stage.note_end("add_node")
        wait_level(stage.cluster.members)
        stage.check_level()
        stage.make_ready("add_node")
        print(f"{number + 1}: killed after {delay:.2f} s", flush=True)
    print(f"told that another is under way for {longest:.1f} s at most; {done} were done before they were killed")


def _killed_after(stage: Stage, delay_s: float) -> bool:
    """Call a join, kill its caller after a while; tell whether it was still under way."""
    over = threading.Event()
    connection = stage.own.connect()
    arguments = stage.arguments["add_node"]
    names = ", ".join(f"{name} => %({name})s" for name in arguments)
    errors: list[psycopg.Error] = []

    def run() -> None:
        try:
            connection.execute(f"CALL spock.add_node({names})".encode(), arguments)
        except psycopg.Error as error:
            errors.append(error)
        over.set()

    threading.Thread(target=run, daemon=True).start()
    over.wait(delay_s)
    stage.own.execute("SELECT pg_terminate_backend(%(pid)s)", {"pid": connection.info.backend_pid})
    assert over.wait(_BUDGET_S), "the killed call does not end"
    connection.close()
    return bool(errors)


def _call_again(stage: Stage, what: str) -> float:
    """Call until it is no longer refused; return for how long it was."""
    begun = time.monotonic()
    refused = 0.0
    while True:
        try:
            call(stage.own, "spock.add_node", **stage.arguments["add_node"])
        except psycopg.Error as error:
            refused = time.monotonic() - begun
            assert error.sqlstate == "ZD110", f"{what}: {error}\n{stage.describe()}"
            assert refused < _REFUSED_S, f"{what}: {error}"
        else:
            return refused
