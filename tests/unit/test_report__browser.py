"""The page of an operation in a browser, and that a page which is broken would be seen there."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.pages import check_page, cut_off
from support.reports import RECORD, STEPS
from zodan_sql.client.redaction import Redactor
from zodan_sql.client.topology import Stream
from zodan_sql.showing.report import draw

_WHITE = "".join(f"{name}: white !important;" for name in ("color", "fill", "stroke", "background", "border-color"))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a page with all that a page may have."""
    streams = [Stream("n1", "n3", "sub", "down", False, 5), Stream("n3", "n1", "sub", "replicating", True, 0)]
    path = tmp_path / "page.html"
    path.write_text(draw(RECORD, Redactor(), streams, ""), encoding="utf-8")
    return path


def test_a_page_opens_and_shows_what_it_should(page: Path) -> None:
    seen = check_page(page)
    begun = [each for each in STEPS if each.started_at is not None]
    assert len(seen["bars"]) == len(begun)
    assert {bar["said"].partition(":")[0] for bar in seen["bars"]} == {str(each.ordinal) for each in begun}
    assert len({bar["colour"] for bar in seen["bars"]}) > 1
    assert "Adding node n3" in seen["words"]
    assert "a wait ran out" in seen["words"]


def test_no_label_is_cut_off(page: Path) -> None:
    assert cut_off(check_page(page)) == []


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [
        ("the page asks for", "</body>", '<img src="http://127.0.0.1:9/x.png"></body>'),
        ("wider than the window", "</body>", '<div style="width: 3000px">x</div></body>'),
        ("a bar outside of", '<g class="bar', '<g transform="translate(5000 0)" class="bar'),
        ("the page is blank", "</head>", f"<style>* {{ {_WHITE} }}</style></head>"),
    ],
)
def test_what_is_broken_is_seen(page: Path, what: str, before: str, after: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert before in text
    page.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(AssertionError, match=what):
        check_page(page)
