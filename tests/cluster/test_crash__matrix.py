"""Whatever dies at whatever step of an operation, it can be finished, and an addition can be taken back.

A part of a sample runs always. The rest of the sample, which has every step once and every fault and ending about
equally often, and the whole matrix are slow. Each test prints its part as a table, steps x faults, one letter a cell
(support.crash.Stage.run tells which).
"""

from __future__ import annotations

import itertools
import random
import time
import traceback
from collections.abc import Iterator, Sequence

import pytest

from support.clusters import MakeCluster
from support.crash import ENDINGS, FAULTS, Case, Ending, Fault, Operation, Stage, Step
from support.gathering import TABLE

_SEED = 20240917
#: Parts of the sample: (operation, members, part, of how many), each on a cluster of its own.
_SAMPLE = [
    *(pytest.param("add_node", 2, part, 28, marks=[pytest.mark.slow] if part else []) for part in range(28)),
    *(pytest.param("remove_node", 2, part, 9, marks=[pytest.mark.slow] if part else []) for part in range(9)),
]
_HEADS = {fault: "".join(word[0] for word in fault.split()) for fault in FAULTS}

Results = dict[tuple[Step, Fault, Ending], str]


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("operation", "members", "part", "parts"), _SAMPLE)
def test_a_sample_with_every_step(
    make_cluster: MakeCluster, table: Results, operation: Operation, members: int, part: int, parts: int
) -> None:
    stage = Stage(make_cluster, members)
    combinations = _combinations(f"{operation} {members}")
    cases = [Case(step, *next(combinations)) for step in stage.steps(operation)]
    _run(make_cluster, stage, operation, cases[part::parts], table)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_step_with_three_members(make_cluster: MakeCluster, table: Results) -> None:
    stage = Stage(make_cluster, members=3)
    combinations = _combinations("three members")
    cases = [Case(step, *next(combinations)) for step in stage.steps("add_node")]
    _run(make_cluster, stage, "add_node", cases, table)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", ["add_node", "remove_node"])
def test_the_whole_matrix(
    make_cluster: MakeCluster, table: Results, operation: Operation, fault: Fault, ending: Ending
) -> None:
    stage = Stage(make_cluster)
    cases = [Case(step, fault, ending) for step in stage.steps(operation)]
    _run(make_cluster, stage, operation, cases, table)


@pytest.fixture(scope="module")
def tables() -> dict[str, Results]:
    """Return the results of this module, by the name of the test."""
    return {}


@pytest.fixture
def table(request: pytest.FixtureRequest, tables: dict[str, Results]) -> Iterator[Results]:
    """Return where a test puts its results; they are printed when it ends."""
    parameters = getattr(request.node, "callspec", None)
    operation = parameters.params["operation"] if parameters else "add_node"
    results = tables.setdefault(f"{request.node.originalname}, {operation}", {})
    before = len(results)
    yield results
    if len(results) > before:
        request.node.user_properties.append((TABLE, f"{request.node.originalname}, {operation}\n{_draw(results)}"))


def _combinations(seed: str) -> Iterator[tuple[Fault, Ending]]:
    """Yield faults with endings, each as often as any other, in an order that depends on ``seed`` alone."""
    every = list(itertools.product(FAULTS, ENDINGS))
    chance = random.Random(f"{_SEED} {seed}")
    while True:
        chance.shuffle(every)
        yield from every


def _run(
    make_cluster: MakeCluster, stage: Stage, operation: Operation, cases: Sequence[Case], results: Results
) -> None:
    """Run cases on one cluster after another: a case that failed leaves none for the next."""
    failed = []
    for number, case in enumerate(cases):
        begun = time.monotonic()
        try:
            letter = stage.run(operation, case)
        except Exception as error:
            letter = "!"
            failed.append(f"{case}: {error}\n{stage.describe()}\n{_where(error)}")
            print(failed[-1])
            stage.cluster.stop("immediate")
            if number + 1 < len(cases):
                stage = Stage(make_cluster, members=stage.size)
        results[case.step, case.fault, case.ending] = letter
        print(f"{letter} {time.monotonic() - begun:.1f} s {case}")
    assert not failed, f"{len(failed)} of {len(cases)} cases failed\n" + "\n".join(failed)


def _where(error: Exception) -> str:
    return "".join(traceback.format_tb(error.__traceback__)[-3:])


def _draw(results: Results) -> str:
    columns = list(itertools.product(FAULTS, ENDINGS))
    legend = ", ".join(f"{head} {fault}" for fault, head in _HEADS.items())
    lines = [f"{legend}; each: resumed, rolled back", "   " + " ".join(f"{_HEADS[fault]:<2}" for fault in FAULTS)]
    for step in sorted({key[0] for key in results}, key=lambda step: step.ordinal):
        cells = [results.get((step, fault, ending), ".") for fault, ending in columns]
        pairs = " ".join("".join(pair) for pair in zip(cells[::2], cells[1::2], strict=True))
        lines.append(f"{step.ordinal:>2} {pairs}  {step.node}: {step.title}")
    good = sum(letter != "!" for letter in results.values())
    lines.append(f"{good} of {len(results)} cases ended as they should")
    return "\n".join(lines)
