"""The console script on a cluster: what is done, printed, masked, and said when it goes wrong."""

from __future__ import annotations

import re
import signal

import pytest
from psycopg.conninfo import make_conninfo

from support.calls import leftovers, state
from support.clusters import MakeCluster
from support.crash import HOOK_KEY, wait_unlocked
from support.secrets import WRONG, find
from support.shell import Ended, end, run, start
from support.tables import assert_rows_equal, create_tables, fill, wait_level
from zodan_sql.sandbox import Cluster, Node, wait_until

_BUDGET_S = 60.0
_ROWS = 500
#: Sessions that the executor's test hook holds.
_HELD = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND classid::bigint << 32 | objid::bigint = %s"
)


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """Return two members with rows, and a blank; Zodan is nowhere."""
    made: Cluster = make_cluster(members=2, blanks=1)
    create_tables(made)
    fill(made["n1"], _ROWS)
    wait_level(made.members)
    return made


def add_options(cluster: Cluster, source: str = "n1", new: str = "n3") -> list[str]:
    named = ["--src-node-name", source, "--src-dsn", cluster[source].dsn()]
    return [*named, "--new-node-name", new, "--new-node-dsn", cluster[new].dsn()]


def remove_options(cluster: Cluster, target: str = "n3") -> list[str]:
    return ["--target-node-name", target, "--target-dsn", cluster[target].dsn()]


def has_zodan(node: Node) -> bool:
    return bool(node.execute("SELECT to_regnamespace('zodan') IS NOT NULL")[0][0])


def assert_secret(ended: Ended) -> None:
    assert list(find(ended.out + ended.err)) == []


def last_operation(ended: Ended) -> str:
    found = re.search(r"operation (\d+) is unfinished", ended.err)
    assert found is not None, ended.err
    return found.group(1)


def break_off(node: Node, *arguments: str, hook: str, by: str) -> Ended:
    """Hold a command at a point of its plan and break it there: by Ctrl-C, or by the end of its session."""
    with node.connect() as lock:
        lock.execute("SELECT pg_advisory_lock(%s)", [HOOK_KEY])
        process = start(*arguments, hook=hook)

        def not_held() -> str:
            assert process.poll() is None, end(process)
            return "" if lock.execute(_HELD, [HOOK_KEY]).fetchone() else "it runs"

        wait_until(not_held, _BUDGET_S, f"the command to come to {hook}")
        if by == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            lock.execute(f"SELECT pg_terminate_backend(pid) FROM ({_HELD}) AS held", [HOOK_KEY])
        return end(process)


def test_a_node_joins_and_leaves_from_a_shell(cluster: Cluster) -> None:
    node = cluster["n3"]
    assert not has_zodan(node)
    dry = run("add-node", *add_options(cluster), "--dry-run")
    assert (dry.code, dry.out, has_zodan(node)) == (3, "", False)

    joined = run("add-node", *add_options(cluster), "--verbose")
    assert (joined.code, joined.err) == (0, "")
    assert joined.out.startswith("installed Zodan ")
    assert 'node "n3" has joined: 3 members, operation 1' in joined.out
    wait_level(cluster.nodes)
    assert_rows_equal(cluster.nodes)

    planned = run("plan", *remove_options(cluster), "--verbose")
    assert (planned.code, planned.err) == (0, "")
    assert planned.out.startswith("phase 1\n")
    left = run("remove-node", *remove_options(cluster), "--verbose")
    assert (left.code, left.err) == (0, "")
    assert leftovers(cluster.members, "n3") == []

    listed = run("operations", "--dsn", node.dsn())
    assert [line.split()[1:4] for line in listed.out.splitlines()[1:]] == [
        ["add_node", "n3", "done"],
        ["remove_node", "n3", "done"],
    ]
    shown = run("steps", "2", "--dsn", node.dsn())
    assert {line.split()[3] for line in shown.out.splitlines()[1:]} == {"done"}
    gone = run("uninstall", "--dsn", node.dsn())
    assert (gone.code, has_zodan(node)) == (0, False)
    for ended in (dry, joined, planned, left, listed, shown, gone):
        assert_secret(ended)


def test_what_is_wrong_is_said_on_stderr_without_a_password(cluster: Cluster) -> None:
    add, before = add_options(cluster), state(cluster.nodes)
    wrong = make_conninfo(cluster["n1"].dsn(), password=WRONG)
    malformed = cluster["n1"].dsn().replace("password=", "password='")
    cases = [
        ([*add, "--src-dsn", wrong], 3),
        ([*add, "--src-node-name", "nobody"], 2),
        ([*add, "--src-dsn", malformed], 2),
        ([*add, "--new-node-dsn", malformed], 2),
        ([*add, "--new-node-name", "n1"], 2),
        ([*add, "--new-node-dsn", make_conninfo(cluster["n3"].dsn(), password=WRONG)], 7),
        ([*add, "--dsn", cluster["n2"].dsn(), "--new-node-name", "n2", "--new-node-dsn", cluster["n2"].dsn()], 3),
        (["--src-dsn", cluster["n1"].dsn()], 2),
    ]
    found = []
    for options, code in cases:
        ended = run("add-node", *options, "--verbose")
        found.append((ended.code, ended.err.splitlines()[:1]))
        assert_secret(ended)
        assert ended.err.startswith("error")
        assert ended.code == code, found
    assert state(cluster.nodes) == before


@pytest.mark.parametrize(
    ("by", "code"), [("Ctrl-C", 130), pytest.param("the end of its session", 7, marks=pytest.mark.slow)]
)
def test_what_was_broken_off_is_finished_or_taken_back(cluster: Cluster, by: str, code: int) -> None:
    node, before = cluster["n3"], state(cluster.nodes)
    arguments = ["add-node", *add_options(cluster), "--verbose"]
    # The first call finds no node of its name yet; so far only the copy's subscription has been made.
    broken = break_off(node, *arguments, hook="after 12", by=by)
    assert broken.code == code, broken
    number = last_operation(broken)
    wait_unlocked(cluster.nodes)
    assert " interrupted " in run("operations", "--dsn", node.dsn()).out
    sources = ["--node-dsn", f"n1={cluster['n1'].dsn()}", "--node-dsn", f"n3={node.dsn()}"]
    back = run("rollback", number, "--dsn", node.dsn(), *sources, "--verbose")
    assert back.code == 0, back
    assert "rolled back" in run("operations", "--dsn", node.dsn()).out
    assert state(cluster.nodes) == before

    again = break_off(node, *arguments, hook="after 20", by=by)
    assert again.code == code, again
    wait_unlocked(cluster.nodes)
    resumed = run("resume", last_operation(again), "--dsn", node.dsn(), *sources, "--verbose")
    assert resumed.code == 0, resumed
    wait_level(cluster.nodes)
    assert_rows_equal(cluster.nodes)
    for ended in (broken, back, again, resumed):
        assert_secret(ended)


def test_a_stopped_node_is_removed_from_a_survivor(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(members=3, blanks=0)
    create_tables(cluster)
    wait_level(cluster.members)
    cluster["n3"].stop()
    options = remove_options(cluster)
    nowhere = run("remove-node", *options, "--force")
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "--survivor-dsn" in nowhere.err
    dead = run("remove-node", *options)
    assert dead.code == 7
    removed = run("remove-node", *options, "--force", "--survivor-dsn", cluster["n1"].dsn(), "--verbose")
    assert removed.code == 0, removed
    survivors = [cluster["n1"], cluster["n2"]]
    assert leftovers(survivors, "n3") == []
    for ended in (nowhere, dead, removed):
        assert_secret(ended)


def test_the_scripts_of_the_known_names_do_the_same(cluster: Cluster) -> None:
    added = run("add_node", *add_options(cluster), script="zodan.py")
    assert added.code == 0, added.err
    wait_level(cluster.nodes)
    assert_rows_equal(cluster.nodes)
    checked = run("health-check", "--check-type", "post", *add_options(cluster), script="zodan.py")
    assert checked.code == 0, checked.out
    removed = run("remove_node", *remove_options(cluster), script="zodremove.py")
    assert removed.code == 0, removed.err
    assert leftovers(cluster.nodes, "n3") == []
    assert run("add-node", script="zodremove.py").code == 2
