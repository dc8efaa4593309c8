"""What the protocol does not promise or need, so that nobody takes the model's assumptions for its results."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.cluster_model import Change, Dangling, Kind, Stream, Table
from model.machines import NEW, SOURCE, AdditionMachine
from model.protocol import RIGHT
from model.test_protocol__right import run


def test_a_row_handed_on_during_the_flip_may_overtake() -> None:
    """A row of S that A changes before N has it: after the switch nothing orders the two direct streams."""
    machine = AdditionMachine(late=True, phases=["confirm"])
    machine.call(peers=1, phase=0, rolls_back=False, rows=0)
    cluster = machine.cluster
    cluster.insert(SOURCE, Table.ITEMS)
    key = cluster.commits[-1].number
    machine.rest(flush=True)
    assert cluster.may_change("A", key, machine.nodes_that_count())
    machine.late = False
    assert not cluster.may_change("A", key, machine.nodes_that_count())

    cluster.commit("A", Change(Kind.UPDATE, key))
    while not machine._has_joined():
        machine.go_on(1, 0, helped=False)
    cluster.start_worker(Stream("A", NEW))
    with pytest.raises(Dangling):
        while cluster.apply(Stream("A", NEW)):
            pass


def test_the_nudge_only_spares_retries() -> None:
    """What an idle worker still takes changes nothing: confirm sees that a position moved, and no row depends on it."""
    run(lambda: AdditionMachine(replace(RIGHT, nudge=False), phases=["pause", "positions", "detach"]), 50, 20)
