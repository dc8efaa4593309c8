"""JSON documents held against their types."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

from zodan_sql.cli import documents


def parse(out: str, kind: Any) -> dict[str, Any]:
    """Parse a whole stdout, and see that it is a document of a kind, with every key."""
    found = json.loads(out)
    problems = list(differences(found, kind, "document"))
    assert problems == []
    assert isinstance(found, dict)
    return found


def differences(value: Any, kind: Any, where: str) -> typing.Iterator[str]:
    """Tell where a value is not what its type says; a document that has failed may lack its own keys."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        hints = typing.get_type_hints(kind)
        wanted = kind.__required_keys__ if value.get("error") and "command" in value else set(hints)
        if kind is documents.RescanDocument and value.keys().isdisjoint({"operation"}):
            wanted = wanted - {"operation", "steps", "checks", "samples", "compared"}
        yield from (f"{where} has no {name}" for name in wanted - value.keys())
        yield from (f"{where} has {name}" for name in value.keys() - hints.keys())
        for name in value.keys() & hints.keys():
            yield from differences(value[name], hints[name], f"{where}.{name}")
    elif origin in (typing.Union, types.UnionType):
        if all(list(differences(value, one, where)) for one in arguments):
            yield f"{where} is {value!r}"
    elif origin is list:
        for number, item in enumerate(value if isinstance(value, list) else [None]):
            yield from differences(item, arguments[0], f"{where}[{number}]")
    elif origin is dict:
        for name, item in value.items():
            yield from differences(item, arguments[1], f"{where}.{name}")
    elif not isinstance(value, (int, float) if kind is float else kind) or (kind is int and isinstance(value, bool)):
        yield f"{where} is {value!r}"
