"""build and lint, for people who change the templates."""

from __future__ import annotations

from typing import Annotated

import typer

from zodan_sql.building import lint as linter
from zodan_sql.building import render
from zodan_sql.cli.screen import EXIT_FOUND, reporting


def build(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a rendered file differs from the templates.")
    ] = False,
) -> None:
    """Render the SQL templates into build/."""
    with reporting() as screen:
        if check:
            stale = render.stale_files()
            for name in stale:
                screen.line(f"{name} differs from the templates: run zodan-sql build")
            if stale:
                raise typer.Exit(EXIT_FOUND)
        else:
            for path in render.build():
                screen.line(path.name)


def lint() -> None:
    """Check the rendered SQL against the house rules."""
    with reporting() as screen:
        findings = linter.lint(
            render.render(), linter.read_templates(render.find_templates()), render.render_statements()
        )
        for finding in findings:
            screen.line(str(finding))
        if findings:
            raise typer.Exit(EXIT_FOUND)
