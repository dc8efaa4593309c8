"""Hooks of pytest that gather what comes out of tests, in one process or in several (pytest -n): for the net.

With several, each worker hands its net over when it has ended, and the tests that look at a whole run are left out of
the workers: they run at the end, in the process that started them.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support import watching

#: The file whose tests look at what came out of all others.
LAST = "test_secrets__whole_run.py"
#: The files out of which the tests of this run come.
SELECTED = pytest.StashKey[set[Path]]()
#: A property of a test's report: what is printed when the test ends, whether it passes or not.
TABLE = "table"


def register(config: pytest.Config) -> None:
    """Add the hooks that this process needs."""
    config.pluginmanager.register(_Everywhere(config), "gathering")
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(_Worker(config), "gathering in a worker")
    elif config.getoption("numprocesses", None):
        config.pluginmanager.register(_Controller(), "gathering from workers")


class _Everywhere:
    """Takes what comes out of the tests of this process, and prints the tables of all."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Put the tests that look at what came out of all others last."""
        session.stash[SELECTED] = {item.path for item in items}
        items.sort(key=_is_last)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Tell the net which test is under way."""
        watching.NET.test = item.nodeid
        return (yield)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Take what a test wrote into its folder."""
        folder = getattr(item, "funcargs", {}).get("tmp_path")
        if folder is not None:
            watching.take_files(folder)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a test printed and did not look at; a report that a worker has sent is one that it has taken."""
        if not hasattr(report, "node"):
            for name, text in (("stdout", report.capstdout), ("stderr", report.capstderr), ("logging", report.caplog)):
                watching.NET.add("command", f"{name} in this process", text)
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.when == "teardown" and terminal is not None:
            for text in (value for name, value in report.user_properties if name == TABLE):
                terminal.write(f"\n{text}\n")


class _Worker:
    """Runs what it is told to, and hands over what came out of it."""

    def __init__(self, config: Any) -> None:
        self._file = Path(config.workerinput["nets"]) / config.workerinput["workerid"]
        self._output = config.workeroutput

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave the last tests to the other process."""
        kept = [item for item in items if not _is_last(item)]
        self._output["left"] = len(items) - len(kept)
        items[:] = kept

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Hand the net over, when the servers of all fixtures are gone and looked at."""
        watching.NET.save(self._file)
        self._output["net"] = str(self._file)


class _Controller:
    """Starts workers, gathers what they hand over, and then runs the tests that look at all of it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="zodan-nets-")
        self._left = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to put its net."""
        node.workerinput["nets"] = self._folder.name

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep the tests of a file together, since they may share a cluster, and the files in their order."""
        from xdist.scheduler import LoadFileScheduling

        # Otherwise files of few tests would come last: here, those are the ones that take longest.
        config.option.loadscopereorder = False
        return LoadFileScheduling(config, log)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take the net of a worker that has ended."""
        handed_over = getattr(node, "workeroutput", None) or {}
        self._left = max(self._left, handed_over.get("left", 0))
        if "net" in handed_over:
            watching.NET.take(Path(handed_over["net"]))
        else:
            watching.NET.missed.append(f"everything of worker {node.gateway.id}: {error}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Any:
        """Run the last tests when the workers have run all others."""
        result = yield
        if self._left:
            before = session.testscollected
            last = [item for item in session.perform_collect() if isinstance(item, pytest.Item) and _is_last(item)]
            session.testscollected = before + len(last)
            for item, following in pairwise([*last, None]):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return result


def _is_last(item: pytest.Item) -> bool:
    return item.path.name == LAST
