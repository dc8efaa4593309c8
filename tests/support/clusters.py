"""The type of the fixture ``make_cluster``, for tests that take it."""

from __future__ import annotations

from collections.abc import Callable

from zodan_sql.sandbox import Cluster

MakeCluster = Callable[..., Cluster]
