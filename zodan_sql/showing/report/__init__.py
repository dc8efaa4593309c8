"""An HTML page for the change ticket about an operation: its arguments, checks, steps over time, and outcome."""

from zodan_sql.showing.report.page import draw
from zodan_sql.showing.report.record import Record, RecordedStep, Surroundings, read

__all__ = ["Record", "RecordedStep", "Surroundings", "draw", "read"]
