"""A recorded operation to draw a page of, with what is hard to show: markup in names, secrets, a step that failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from zodan_sql.showing.report import Record, RecordedStep, Surroundings

BEGAN = datetime(2026, 1, 1, 10, tzinfo=UTC)


def step(
    ordinal: int, node: str, title: str, state: str, begin: float | None, end: float | None, kind: str = "act"
) -> RecordedStep:
    return RecordedStep(
        ordinal,
        "phase",
        ordinal,
        kind,
        None,
        None,
        None,
        node,
        None,
        title,
        f"SELECT '<{ordinal}>', 'host={{dsn:n1}}'",
        None,
        None,
        None,
        None,
        state,
        1,
        "could not reach postgresql://me:s3cret@a/x" if state == "failed" else None,
        None if begin is None else BEGAN + timedelta(seconds=begin),
        None if end is None else BEGAN + timedelta(seconds=end),
    )


STEPS = [
    step(1, "n1", "look at n1", "done", 0, 3),
    step(2, "n<2>", "create slot x on n<2> password=s3cret", "done", 3, 20),
    step(3, "n3", "wait until n3 has applied the sync event of n1", "failed", 5000, 5010, "verify"),
    step(4, "n3", "later", "pending", None, None),
]
RECORD = Record(
    7,
    "add_node",
    "n3",
    "failed",
    {"src_node_name": "n1", "new_node_info": {"rack": 1}},
    {"n1": "host=a", "n<2>": "host=b", "n3": "host=c"},
    "a wait ran out",
    "dba",
    BEGAN,
    BEGAN + timedelta(seconds=5010),
    STEPS,
    Surroundings("app", "16.1", "5.0.11", "0.1.0", BEGAN + timedelta(hours=3)),
)
