"""An operation as one HTML page for the change ticket: what was asked, what was done when, and what came of it."""

from zodan_sql.showing.report.page import draw
from zodan_sql.showing.report.record import Record, RecordedStep, Surroundings, read

__all__ = ["Record", "RecordedStep", "Surroundings", "draw", "read"]
