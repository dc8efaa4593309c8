"""The files of verify --repair --output, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodan_sql.cli import repairs
from zodan_sql.cli.screen import Screen
from zodan_sql.client.verify import Outcome, Wish
from zodan_sql.errors import ZodanError


def test_only_the_caller_reads_a_file_that_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "n2.sql"
    path.write_text("-- of last week, and rather long: it must not show through\n" * 100)
    path.chmod(0o644)
    with path.open() as reader:
        repairs.write(Screen(), Outcome([], [], None, {"n2": ("SELECT 1", "SELECT 2")}), Wish("n1", False), tmp_path)
        assert "SELECT" not in reader.read()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "SELECT 1;" in path.read_text()
    assert "last week" not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_place_of_a_file_is_the_callers_mistake(tmp_path: Path) -> None:
    (tmp_path / "n2.sql").mkdir()
    with pytest.raises(ZodanError) as raised:
        repairs.write(Screen(), Outcome([], [], None, {"n2": ("", "")}), Wish("n1", False), tmp_path)
    assert raised.value.sqlstate == "ZD001"
