"""An HTML page about an operation, for the change ticket: its arguments, checks, steps in time, and outcome."""

from zodan_sql.showing.report.page import draw
from zodan_sql.showing.report.record import Record, RecordedStep, Surroundings, read

__all__ = ["Record", "RecordedStep", "Surroundings", "draw", "read"]
