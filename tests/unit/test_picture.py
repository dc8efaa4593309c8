"""Pictures of a topology: they fit, are well-formed, and show what is wrong."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from zodan_sql.client.topology import Stream, node_names
from zodan_sql.showing import picture
from zodan_sql.words import size

SVG = "{http://www.w3.org/2000/svg}"


def mesh(count: int, name: str = "n") -> list[Stream]:
    names = [f"{name}{number}" for number in range(1, count + 1)]
    return [Stream(a, b, f"sub_{a}_{b}", "replicating", True, 0) for a in names for b in names if a != b]


ODD = [
    Stream("n1", "n2", "sub_n1_n2", "replicating", True, 2048),
    Stream("n2", "n1", "sub_n2_n1", "down", False, 3 * 1024**3),
    Stream("n1", "n3", "sub_n1_n3", "disabled", False, 10),
    Stream("n3", "n1", "sub_n3_n1", "initializing", None, None),
    Stream("n2", "n3", "sub_n2_n3", "replicating", False, 0),
    Stream('<&"', None, None, "unreachable", None, None),
]


def test_the_table_says_how_each_stream_is() -> None:
    assert picture.matrix(ODD) == [
        'from \\ to │  <&"    n1    n2    n3',
        "──────────┼───────────────────────",
        '<&"       │    ·     -     -     -',
        "n1        │    ?     ·  2 kB   off",
        "n2        │    ?  down     ·  down",
        "n3        │    ?  busy     -     ·",
    ]
    assert picture.summary(ODD) == "4 nodes, 1 of 5 streams replicate, at most 3 GB behind"
    assert picture.troubles(ODD) == [
        "n2 → n1  sub_n2_n1: down, 3 GB behind",
        "n1 → n3  sub_n1_n3: disabled, 10 B behind",
        "n3 → n1  sub_n3_n1: initializing",
        "n2 → n3  sub_n2_n3: replicating, nobody reads from its slot, 0 B behind",
        '<&"  unreachable',
        "n3 → n2  there is no subscription",
    ]


@pytest.mark.parametrize("name", ["n", "eu-north-production-"])
def test_the_table_of_ten_nodes_fits_a_terminal(name: str) -> None:
    lines = picture.matrix(mesh(10, name), 80)
    assert max(map(len, lines)) <= 80
    assert len({line.split("│")[0] for line in lines[2:]}) == 10


def test_nodes_are_in_the_order_of_their_numbers() -> None:
    assert node_names(mesh(10))[-2:] == ["n9", "n10"]


@pytest.mark.parametrize("streams", [[], mesh(2), mesh(3), mesh(7), mesh(10, "eu-north-"), ODD, ODD[-1:]])
def test_the_svg_is_well_formed_and_shows_every_node_inside_it(streams: list[Stream]) -> None:
    root = ElementTree.fromstring(picture.svg(streams))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    boxes = root.findall(f"{SVG}g[{SVG}rect]")
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert set(node_names(streams)) <= texts
    for box in (box.find(f"{SVG}rect") for box in boxes):
        assert box is not None
        assert 0 <= float(box.attrib["x"]) <= width - float(box.attrib["width"])
        assert 0 <= float(box.attrib["y"]) <= height - float(box.attrib["height"])


def test_the_svg_has_an_arrow_for_every_stream_and_tells_the_lag_and_what_is_wrong() -> None:
    small, odd = picture.svg(mesh(4)), picture.svg(ODD)
    assert small.count("<polygon") == 12
    assert small.count(">0 B<") == 12
    assert "down, 3 GB" in odd
    assert "slot idle" in odd
    # One line for both ways where there are many.
    many = picture.svg(mesh(8))
    assert (many.count("<polygon"), many.count("crowd")) == (56, 28 + 1)


def test_the_graphs_name_everything_quoted() -> None:
    assert picture.dot(ODD).count(" -> ") == 5
    assert '"<&\\""' in picture.dot(ODD)
    assert picture.mermaid(ODD).count("linkStyle") == 5
    assert "#lt;#amp;#quot;" in picture.mermaid(ODD)


@pytest.mark.parametrize(
    ("count", "said"), [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1536, "1.5 kB"), (10**7, "9.5 MB")]
)
def test_sizes_are_short(count: int | None, said: str) -> None:
    assert size(count) == said
