"""The model proves the plan that is run: it has the plan's phases, in their order, but for those named here."""

from __future__ import annotations

import pytest

from model.protocol import COPY_TRIES, FLIP_TRIES, Step, plan_addition, plan_removal
from zodan_sql.building import render

#: What no row and no position depends on.
_NOT_MODELLED = {
    "add": {
        # Roles, sequences, views and the empty schema of Zodan: objects that no stream carries.
        *("roles_before", "roles", "sequences", "views", "tidy"),
        # Indexes that are built when the rows are there, and statistics.
        *("indexes", "analyzed"),
        # Waits that make the pause short.
        *("ready", "near", "nearly"),
        # A comparison, which changes nothing.
        "verify",
    },
    # What is done for a node that is dead: the model removes one that answers.
    "remove": {"halt", "halted", "level", "levelled"},
}


@pytest.mark.parametrize(
    ("plan", "steps"),
    [("add", plan_addition("n1", ["n2", "n3"], "n4")), ("remove", plan_removal("n4", ["n1", "n2", "n3"]))],
)
def test_the_phases_are_those_of_the_plan(plan: str, steps: list[Step]) -> None:
    modelled = list(dict.fromkeys(step.phase for step in steps))
    ordered = render.read_phases()[plan]
    assert modelled == [phase for phase in ordered if phase not in _NOT_MODELLED[plan]]


def test_a_call_tries_as_often_as_the_model() -> None:
    groups = render.read_groups()
    assert (groups["flip"], groups["copy"]) == (FLIP_TRIES, COPY_TRIES)
