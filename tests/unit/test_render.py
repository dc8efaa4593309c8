"""Rendering: the same bytes every time, nothing undefined, build/ holds what the templates say."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodan_sql.building import render

CONTROL = "default_version = '1.2.3'\n"


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    (folder / "pages").mkdir(parents=True)
    for page in (*render.CONTENTS.values(), render.UPGRADE[1]):
        (folder / page).write_text("-- {{ version }}\n")
    (folder / "pages" / "zodan.control.j2").write_text(CONTROL)
    return folder


def test_the_same_templates_give_the_same_bytes() -> None:
    assert render.render() == render.render()


def test_what_is_committed_is_what_the_templates_say() -> None:
    assert render.stale_files() == []


def test_every_file_says_in_its_first_line_that_it_is_rendered() -> None:
    for name, text in render.render().items():
        first = text.splitlines()[0]
        assert 'Rendered by "zodan-sql build" from sql/templates/' in first, name


def test_the_version_stands_in_the_control_file_only(templates: Path) -> None:
    files = render.render(templates, earlier=())
    assert set(files) == {"zodan.sql", "zodremove.sql", "zodan--1.2.3.sql", "zodan.control"}
    assert files["zodan.sql"] == "-- 1.2.3\n"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("\n{{ nowhere }}", "zodan.sql.j2"),
        ("{% include 'absent.sql.j2' %}", "absent.sql.j2"),
        ("\n{% if %}", "zodan.sql.j2:2"),
    ],
)
def test_what_cannot_be_rendered_is_an_error_that_names_the_place(templates: Path, text: str, where: str) -> None:
    (templates / "pages" / "zodan.sql.j2").write_text(text)
    with pytest.raises(render.RenderError, match=where.replace(".", r"\.")):
        render.render(templates)


def test_a_control_file_without_a_version_is_an_error(templates: Path) -> None:
    (templates / "pages" / "zodan.control.j2").write_text("relocatable = false\n")
    with pytest.raises(render.RenderError, match="default_version"):
        render.render(templates)


def test_build_writes_the_files_and_removes_those_of_earlier_versions(templates: Path, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    render.build(folder, templates)
    assert render.stale_files(folder, templates) == []
    (templates / "pages" / "zodan.control.j2").write_text(CONTROL.replace("1.2.3", "1.3.0"))
    assert set(render.stale_files(folder, templates)) == set(render.render(templates))
    render.build(folder, templates)
    assert {path.name for path in folder.iterdir()} == set(render.render(templates))
