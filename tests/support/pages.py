"""The page of an operation as whoever opens it sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.browser import Browser

#: Places are those of the window, so that they can be compared.
_LOOK = """(() => {
    const box = (element) => {
        const {left, top, right, bottom} = element.getBoundingClientRect();
        return [left, top, right, bottom];
    };
    const gantt = document.querySelector('svg.gantt');
    return {
        title: document.title,
        words: document.body.innerText,
        width: document.documentElement.scrollWidth,
        window: window.innerWidth,
        headings: [...document.querySelectorAll('h1, h2, h3, th, caption')].map((each) => each.textContent.trim()),
        gantt: gantt && box(gantt),
        bars: [...document.querySelectorAll('svg.gantt .bar')].map((bar) => ({
            box: box(bar.querySelector('rect')),
            said: bar.querySelector('title').textContent.trim(),
            colour: getComputedStyle(bar.querySelector('rect')).fill,
        })),
        labels: [...document.querySelectorAll('svg text')].map((text) => ({
            words: text.textContent.trim(),
            box: box(text),
            svg: box(text.ownerSVGElement),
        })),
    };
})()"""
#: Rounding, in pixels.
_SLACK = 1.0


def check_page(page: Path) -> dict[str, Any]:
    """Open a page in a browser, see that nothing is amiss that a reader would miss, and return what is there."""
    with Browser() as browser:
        browser.open(page)
        seen: dict[str, Any] = browser.evaluate(_LOOK)
        # Looking at the picture is itself a request, of nobody.
        foreign = [address for address in browser.requests if address != page.as_uri()]
        shares = browser.shares(browser.screenshot())
    assert not foreign, f"the page asks for {foreign}"
    assert not browser.complaints, f"the browser complains: {browser.complaints}"
    assert seen["title"], "no title"
    assert seen["words"].strip(), "no words"
    assert seen["width"] <= seen["window"], "the page is wider than the window"
    assert seen["headings"], "no headings"
    assert all(seen["headings"]), f"an empty heading: {seen['headings']}"
    for bar in seen["bars"]:
        assert bar["said"], f"a bar that says nothing: {bar}"
        assert _has_area(bar["box"]), f"a bar of no size: {bar}"
        assert _is_within(bar["box"], seen["gantt"]), f"a bar outside of {seen['gantt']}: {bar}"
        assert bar["colour"] not in ("none", "rgba(0, 0, 0, 0)"), f"a bar of no colour: {bar}"
    for label in seen["labels"]:
        assert label["words"], f"an empty label: {label}"
        assert _has_area(label["box"]), f"a label of no size: {label}"
    # A page of text has one colour that is most of it, and shades of others; a blank one has a single one.
    assert len(shares) > 10 and shares[0] < 0.99, f"the page is blank: {shares[:5]}"
    return seen


def cut_off(seen: dict[str, Any]) -> list[str]:
    """Return the labels of pictures that are not wholly within them."""
    return [label["words"] for label in seen["labels"] if not _is_within(label["box"], label["svg"])]


def _has_area(box: list[float]) -> bool:
    left, top, right, bottom = box
    return right > left and bottom > top


def _is_within(inner: list[float], outer: list[float]) -> bool:
    return (
        inner[0] >= outer[0] - _SLACK
        and inner[1] >= outer[1] - _SLACK
        and inner[2] <= outer[2] + _SLACK
        and inner[3] <= outer[3] + _SLACK
    )
