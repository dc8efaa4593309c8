"""The file of verify --resume: what it keeps, what it refuses, and that a refusal leaves it as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from zodan_sql.client import verify_file
from zodan_sql.client.redaction import MASK, Redactor
from zodan_sql.client.verify_file import VerifyFile, VerifyResult
from zodan_sql.errors import ZodanError

_CLUSTER = {"n1": "71:00000001:5", "n2": "72:00000001:5"}
_MOST = 1000
_DAY = timedelta(days=1)
_SECRET = "h0rse battery"
_EQUAL = VerifyResult("public.a", None, "equal", 5, 5, 0, 0, 0.5, None, None)
_DIFFERENT = replace(_EQUAL, table_name="public.b", result="different", equal=4, different=1)
_ROW = VerifyResult("public.b", {"k": "1"}, "different", None, None, None, None, None, None, {"n1": None, "n2": {}})
_UNDECIDED = replace(_EQUAL, table_name="public.c", result="undecided", why="the row kept changing", undecided=1)
_TABLES = {"public.a": [_EQUAL], "public.b": [_DIFFERENT, _ROW], "public.c": [_UNDECIDED]}
_PRINTS = {"public.a": "pa", "public.b": "pb", "public.c": "pc"}


@contextmanager
def begun(
    path: Path,
    *,
    cluster: Mapping[str, str] = _CLUSTER,
    most: int = _MOST,
    prints: Mapping[str, str] = _PRINTS,
    whole: bool = True,
    again: bool = False,
    keeps: timedelta = _DAY,
) -> Iterator[VerifyFile]:
    """Begin a comparison with a file."""
    with verify_file.opened(path, Redactor([f"host=h password='{_SECRET}'"]), keeps) as file:
        file.begin(cluster, most, prints, whole=whole, again=again)
        yield file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file that a call has written which was interrupted after three tables of three."""
    path = tmp_path / "verify.json"
    with begun(path) as file:
        file.add(_TABLES)
    return path


def test_what_is_decided_is_kept_and_what_is_not_is_compared(path: Path) -> None:
    before = datetime.now(UTC)
    with begun(path, prints=_PRINTS | {"public.new": "pn"}) as file:
        assert set(file.kept) == {"public.a", "public.b"}
        assert all(before - timedelta(minutes=5) < when <= before for when in file.kept.values())
        assert "2 of 4 tables" in file.describe()
        file.add({"public.c": [replace(_EQUAL, table_name="public.c")], "public.new": [_EQUAL]})
        # The difference is still there, with its row.
        assert file.results()[:3] == [_EQUAL, _DIFFERENT, _ROW]
        assert len(file.results()) == 5


def test_the_file_is_private_and_nothing_lies_beside_it(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_interrupted_call_leaves_what_it_has(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), begun(path) as file:
        file.add({"public.c": [replace(_EQUAL, table_name="public.c")]})
        raise KeyboardInterrupt
    with begun(path) as file:
        assert set(file.kept) == set(_PRINTS)


def test_passwords_of_connection_strings_are_masked(path: Path) -> None:
    told = f"host=h password='{_SECRET}'"
    with begun(path) as file:
        file.add(
            {
                "public.c": [
                    replace(_UNDECIDED, why=told),
                    replace(_ROW, row_key={"k": _SECRET}, nodes={"n1": {"row": {"v": told}}}),
                ]
            }
        )
    text = path.read_text()
    assert _SECRET not in text
    assert text.count(MASK) == 3


def test_a_table_is_compared_again_if_it_changed_and_forgotten_if_it_is_gone(path: Path) -> None:
    with begun(path, prints={"public.a": "another"}) as file:
        assert file.kept == {}
        assert file.done == 0


def test_other_tables_stay_in_the_file_if_some_are_named(path: Path) -> None:
    with begun(path, prints={"public.c": "pc"}, whole=False) as file:
        assert file.kept == {}
        file.add({"public.c": [replace(_EQUAL, table_name="public.c")]})
        assert [row.table_name for row in file.results()] == ["public.c"]
    with begun(path) as file:
        assert set(file.kept) == set(_PRINTS)


def test_what_was_different_is_compared_again_before_a_repair_and_after_the_end(path: Path) -> None:
    with begun(path, again=True) as file:
        assert set(file.kept) == {"public.a"}
        file.add({name: _TABLES[name] for name in ("public.b", "public.c")})
        file.finish()
    with begun(path) as file:
        assert set(file.kept) == {"public.a"}
    # It was to be compared again, and was not: what the file had of it counts no longer.
    with begun(path) as file:
        assert set(file.kept) == {"public.a"}


def test_a_call_for_some_tables_ends_nothing_else(path: Path) -> None:
    with begun(path, prints={"public.c": "pc"}, whole=False) as file:
        file.add({"public.c": [_UNDECIDED]})
        file.finish()
    with begun(path) as file:
        assert set(file.kept) == {"public.a", "public.b"}


@pytest.mark.parametrize(
    ("row", "is_kept"),
    [
        (replace(_DIFFERENT, why="compared no further after 1000 rows", different=_MOST), True),
        (replace(_DIFFERENT, undecided=1), False),
        (replace(_DIFFERENT, why="no answer"), False),
    ],
)
def test_a_table_that_is_different_and_not_decided_is_compared_again(
    path: Path, row: VerifyResult, is_kept: bool
) -> None:
    with begun(path) as file:
        file.add({"public.b": [row]})
    with begun(path) as file:
        assert ("public.b" in file.kept) is is_kept


@pytest.mark.parametrize("keeps", [timedelta(0), timedelta(seconds=-1)])
def test_what_is_too_old_is_compared_again(path: Path, keeps: timedelta) -> None:
    with begun(path, keeps=keeps) as file:
        assert file.kept == {}


def test_what_comes_from_the_future_is_compared_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(verify_file, "datetime", Earlier)
    with begun(path) as file:
        assert file.kept == {}


def _change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


_REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "cut": (lambda path: path.write_text(path.read_text()[:-50]), {}, "is damaged"),
    "changed": (lambda path: path.write_text(path.read_text().replace("different", "equal")), {}, "is damaged"),
    "binary": (lambda path: path.write_bytes(b"\xff\xfe\x00"), {}, "is damaged"),
    "a list": (lambda path: path.write_text("[]"), {}, "is damaged, or no file of"),
    "something else": (lambda path: path.write_text('{"source": "n1"}'), {}, "is damaged, or no file of"),
    "no tables": (lambda path: _change(path, tables=None), {}, "is damaged"),
    "an older format": (lambda path: _change(path, format=0), {}, "its format is 0, not 1"),
    "a newer format": (lambda path: _change(path, format=2), {}, "its format is 2, not 1"),
    "other nodes": (None, {"cluster": _CLUSTER | {"n3": "73:00000001:5"}}, "compares nodes n1, n2, and this call"),
    "another cluster": (None, {"cluster": _CLUSTER | {"n2": "99:00000001:5"}}, 'another cluster, or node "n2" was'),
    "another limit": (None, {"most": 5}, "--most 1000, and this call has 5"),
}


@pytest.mark.parametrize(("spoil", "given", "words"), _REFUSED.values(), ids=_REFUSED)
def test_a_file_that_does_not_fit_is_refused_and_left_as_it_is(
    path: Path, spoil: Any, given: dict[str, Any], words: str
) -> None:
    if spoil is not None:
        spoil(path)
    before = path.read_bytes(), path.stat().st_ino
    with pytest.raises(ZodanError) as raised, begun(path, **given):
        pass
    assert (raised.value.sqlstate, raised.value.exit_code) == ("ZD001", 2)
    assert words in raised.value.message
    assert raised.value.hint
    assert (path.read_bytes(), path.stat().st_ino) == before


def test_a_second_call_with_the_same_file_is_refused(path: Path) -> None:
    with begun(path) as file:
        for _ in range(2):
            with pytest.raises(ZodanError) as raised, begun(path):
                pass
            assert "another call uses" in raised.value.message
            file.add({"public.c": [_UNDECIDED]})
    with begun(path) as file:
        assert set(file.kept) == {"public.a", "public.b"}


def test_a_file_that_cannot_be_written_is_refused(path: Path) -> None:
    for bad in (path.parent, path.parent / "none" / "file", path / "file", Path("/dev/null"), Path("/proc/version")):
        with pytest.raises(ZodanError) as raised, begun(bad):
            pass
        assert raised.value.sqlstate == "ZD001", bad
        assert str(bad) in raised.value.message
    with begun(path) as file:
        # Not even root can write where a folder is.
        (path.parent / "verify.json.new").mkdir()
        with pytest.raises(ZodanError) as raised:
            file.add({"public.c": [_UNDECIDED]})
        assert "could not write" in raised.value.message
        (path.parent / "verify.json.new").rmdir()
    with begun(path) as file:
        assert set(file.kept) == {"public.a", "public.b"}


def test_a_call_that_begins_nothing_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with pytest.raises(ZodanError), verify_file.opened(path, Redactor(), _DAY):
        raise ZodanError("no node", sqlstate="ZD101")
    assert not path.exists()


def test_an_empty_file_is_a_new_one_and_a_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(mode=0o644)
    link.symlink_to(target)
    with begun(link) as file:
        file.add(_TABLES)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    with begun(target) as file:
        assert set(file.kept) == {"public.a", "public.b"}


def test_what_a_killed_call_left_beside_the_file_does_no_harm(path: Path) -> None:
    (path.parent / "verify.json.new").write_text("half")
    (path.parent / "verify.json.new").chmod(0o644)
    with begun(path) as file:
        assert set(file.kept) == {"public.a", "public.b"}
    assert path.stat().st_mode & 0o777 == 0o600
