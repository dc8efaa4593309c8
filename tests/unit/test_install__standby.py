"""Loading Zodan where nothing can be loaded, without a server."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any

import pytest

from zodan_sql.client import install
from zodan_sql.errors import ZodanError


class Standby:
    """A session on a standby that has no Zodan."""

    closed = False

    def execute(self, query: str, *_: object) -> Standby:
        self.answer = ("in_recovery" in query,)
        assert "SET TRANSACTION" not in query
        assert "CREATE" not in query
        return self

    def fetchone(self) -> Any:
        return self.answer

    def transaction(self) -> Any:
        return nullcontext()

    def rollback(self) -> None:
        """Roll back nothing."""


@pytest.fixture(autouse=True)
def standby(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connect(*_: object, **__: object) -> Any:
        yield Standby()

    monkeypatch.setattr(install, "connect", connect)
    monkeypatch.setattr(install, "_is_complete", lambda _: False)


def test_a_standby_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(ZodanError) as raised, install.borrowed("host=a"):
        pass
    assert raised.value.exit_code == 3
    assert "primary" in raised.value.hint
    (result,) = install.install(["host=a"])
    assert result.error is not None
    assert "standby" in result.error.message
