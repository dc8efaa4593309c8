"""The command line without a server: what it parses, prints, masks, and exits with."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from support.commands import Run
from zodan_sql import cli
from zodan_sql.building import render, script
from zodan_sql.client import install, journal, operation, redaction, topology
from zodan_sql.client import verify as comparison
from zodan_sql.client.install import InstallResult
from zodan_sql.client.operation import PlannedStep
from zodan_sql.client.topology import Leftover
from zodan_sql.errors import ZodanError

SRC = "host=a dbname=app password=s3cret-src"
NEW = "postgresql://me:s3cret-new@b/app"
ADD = ["--src-node-name", "n1", "--src-dsn", SRC, "--new-node-name", "n4", "--new-node-dsn", NEW]
OTHER = "host=c dbname=other password=s3cret-other"
REPLACE = ["--old-node-name", "n1", "--old-node-dsn", SRC, "--new-node-name", "n4", "--new-node-dsn", NEW]
PLACE = ["--clone", "--pgdata", "/nowhere/main"]
REMOVE = ["--target-node-name", "n4", "--target-dsn", NEW]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record what would be called in a database that has this version of Zodan."""
    recorded: list[tuple[Any, ...]] = []
    monkeypatch.setattr(install, "installed_version", lambda dsn: install.own_version())
    monkeypatch.setattr(
        operation,
        "call",
        lambda dsn, procedure, arguments, _, schema, statements: recorded.append(
            (dsn, f"{schema}.{procedure}", arguments)
        ),
    )
    monkeypatch.setattr(journal, "find_unfinished", lambda dsn, kind, node: 17)
    found = journal.Operation(17, "add_node", "n4", "failed", "today", None, None)
    monkeypatch.setattr(journal, "operations", lambda dsn: [found])
    return recorded


@pytest.mark.parametrize(
    "command",
    [
        "build",
        "lint",
        "install",
        "uninstall",
        "add-node",
        "clone",
        "remove-node",
        "replace-node",
        "upgrade",
        "health-check",
        "plan",
        "resume",
        "rollback",
        "operations",
        "steps",
        "topology",
        "rescan",
        "report",
        "demo",
        "sandbox up",
        "sandbox down",
        "sandbox status",
    ],
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"zodan-sql {command}" in out


def test_no_command_shows_the_help(run: Run) -> None:
    code, out, _ = run()
    assert code == 0
    assert "add-node" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["add-node", "--src-dsn", "host=a", "password=s3cret"],
        ["install", "--dsn=a=b", "password='s3cret x'"],
        ["add-node", "--password=s3cret"],
        ["sandbox", "up", "--nodes", "postgresql://me:s3cret@a"],
    ],
)
def test_a_command_line_not_understood_is_exit_2_and_quoted_without_passwords(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")


def test_build_check_names_what_is_stale(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(render, "find_build", lambda: tmp_path)
    code, out, _ = run("build", "--check")
    assert code == 1
    assert {line.split()[0] for line in out.splitlines()} == set(render.render())
    assert list(tmp_path.iterdir()) == []
    assert run("build")[0] == 0
    assert run("build", "--check") == (0, "", "")


def test_lint_prints_a_line_a_finding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "render", lambda: {"zodan.sql": "SELECT 1;\nSELECT FROM step;\n"})
    monkeypatch.setattr(render, "render_statements", dict)
    code, out, _ = run("lint")
    assert code == 1
    assert out == 'zodan.sql:2 ZL003 relation "step" has no schema\n'


@pytest.mark.parametrize("module", ["pglast", "sqlfluff.core"])
def test_lint_says_which_parser_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for loaded in [name for name in sys.modules if name.startswith("zodan_sql.building.lint.")]:
        if not loaded.endswith(".findings"):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    code, _, err = run("lint")
    assert code == 2
    assert err == f'error: lint needs "{module}": pip install "zodan-sql[lint]"\n'


def test_a_template_that_does_not_render_is_said_plainly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> dict[str, str]:
        raise render.RenderError("could not render zodan.sql.j2:3: 'x' is undefined")

    monkeypatch.setattr(render, "render", fail)
    assert run("lint") == (70, "", "error: could not render zodan.sql.j2:3: 'x' is undefined\n")


def test_defaults_that_cannot_be_read_are_said_plainly(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "constants").mkdir()
    (tmp_path / "constants" / "defaults.sql.j2").write_text("{% set secrets = %}\n")
    monkeypatch.setattr(render, "find_templates", lambda: tmp_path)
    for cached in (render._constants, redaction._keyword):
        cached.cache_clear()
    code, out, err = run("add-node", *ADD)
    assert (code, out) == (70, "")
    assert re.fullmatch(r"error: could not render \S*defaults\.sql\.j2:1: .*\n", err)


def test_add_node_passes_only_what_was_given(run: Run, calls: list[tuple[Any, ...]]) -> None:
    assert run("add-node", *ADD)[0] == 0
    named = {"src_node_name": "n1", "src_dsn": SRC, "new_node_name": "n4", "new_node_dsn": NEW, "verb": True}
    assert calls == [(NEW, "spock.add_node", named)]


def test_add_node_passes_everything_that_was_given(run: Run, calls: list[tuple[Any, ...]]) -> None:
    more = ["--new-node-location", "Oslo", "--new-node-country", "NO", "--new-node-info", '{"rack": 1}']
    assert run("add-node", *ADD, *more, "--roles", "--verbose", "--dry-run", "--dsn", SRC)[0] == 0
    ((dsn, _, arguments),) = calls
    assert dsn == SRC
    assert set(arguments) == {
        *("src_node_name", "src_dsn", "new_node_name", "new_node_dsn"),
        *("new_node_location", "new_node_country", "new_node_info", "verb", "dry_run", "roles"),
    }
    assert arguments["new_node_info"] == {"rack": 1}
    assert arguments["verb"] is arguments["dry_run"] is True


def test_replace_node_passes_what_was_given(run: Run, calls: list[tuple[Any, ...]]) -> None:
    assert run("replace-node", *REPLACE)[0] == 0
    more = ["--src-node-name", "n2", "--src-dsn", OTHER, "--soak", "1h", "--quiet", "0", "--no-verify", "--force"]
    assert run("replace-node", *REPLACE, *more)[0] == 0
    named = {"old_node_name": "n1", "old_node_dsn": SRC, "new_node_name": "n4", "new_node_dsn": NEW, "verb": True}
    switches = {"soak": "1 h", "quiet": "0 s", "verify": False, "force": True}
    assert calls == [
        (NEW, "zodan.replace_node", named | {"src_node_name": "n1", "src_dsn": SRC}),
        (NEW, "zodan.replace_node", named | {"src_node_name": "n2", "src_dsn": OTHER} | switches),
    ]
    code, _, err = run("replace-node", *REPLACE, "--src-node-name", "n2")
    assert (code, "only one of --src-node-name and --src-dsn" in err) == (2, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--pgdata", "/nowhere/main"], "--pgdata: for a physical copy only"),
        (["--restored", "--set", "a=b"], "--restored, --set: for a physical copy only"),
        (["--rollback"], "--rollback: for a physical copy only"),
        (["--clone"], "--pgdata is missing"),
        ([*PLACE, "--jobs", "2", "--max-lag", "3s"], "--jobs, --max-lag: not with --clone"),
        ([*PLACE, "--roles", "--structure", "client"], "--with-roles, --structure: not with --clone"),
        ([*PLACE, "--copy", "psql"], "--copy: not with --clone"),
        ([*PLACE, "--no-install", "--dsn", OTHER], "--dsn, --no-install: not with --clone"),
        ([*PLACE, "--set", "nothing"], '--set is "nothing"'),
        ([*PLACE, "--rollback", "--dry-run"], "--rollback goes with neither"),
        ([*PLACE, "--soak", "long"], '--soak is "long"'),
    ],
)
def test_replace_node_wants_options_that_go_together(
    run: Run, calls: list[tuple[Any, ...]], given: list[str], words: str
) -> None:
    code, _, err = run("replace-node", *REPLACE, *given)
    assert (code, words in err) == (2, True), err
    assert "s3cret" not in err
    assert calls == []


def test_remove_node_passes_what_was_given(run: Run, calls: list[tuple[Any, ...]]) -> None:
    more = ["--accept-divergence", "--level", "--dry-run", "--survivor-dsn", SRC]
    assert run("remove-node", *REMOVE)[0] == 0
    assert run("remove-node", *REMOVE, "--force", *more, "--dsn", OTHER)[0] == 0
    named = {"target_node_name": "n4", "target_node_dsn": NEW}
    switches = {"force": True, "accept_divergence": True, "level": True, "dry_run": True, "survivor_dsn": SRC}
    assert calls == [
        (NEW, "spock.remove_node", {**named, "verbose_mode": True}),
        (OTHER, "spock.remove_node", named | switches),
    ]


def test_a_forced_removal_is_called_on_the_survivor_or_where_told(run: Run, calls: list[tuple[Any, ...]]) -> None:
    assert run("remove-node", *REMOVE, "--force", "--survivor-dsn", SRC)[0] == 0
    assert run("remove-node", *REMOVE, "--force", "--dsn", OTHER)[0] == 0
    assert run("remove-node", *REMOVE, "--survivor-dsn", SRC)[0] == 0
    assert [dsn for dsn, _, _ in calls] == [SRC, OTHER, NEW]


@pytest.mark.parametrize("command", ["remove-node", "plan"])
def test_a_forced_removal_wants_to_know_where_to_call(run: Run, calls: list[tuple[Any, ...]], command: str) -> None:
    code, _, err = run(command, *REMOVE, "--force")
    assert (code, calls) == (2, [])
    assert "--survivor-dsn" in err


@pytest.mark.parametrize("command", ["resume", "rollback"])
def test_an_operation_is_taken_up_by_its_number(run: Run, calls: list[tuple[Any, ...]], command: str) -> None:
    assert run(command, "3", "--dsn", OTHER)[0] == 0
    assert run(command, "3", "--dsn", OTHER, "--node-dsn", f"n1={SRC}", "--node-dsn", f"n4={NEW}")[0] == 0
    named = {"p_operation": 3, "p_verbose": True}
    assert calls == [
        (OTHER, f"zodan.{command}", named),
        (OTHER, f"zodan.{command}", {**named, "p_dsns": {"n1": SRC, "n4": NEW}}),
    ]


@pytest.mark.parametrize("given", [NEW, SRC, f"={SRC}", "n1", "n1=", "n1=host=a password='s3cret", f"{NEW}?a=b"])
def test_a_node_dsn_has_a_name_and_a_dsn_and_is_not_echoed(run: Run, calls: list[tuple[Any, ...]], given: str) -> None:
    code, _, err = run("resume", "3", "--dsn", OTHER, "--node-dsn", given)
    assert (code, calls) == (2, [])
    assert "--node-dsn" in err
    assert "host=a" not in err


OPERATIONS = [
    journal.Operation(1, "add_node", "n4", "done", "2026-01-01 10:00:00+00", 3.25, None),
    journal.Operation(2, "remove_node", "n10", "failed", "2026-01-01 11:00:00+00", None, f"no way to {NEW}"),
]


def test_operations_are_a_table(run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "operations", lambda dsn: OPERATIONS)
    assert run("operations", "--dsn", OTHER) == (
        0,
        "number  kind         node  state   started                 took   error\n"
        "1       add_node     n4    done    2026-01-01 10:00:00+00  3.2 s\n"
        "2       remove_node  n10   failed  2026-01-01 11:00:00+00         no way to postgresql://me:****@b/app\n",
        "",
    )
    monkeypatch.setattr(journal, "operations", lambda dsn: [])
    assert run("operations", "--dsn", OTHER)[1] == "no operation was called here\n"


def test_steps_are_a_table(run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    journalled = [
        journal.Step(1, "register", 1, "act", "n4", None, "create node n4", "done", 0.04, None),
        journal.Step(2, "copied", 2, "wait", "n4", None, "copy the rows", "running", None, None, "slot x"),
    ]
    monkeypatch.setattr(journal, "steps", lambda dsn, number: journalled if number == 1 else [])
    assert run("steps", "1", "--dsn", OTHER) == (
        0,
        "phase  step  node  state    took   title           error or what it waits for\n"
        "1      1     n4    done     0.0 s  create node n4\n"
        "2      2     n4    running         copy the rows   slot x\n",
        "",
    )
    code, _, err = run("steps", "2", "--dsn", OTHER)
    assert code == 2
    assert 'there is no operation 2 in database "other" on c' in err


@pytest.mark.parametrize("info", ["{", "[1]", '"x"', "password=s3cret"])
def test_info_has_to_be_a_json_object(run: Run, calls: list[tuple[Any, ...]], info: str) -> None:
    code, _, err = run("add-node", *ADD, "--new-node-info", info)
    assert (code, calls) == (2, [])
    assert "--new-node-info is not a JSON object" in err


@pytest.mark.parametrize("option", ["--src-dsn", "--new-node-dsn"])
def test_a_dsn_that_cannot_be_read_is_named_and_not_echoed(run: Run, calls: list[tuple[Any, ...]], option: str) -> None:
    code, _, err = run("add-node", *ADD, option, "host=a password='s3cret")
    assert (code, calls) == (2, [])
    assert f"{option} is not a connection string" in err


def test_what_is_missing_is_installed_first(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "installed_version", lambda dsn: "0.0.1")
    monkeypatch.setattr(install, "install", lambda dsns: [InstallResult('database "app"', "installed", "9.9")])
    assert run("add-node", *ADD) == (0, 'installed Zodan 9.9 in database "app"\n', "")
    assert len(calls) == 1


@pytest.mark.parametrize("option", ["--no-install", "--dry-run"])
def test_nothing_is_installed_when_told_not_to_change_a_thing(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(install, "installed_version", lambda dsn: None)
    code, _, err = run("add-node", *ADD, option)
    assert (code, calls) == (3, [])
    assert 'Zodan is not installed in database "app" on b' in err


@pytest.mark.parametrize(
    ("sqlstate", "code"),
    [
        *[("ZD001", 2), ("ZD101", 3), ("ZD201", 4), ("ZD301", 5), ("ZD401", 6), ("ZD901", 70)],
        *[("ZD005", 2), ("2D000", 2), ("57014", 130), ("08006", 7), ("42501", 7)],
    ],
)
def test_every_class_of_error_has_its_exit_code(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, sqlstate: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZodanError("it failed", sqlstate=sqlstate, detail=f"with {NEW}", hint="do password=s3cret this")

    monkeypatch.setattr(operation, "call", fail)
    said = f"error {sqlstate}: it failed\n  detail: with postgresql://me:****@b/app\n  hint: do password=**** this\n"
    # Where the session itself died or was cancelled, the server cannot say how to go on.
    assert run("add-node", *ADD) == (code, "", said if sqlstate.startswith("ZD") else said + UNFINISHED + UNDO)


def test_progress_is_on_stdout_and_warnings_are_on_stderr(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(_: str, __: str, ___: object, on_message: operation.OnMessage, **____: object) -> None:
        on_message("NOTICE", "phase 1: register [n4]", "")
        on_message("DEBUG", "SELECT 's3cret-src'", "")
        on_message("WARNING", "sequence is not safe", "use another")

    monkeypatch.setattr(operation, "call", talk)
    assert run("add-node", *ADD) == (
        0,
        "phase 1: register [n4]\nSELECT '****'\n",
        "warning: sequence is not safe\n  hint: use another\n",
    )


@pytest.mark.parametrize(("mode", "steps"), [("auto", True), ("plain", True), ("none", False)])
@pytest.mark.parametrize("document", [False, True])
@pytest.mark.usefixtures("calls")
def test_progress_none_is_all_but_steps(
    run: Run, monkeypatch: pytest.MonkeyPatch, mode: str, steps: bool, document: bool
) -> None:
    def talk(_: str, __: str, ___: object, on_message: operation.OnMessage, **____: object) -> None:
        on_message("NOTICE", "+ 1: create node n4", "")
        on_message("WARNING", "sequence is not safe", "")
        on_message("NOTICE", 'node "n4" has joined', "")

    monkeypatch.setattr(operation, "call", talk)
    monkeypatch.setattr(journal, "operations", lambda dsn: [])
    code, out, err = run("add-node", *ADD, "--progress", mode, *(["--json"] if document else []))
    told = err if document else out
    assert code == 0
    assert ("+ 1: create node n4" in told) is steps
    assert 'node "n4" has joined' in told
    assert "warning: sequence is not safe" in err


def test_every_command_that_runs_an_operation_has_progress(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        topology, "rescan", lambda *_: [Leftover("n1", "slot", "spk_x", "unused", "SELECT 1", certain=True)]
    )
    there = ["--dsn", OTHER]
    commands = [
        *(["add-node", *ADD], ["remove-node", *REMOVE], ["resume", "17", *there]),
        *(["rollback", "17", *there], ["rescan", "--fix", *there]),
    ]
    for command in commands:
        assert run(*command, "--progress", "none")[0] == 0
        code, out, err = run(*command, "--progress", "loud")
        assert (code, out) == (2, "")
        assert "loud" in err
    for main, arguments in ((cli.zodan_py, ["add_node", *ADD]), (cli.zodremove_py, ["remove_node", *REMOVE])):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--progress", "none"])
        assert exit_.value.code == 0
    assert len(calls) == len(commands) + 2


UNFINISHED = "operation 17 is unfinished; what is done stays done\n  to finish it: zodan-sql resume 17 --dsn ...\n"
UNDO = "  to undo it: zodan-sql rollback 17 --dsn ...\n"


def test_interrupting_says_how_to_go_on(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def gone(*_: object) -> None:
        raise ZodanError("no server", sqlstate="08006")

    def have(kind: str, state: str) -> None:
        found = journal.Operation(17, kind, "n4", state, "today", None, None)
        monkeypatch.setattr(journal, "operations", lambda _: [found])

    monkeypatch.setattr(operation, "call", interrupt)
    have("remove_node", "interrupted")
    assert run("remove-node", *REMOVE) == (130, "", "interrupted\n" + UNFINISHED)
    assert run("resume", "17", "--dsn", OTHER) == (130, "", "interrupted\n" + UNFINISHED)
    have("add_node", "failed")
    assert run("add-node", *ADD) == (130, "", "interrupted\n" + UNFINISHED + UNDO)
    assert run("rollback", "17", "--dsn", OTHER) == (130, "", "interrupted\n" + UNFINISHED + UNDO)
    have("add_node", "done")
    assert run("add-node", *ADD) == (130, "", "interrupted\nno operation is unfinished\n")
    assert run("resume", "17", "--dsn", OTHER) == (130, "", "interrupted\nno operation is unfinished\n")
    assert run("resume", "99", "--dsn", OTHER) == (130, "", "interrupted\nno operation is unfinished\n")
    monkeypatch.setattr(journal, "operations", gone)
    code, _, err = run("add-node", *ADD)
    assert code == 130
    assert "zodan-sql operations" in err


def test_a_bug_is_told_without_passwords(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(SRC)

    monkeypatch.setattr(operation, "call", fail)
    code, _, err = run("add-node", *ADD)
    assert code == 70
    assert "RuntimeError: host=a dbname=app password=****" in err


STEPS = [
    PlannedStep(
        1,
        "register",
        1,
        "act",
        None,
        None,
        None,
        "n4",
        None,
        "create node n4",
        "SELECT 1",
        "SELECT 2",
        "SELECT 3",
        None,
        None,
    ),
    PlannedStep(
        2, "copied", 2, "wait", "copy", 2, "guarded", "source", None, "wait", None, None, None, "SELECT 4", "00:01:00"
    ),
]


def test_plan_prints_the_steps_by_phase(
    run: Run, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(operation, "plan", lambda *given: asked.append(given) or STEPS)
    code, out, _ = run("plan", *ADD, "--roles", "--new-node-info", json.dumps({"a": 1}))
    assert code == 0
    assert out == "phase 1\n    1  n4      create node n4\nphase 2\n    2  source  wait\n"
    assert asked[0][:2] == (NEW, "plan_add_node")
    assert asked[0][2]["new_node_info"] == {"a": 1}
    assert asked[0][2]["roles"] is True
    _, out, _ = run("plan", *REMOVE, "--force", "--accept-divergence", "--level", "--survivor-dsn", SRC, "--verbose")
    assert "undo: SELECT 3" in out
    assert "until: SELECT 4  within 00:01:00" in out
    named = {"target_node_name": "n4", "target_node_dsn": NEW}
    named |= {"survivor_dsn": SRC, "force": True, "accept_divergence": True, "level": True}
    assert asked[1] == (SRC, "plan_remove_node", named)


@pytest.mark.parametrize("options", [[], ADD[:4], [*ADD, *REMOVE], REMOVE[:2]])
def test_plan_wants_the_options_of_one_operation(run: Run, options: list[str]) -> None:
    code, _, err = run("plan", *options)
    assert code == 2
    assert "neither" in err


def test_a_server_that_does_not_answer_is_exit_7(run: Run) -> None:
    code, _, err = run("install", "--dsn", "host=127.0.0.1 port=1 dbname=app password=s3cret")
    assert code == 7
    assert err.startswith('database "app" on 127.0.0.1 port 1: failed\nerror 08006: ')


def test_install_reports_each_database_and_fails_when_one_did(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        InstallResult('database "a"', "installed", "1.0"),
        InstallResult('database "b"', "failed", error=ZodanError("no Spock", sqlstate="ZD100", hint="install it")),
        InstallResult('database "c"', "removed", "1.0", note="dblink stays"),
    ]
    monkeypatch.setattr(install, "install", lambda dsns, create_dblink: results)
    assert run("install", "--dsn", SRC, "--dsn", NEW) == (
        3,
        'database "a": installed (version 1.0)\ndatabase "c": removed (version 1.0, dblink stays)\n',
        'database "b": failed\nerror ZD100: no Spock\n  hint: install it\n',
    )


def test_scripts_lose_what_only_psql_understands_and_nothing_else() -> None:
    text = "\\set x\nBEGIN;\nSELECT 1 \\g /dev/null\nDO $a$\nBEGIN;\n$b$\nCOMMIT;\n\\x\n$a$;\n"
    text += "SELECT '$c$;';\n$c$;\nCOMMIT;\n"
    assert (
        script.without_transaction(script.without_meta(text))
        == "\n\nSELECT 1;\nDO $a$\nBEGIN;\n$b$\nCOMMIT;\n\\x\n$a$;\nSELECT '$c$;';\n$c$;\n\n"
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("20MB", 20 << 20), ("500 kb", 500 << 10), ("1.5GB", 3 << 29), ("70000", 70000), ("1tb", 1 << 40)],
)
def test_a_rate_is_passed_on_in_bytes(run: Run, calls: list[tuple[Any, ...]], text: str, size: int) -> None:
    run("add-node", *ADD, "--max-rate", text)
    assert calls[0][2]["max_rate"] == size


@pytest.mark.parametrize("text", ["", "fast", "20 mb/s", "-1MB", "1e3", "MB"])
def test_a_rate_that_makes_no_sense_is_refused(run: Run, calls: list[tuple[Any, ...]], text: str) -> None:
    code, _, err = run("add-node", *ADD, "--max-rate", text)
    assert code == 2
    assert f'--max-rate is "{text}"' in err
    assert calls == []


@pytest.mark.parametrize(("command", "given"), [("add-node", ADD), ("replace-node", REPLACE)])
def test_how_rows_come_is_passed_on(run: Run, calls: list[tuple[Any, ...]], command: str, given: list[str]) -> None:
    run(command, *given, "--copy", "psql")
    run(command, *given, "--copy", "rows")
    assert [arguments.get("copy") for _, _, arguments in calls] == ["psql", None]
    assert run(command, *given, "--copy", "present")[0] == 2
    assert len(calls) == 2


@pytest.mark.parametrize(("text", "span"), [("30s", "30 s"), ("1.5 min", "1.5 min"), ("10", "10 s"), ("2h", "2 h")])
def test_a_lag_is_passed_on_as_an_interval(run: Run, calls: list[tuple[Any, ...]], text: str, span: str) -> None:
    run("add-node", *ADD, "--max-lag", text)
    assert calls[0][2]["max_lag"] == span


@pytest.mark.parametrize("text", ["", "long", "-1s", "1 fortnight"])
def test_a_lag_that_makes_no_sense_is_refused(run: Run, calls: list[tuple[Any, ...]], text: str) -> None:
    code, _, err = run("add-node", *ADD, "--max-lag", text)
    assert code == 2
    assert f'--max-lag is "{text}"' in err
    assert calls == []


def test_the_comparison_of_a_join_is_passed_on(run: Run, calls: list[tuple[Any, ...]]) -> None:
    run("add-node", *ADD, "--verify")
    run("add-node", *ADD)
    assert [call[2].get("verify") for call in calls] == [True, None]


def test_a_folder_for_repairs_is_made_before_rows_are_compared(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[Any, ...]] = []
    monkeypatch.setattr(comparison, "verify", lambda *given: compared.append(given))
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = run(
            "verify", "--dsn", SRC, "--repair", "plan", "--like", "n1", "--apply", "--output", str(folder)
        )
        assert (code, f"could not write {folder}" in err) == (2, True), err
    assert compared == []


@pytest.mark.parametrize(
    "words",
    [
        ("add-node", *ADD, "--jobs", "100000000000"),
        ("add-node", *ADD, "--max-rate", "10000000TB"),
        ("add-node", *ADD, "--new-node-info", '{"a": NaN}'),
        ("add-node", *ADD, "--new-node-info", "[" * 100_000),
        ("verify", "--dsn", OTHER, "--jobs", "65"),
        ("verify", "--dsn", OTHER, "--most", "2147483648"),
        ("resume", "9223372036854775808", "--dsn", OTHER),
    ],
)
def test_a_number_that_the_server_does_not_take_is_the_callers_mistake(
    run: Run, calls: list[tuple[Any, ...]], words: tuple[str, ...]
) -> None:
    assert run(*words)[0] == 2
    assert not calls
