"""``python -m zodan_sql.docs`` writes ``docs/reference``; with ``--check`` it fails if a page there is stale."""

from __future__ import annotations

import sys

from zodan_sql.building.reference import main

if __name__ == "__main__":
    sys.exit(main())
