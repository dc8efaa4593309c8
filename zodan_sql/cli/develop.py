"""build and lint: for whoever changes the templates."""

from __future__ import annotations

from typing import Annotated

import typer

from zodan_sql.building import lint as linter
from zodan_sql.building import render
from zodan_sql.cli.screen import EXIT_FOUND, reporting


def build(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when a rendered file is not what the templates say.")
    ] = False,
) -> None:
    """Render the SQL templates into build/."""
    with reporting() as screen:
        if check:
            stale = render.stale_files()
            for name in stale:
                screen.line(f"{name} is not what the templates render to: run zodan-sql build")
            if stale:
                raise typer.Exit(EXIT_FOUND)
        else:
            for path in render.build():
                screen.line(path.name)


def lint() -> None:
    """Hold the rendered SQL against the house rules."""
    with reporting() as screen:
        findings = linter.lint(
            render.render(), linter.read_templates(render.find_templates()), render.render_statements()
        )
        for finding in findings:
            screen.line(str(finding))
        if findings:
            raise typer.Exit(EXIT_FOUND)
