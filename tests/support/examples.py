"""How many cases each property is tried with: hundreds in ``make test``, ten thousand in ``make test-all``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: Decorates a property.
some_examples = settings(
    max_examples=int(os.environ.get("ZODAN_EXAMPLES", "300")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
