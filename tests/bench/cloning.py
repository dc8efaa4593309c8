"""A whole join by a physical copy, beside one by Zodan's copy of the rows: with the same rows."""

from __future__ import annotations

import json
import time

from bench import copies
from bench.filling import Data
from bench.report import Report
from support.clones import clone, make_place
from zodan_sql.sandbox import Cluster, os_user

_KIND = "joins by a physical copy, beside a copy of the rows"
_JOBS = 2


def measure(cluster: Cluster, data: Data, report: Report) -> None:
    """Measure both joins as a whole, and each step of the clone."""
    by_rows = copies.by_zodan(cluster, data, jobs=_JOBS)
    report.add(_KIND, f"{data.name}, rows, jobs {_JOBS}", {"whole s": by_rows.seconds})
    cluster.add_blank(copies.NEW)
    place = make_place(cluster, copies.NEW)
    began = time.monotonic()
    ended = clone(cluster["n1"], place, "--json")
    took = time.monotonic() - began
    assert ended.code == 0, ended.err
    steps = json.loads(ended.out)["took_s"]
    copies.end_join(cluster, place, data)
    place.stop("immediate")
    os_user.remove_folder(place.folder)
    cluster.blanks.remove(place)
    others = took - steps["copy"]
    values = {"whole s": took, **{f"{step} s": seconds for step, seconds in steps.items()}}
    values |= {"besides the copy s": others, "times as fast": by_rows.seconds / took}
    report.add(_KIND, f"{data.name}, physical", values)
