"""Fixtures: the engine, clusters of nodes, and a single database."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from support import gathering, watching
from support.clusters import MakeCluster
from support.places import make_place
from support.secrets import PASSWORD
from zodan_sql.sandbox import Cluster, Engine, Node, detect_engine

_LOG_TAIL = 120
_CLUSTERS = pytest.StashKey[list[Cluster]]()

watching.cast()


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Return the server that clusters run on."""
    return detect_engine()


def pytest_configure(config: pytest.Config) -> None:
    """Gather what comes out of the tests, and take Ctrl-C.

    What a shell starts in the background ignores Ctrl-C, and so would every command the tests start.
    """
    gathering.register(config)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say which engine the tests run on: what holds on the stand-in may not hold on Spock."""
    try:
        return f"sandbox: {detect_engine().description}"
    except Exception as error:
        return f"sandbox: none ({error})"


@pytest.fixture
def make_cluster(request: pytest.FixtureRequest, engine: Engine) -> Iterator[MakeCluster]:
    """Return a function that makes a cluster: members n1.. in a mesh, then blanks, destroyed after the test."""
    yield from _maker(request, engine)


@pytest.fixture(scope="module")
def make_module_cluster(request: pytest.FixtureRequest, engine: Engine) -> Iterator[MakeCluster]:
    """Return the same for a cluster that all tests of a module share: none of them changes it."""
    yield from _maker(request, engine)


def _maker(request: pytest.FixtureRequest, engine: Engine) -> Iterator[MakeCluster]:
    clusters = request.node.stash.setdefault(_CLUSTERS, [])

    def make(
        members: int | Sequence[str] = 3,
        blanks: int | Sequence[str] = 1,
        mesh: bool = True,
        extra_conf: Mapping[str, str] | None = None,
        dbname: str = "app",
        engine: Engine = engine,
    ) -> Cluster:
        names = [f"n{i}" for i in range(1, members + 1)] if isinstance(members, int) else list(members)
        first = len(names) + 1
        blank_names = [f"n{first + i}" for i in range(blanks)] if isinstance(blanks, int) else list(blanks)
        base = make_place()
        cluster = Cluster.create(base, names, blank_names, engine, dbname, mesh, extra_conf, PASSWORD)
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        cluster.destroy()


@pytest.fixture
def sandbox_folder() -> Iterator[Path]:
    """Return the path of a folder that is not there yet; pytest's own are closed to the user of the servers."""
    parent = make_place()
    yield parent / "box"
    shutil.rmtree(parent)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Add the end of every node's log to the report of a failed test."""
    report = yield
    if report.failed:
        clusters = [cluster for holder in item.listchain() for cluster in holder.stash.get(_CLUSTERS, [])]
        for cluster in clusters:
            for node in cluster.nodes:
                report.sections.append((f"{node.name} log ({call.when})", node.log_tail(_LOG_TAIL)))
    return report


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[Node]:
    """Return a server whose database has Spock and dblink and is no node."""
    base = make_place()
    cluster = Cluster.create(
        base, [], ["single"], engine, extra_conf={"max_prepared_transactions": "4"}, password=PASSWORD
    )
    yield cluster["single"]
    cluster.destroy()


_numbers = itertools.count(1)


@pytest.fixture
def database(server: Node) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection to a fresh database with Spock and dblink on a server of its own."""
    name = f"test_{next(_numbers)}"
    with server.connect(dbname="postgres") as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(server.dbname))
        )
    # It goes with its server: DROP DATABASE waits for every process, and pglogical's supervisor sleeps for minutes.
    with server.connect(dbname=name) as connection:
        yield connection
