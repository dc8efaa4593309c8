"""--json, topology, rescan and report on a cluster, from the console script."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from support.clusters import MakeCluster
from support.documents import parse
from support.pages import check_page
from support.secrets import find
from support.shell import Ended, run
from zodan_sql.cli import documents
from zodan_sql.sandbox import Cluster, Node


def ask(node: Node, *arguments: str) -> Ended:
    ended = run(*arguments, "--dsn", node.dsn())
    assert list(find(ended.out + ended.err)) == []
    return ended


def test_what_a_shell_is_told_of_a_join(make_cluster: MakeCluster, tmp_path: Path) -> None:
    cluster = make_cluster(members=2, blanks=1)
    n1, n2, n3 = cluster.nodes
    parse(ask(n1, "install", "--json").out, documents.InstallDocument)
    check_plan_and_join(cluster)
    (operation,) = parse(ask(n3, "operations", "--json").out, documents.OperationsDocument)["operations"]
    assert operation["state"] == "done"
    steps = parse(ask(n3, "steps", "1", "--json").out, documents.StepsDocument)["steps"]
    assert {step["state"] for step in steps} == {"done"}

    found = parse(ask(n1, "topology", "--json").out, documents.TopologyDocument)
    assert found["nodes"] == ["n1", "n2", "n3"]
    assert [stream["health"] for stream in found["streams"]] == ["good"] * 6
    assert "6 of 6 streams replicate" in ask(n1, "topology").out
    assert ElementTree.fromstring(ask(n1, "topology", "--format", "svg").out).tag.endswith("svg")
    assert ask(n1, "topology", "--format", "mermaid").out.startswith("flowchart LR\n")
    assert ask(n1, "topology", "--format", "dot").out.startswith("digraph topology {\n")

    page = tmp_path / "page.html"
    assert ask(n3, "report", "1", "--html", str(page)).code == 0
    text = page.read_text(encoding="utf-8")
    assert "3 nodes, 6 of 6 streams replicate" in text
    assert text.count("✓ confirmed") > 3
    assert list(find(text)) == []
    seen = check_page(page)
    assert len(seen["bars"]) == len(steps)
    check_rescan(n1, n2)


def check_plan_and_join(cluster: Cluster) -> None:
    n1, _, n3 = cluster.nodes
    options = ["--src-node-name", "n1", "--src-dsn", n1.dsn(), "--new-node-name", "n3", "--new-node-dsn", n3.dsn()]
    plan = parse(run("plan", *options, "--json", "--dsn", n1.dsn()).out, documents.PlanDocument)
    dry = run("add-node", *options, "--dry-run", "--json", "--dsn", n1.dsn())
    assert parse(dry.out, documents.PlanDocument)["plan"] == plan["plan"]
    joined = run("add-node", *options, "--with-roles", "--json")
    found = parse(joined.out, documents.CallDocument)
    assert (joined.code, found["operation"]["state"]) == (0, "done")
    assert len(found["steps"]) > len(plan["plan"]) > 20
    assert "joined" in joined.err


def check_rescan(n1: Node, n2: Node) -> None:
    assert parse(ask(n1, "rescan", "--json").out, documents.RescanDocument)["leftovers"] == []
    n2.execute("SELECT pg_replication_origin_create('spk_app_gone_sub_gone_n2')")
    ended = ask(n1, "rescan", "--json")
    (leftover,) = parse(ended.out, documents.RescanDocument)["leftovers"]
    assert (ended.code, leftover["node"], leftover["kind"]) == (1, "n2", "origin")
    fixed = ask(n1, "rescan", "--fix", "--json")
    found = parse(fixed.out, documents.RescanDocument)
    assert (fixed.code, found["operation"]["kind"], found["operation"]["state"]) == (0, "mend", "done")
    assert "nothing is left behind" in ask(n1, "rescan").out

    # Origins belong to a server: those of another database are its own, and one of either is left alone.
    for database, origin in (("other", "spk_other_n1_sub_n1_n2"), ("app_n1", "spk_app_n1_n9_sub_n9_n2")):
        n2.execute(f"CREATE DATABASE {database}")
        n2.execute("SELECT pg_replication_origin_create(%(origin)s)", {"origin": origin})
    (doubtful,) = parse(ask(n1, "rescan", "--json").out, documents.RescanDocument)["leftovers"]
    assert (doubtful["name"], doubtful["certain"]) == ("spk_app_n1_n9_sub_n9_n2", False)
    ask(n1, "rescan", "--fix")
    assert n2.execute("SELECT count(*) FROM pg_replication_origin WHERE roname ~ '_n1_'") == [(3,)]
    n2.execute("SELECT pg_replication_origin_drop('spk_app_n1_n9_sub_n9_n2')")

    # A slot for a subscriber that is no member may be waited for by one outside; one between members cannot be.
    outside, between = "spk_app_n1_sub_n1_report", "spk_old_n1_sub_n1_n2"
    for slot in (outside, between):
        n1.execute("SELECT pg_create_logical_replication_slot(%(slot)s, 'spock_output')", {"slot": slot})
    slots = parse(ask(n1, "rescan", "--json").out, documents.RescanDocument)["leftovers"]
    assert {(each["node"], each["kind"], each["name"], each["certain"]) for each in slots} == {
        ("n1", "slot", outside, False),
        ("n1", "slot", between, True),
    }
    cautious = ask(n1, "rescan", "--fix", "--json")
    (warning,) = parse(cautious.out, documents.RescanDocument)["warnings"]
    assert (cautious.code, outside in warning["message"], between in warning["message"]) == (0, True, False)
    (kept,) = parse(ask(n1, "rescan", "--json").out, documents.RescanDocument)["leftovers"]
    assert kept["name"] == outside
    assert ask(n1, "rescan", "--fix", "--all", "--json").code == 0
    assert "nothing is left behind" in ask(n1, "rescan").out


def test_sandbox_status_is_a_document(sandbox_folder: Path) -> None:
    folder = str(sandbox_folder)
    assert parse(run("sandbox", "status", "--json", "--base", folder).out, documents.SandboxDocument)["servers"] == []
    assert run("sandbox", "up", "--nodes", "1", "--blanks", "0", "--base", folder).code == 0
    try:
        found = parse(run("sandbox", "status", "--json", "--base", folder).out, documents.SandboxDocument)
        assert [(each["name"], each["role"], each["running"]) for each in found["servers"]] == [("n1", "member", True)]
    finally:
        run("sandbox", "down", "--base", folder)
        shutil.rmtree(folder, ignore_errors=True)
