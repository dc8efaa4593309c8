"""What is left of a comparison after a repair."""

from __future__ import annotations

from zodan_sql.cli.verify import _after
from zodan_sql.client.verify import Outcome, Repair, VerifyResult


def test_rows_that_were_repaired_leave_those_that_are_undecided() -> None:
    table = VerifyResult("t", None, "different", 3, 1, 1, 1, 0.1, None, None)
    done = Repair("n2", "t", {"k": "1"}, "update", "UPDATE", "repaired", 1)
    assert [each.result for each in _after([table], Outcome([table], [done]))] == ["undecided"]
    alone = Repair("n2", "t", {"k": "1"}, "update", None, "the row has changed on node n1", 1)
    assert [each.result for each in _after([table], Outcome([table], [alone]))] == ["different"]
