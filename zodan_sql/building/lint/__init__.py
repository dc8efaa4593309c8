"""Lint of the rendered SQL: everything parsed, the house rules, and sqlfluff."""

from __future__ import annotations

from pathlib import Path

from zodan_sql.building.lint.findings import Finding, LintUnavailable

__all__ = ["Finding", "LintUnavailable", "lint", "read_templates"]


def read_templates(folder: Path) -> dict[str, str]:
    """Return the text of every template by its path below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.j2"))
    }


def lint(files: dict[str, str], templates: dict[str, str], statements: dict[str, str] | None = None) -> list[Finding]:
    """Lint rendered files, given by name, against the templates they come from, and the statements for other nodes.

    The statements are given by the path of their template, each with something in the place of its parameters.

    Returns the findings in order of file and line. What several files have in common, because they include
    the same template, is told once. Raises LintUnavailable when a parser is not installed.
    """
    try:
        from zodan_sql.building.lint.rules import RULES, Project
        from zodan_sql.building.lint.source import read
        from zodan_sql.building.lint.style import style
    except ImportError as error:
        raise LintUnavailable(error.name or str(error)) from error

    scripts = {name: text for name, text in files.items() if name.endswith(".sql")}
    inner = statements or {}
    sources = [read(name, text) for name, text in (scripts | inner).items()]
    project = Project(sources, templates, files)
    findings = [finding for source in project.sources for finding in source.findings]
    findings += [finding for rule in RULES for finding in rule.look(project)]
    findings += style(
        sources,
        (each for each in project.routines() if each.language == "sql" and not project.is_statement(each.name)),
    )
    return _once(findings, [*scripts, *inner])


def _once(findings: list[Finding], order: list[str]) -> list[Finding]:
    first: dict[tuple[str, str], str] = {}
    ranks = {name: rank for rank, name in enumerate(order)}
    kept = []
    for finding in sorted(findings, key=lambda each: (ranks.get(each.file, -1), each)):
        if first.setdefault((finding.code, finding.message), finding.file) == finding.file:
            kept.append(finding)
    return sorted(set(kept))
