"""The page itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import jinja2
from markupsafe import Markup

from zodan_sql.client.samples import STATISTICS, Sample
from zodan_sql.client.topology import Stream, masked
from zodan_sql.showing import picture
from zodan_sql.showing.report import chart, lanes, timeline
from zodan_sql.showing.report.axis import Axis
from zodan_sql.showing.report.record import Record, RecordedStep
from zodan_sql.words import size, span

#: Rows that are not equal, as many as the page shows.
_ROWS = 200
_KINDS = {
    "add_node": "Adding node {}",
    "remove_node": "Removing node {}",
    "replace_node": "Replacing a node by {}",
    "mend": "Removing leftovers from the {}",
}


def draw(record: Record, redact: Callable[[str], str], streams: Sequence[Stream] | None = None, why: str = "") -> str:
    """Return the page: HTML that loads nothing from elsewhere. ``why`` is the reason if there is no topology.

    Every text of the journal passes through ``redact``, although the journal contains no secrets.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zodan_sql.showing.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    record = replace(
        record,
        steps=[replace(step, title=redact(step.title)) for step in record.steps],
        units=[
            replace(unit, title=redact(unit.title), error=unit.error and redact(unit.error)) for unit in record.units
        ],
    )
    bars = timeline.bars(record.steps, record.surroundings.read_at)
    axis = Axis(bars)
    rates, lags = _measured(record)
    units = lanes.bars(record.units, _first(record), record.surroundings.read_at) if bars else []
    behind = [each for each in lags if any(value for _, value in each.points)]
    marks = Counter(check.verdict for check in record.checks)
    took = None if record.finished_at is None else (record.finished_at - record.started_at).total_seconds()
    return environment.get_template("page.html.j2").render(
        title=_KINDS.get(record.kind, "{}").format(record.node),
        record=record,
        arguments={name: _text(value) for name, value in record.arguments.items()},
        took="" if took is None else span(took),
        moment=_moment,
        span=span,
        size=size,
        bars={bar.step.ordinal: bar for bar in bars},
        axis=axis,
        gantt=Markup(timeline.gantt(bars, _nodes(record))) if bars else "",
        kinds={bar.kind for bar in bars},
        idle=len(axis.stretches) > 1,
        failed=[step for step in record.steps if step.state == "failed"],
        again=[step for step in record.steps if step.attempts > 1],
        verified=[(step, _found(step)) for step in record.steps if step.kind == "verify"],
        compared=[each for each in record.compared if each.row_key is None],
        unequal=[each for each in record.compared if each.row_key is not None][:_ROWS],
        left_out=max(0, sum(each.row_key is not None for each in record.compared) - _ROWS),
        json=lambda value: json.dumps(value, ensure_ascii=False),
        marks=marks,
        noted=[check for check in record.checks if check.verdict != "PASS"],
        passed=[check for check in record.checks if check.verdict == "PASS"],
        copies=[each for each in record.samples if _is_told(each)][-1:],
        rates=Markup(chart.draw([chart.Series(0, "copy", rates)], "copy rate over time", "/s")) if rates else "",
        lanes=Markup(lanes.draw(units)) if units else "",
        units=units,
        begun=sum(unit.started_at is not None and unit.lane is not None for unit in record.units),
        waits=len(lags),
        lags=Markup(chart.draw(behind, "lag over time")) if behind else "",
        phases=len({step.phase for step in record.steps}),
        done=sum(step.state == "done" for step in record.steps),
        picture=None if streams is None else Markup(picture.svg(masked(streams, redact))),
        troubles=picture.troubles(streams or []),
        why=why,
    )


def _measured(record: Record) -> tuple[list[chart.Point], list[chart.Series]]:
    """Return the data of the charts: the rate of the copy, and the lag of each stream."""
    if all(step.started_at is None for step in record.steps):
        return [], []
    first = _first(record)
    titles = {step.ordinal: f"step {step.ordinal}, {step.title}" for step in record.steps}
    return chart.copy_rate(record.samples, first), chart.lags(record.samples, titles, first)


def _first(record: Record) -> datetime:
    """Return when the first step began."""
    return min(step.started_at for step in record.steps if step.started_at is not None)


def _is_told(sample: Sample) -> bool:
    """Return whether a sample of a copy says how many tables were copied."""
    return sample.is_copy and sample.tables_total != 0 and sample.stage != STATISTICS


def _found(step: RecordedStep) -> str:
    """Return what a step that only checks found at the end."""
    result = step.result or {}
    lag = (result.get("measure") or {}).get("lag_bytes")
    rows = f"{result['rows']:,} rows of {result['tables']} tables" if {"rows", "tables"} <= result.keys() else None
    facts = (result.get("progress"), None if lag is None else f"{size(lag)} behind", rows)
    return ", ".join(str(fact) for fact in facts if fact is not None)


def _nodes(record: Record) -> list[str]:
    return list(dict.fromkeys([*record.members, *(step.node for step in record.steps)]))


def _moment(when: datetime | None) -> str:
    return "" if when is None else when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
