"""What the checks look at, read from a cluster once, to be doctored and judged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.calls import load_zodan
from zodan_sql.client.checks import CheckResult
from zodan_sql.sandbox import Cluster, Node

Doctor = Callable[["Facts"], None]

_GATHER = """
SELECT zodan.gather_structure(zodan.gather_more(s.p_facts, s.p_dsns), s.p_join, s.p_dsns), s.p_join,
       zodan.probe_pairs(s.p_facts, s.p_dsns)
  FROM zodan.survey_members(%(source)s, %(source_dsn)s, %(new)s, %(new_dsn)s, 'test') AS s
"""


@dataclass
class Facts:
    """Facts, join and probes as the check functions take them."""

    caller: Node
    facts: Any
    join: Any
    probes: Any

    @classmethod
    def read(cls, cluster: Cluster, source: str, new: str) -> Facts:
        """Read them as a health check would, called on the new node."""
        caller = cluster[new]
        load_zodan(caller)
        arguments = {"source": source, "source_dsn": cluster[source].dsn(), "new": new, "new_dsn": caller.dsn()}
        ((facts, join, probes),) = caller.execute(_GATHER, arguments)
        return cls(caller, facts, join, probes)

    def joined(self) -> Facts:
        """Return them as they are once the new node is a member."""
        facts = copy.deepcopy(self)
        facts.join |= {"members": [*self.join["members"], self.join["new"]], "joined": True}
        return facts

    def doctored(self, doctor: Doctor) -> Facts:
        """Return a copy that ``doctor`` has changed."""
        facts = copy.deepcopy(self)
        doctor(facts)
        return facts

    def set(self, path: str, value: Any) -> None:
        """Set what is at a path of keys and places, such as n1.host.slots.0.active."""
        here: Any = self.facts
        *keys, last = path.split("/")
        for key in keys:
            here = here[int(key)] if isinstance(here, list) else here[key]
        here[int(last) if isinstance(here, list) else last] = value

    def check(self, function: str) -> list[CheckResult]:
        """Return what a check function says of them."""
        rows = self.caller.execute(
            "SELECT c.*"
            f" FROM zodan.{function}(%(facts)s, %(join)s, %(probes)s) AS f CROSS JOIN zodan.give_verdict(f) AS c",
            {name: json.dumps(getattr(self, name)) for name in ("facts", "join", "probes")},
        )
        return [CheckResult(*row) for row in rows]
