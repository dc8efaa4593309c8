"""Every check passes on a healthy cluster, and does not on facts of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from support.calls import add_node
from support.clusters import MakeCluster
from support.facts import Doctor, Facts
from support.tables import TABLES, create_tables, fill, wait_level

MEMBERS = ("n1", "n2")
SOURCE, PEER, NEW = "n1", "n2", "n3"


@dataclass(frozen=True)
class Case:
    """A check, where it should fail, and what makes it."""

    key: str
    scope: str
    severity: str
    doctor: Doctor

    def __str__(self) -> str:
        return f"{self.key}, {self.severity}"


def put(path: str, value: Any) -> Doctor:
    return lambda facts: facts.set(path, value)


def several(*doctors: Doctor) -> Doctor:
    def all_of_them(facts: Facts) -> None:
        for doctor in doctors:
            doctor(facts)

    return all_of_them


def setting(node: str, name: str, value: str) -> Doctor:
    """Change a setting as the host tells it."""
    return put(f"{node}/host/settings/{name}", value)


def probe(source: str, target: str, kind: str) -> Doctor:
    def refuse(facts: Facts) -> None:
        facts.probes[source][target][kind] = "connection refused"

    return refuse


def change(look: Callable[[Any], None]) -> Doctor:
    """Change the facts by a function of the whole object."""
    return lambda facts: look(facts.facts)


def clock(seconds: float) -> Doctor:
    return change(lambda facts: facts[PEER]["clock"].update(at=facts[PEER]["clock"]["at"] + seconds))


def unkeyed(facts: Any) -> None:
    facts[SOURCE]["tables"]["unkeyed"].append("public.app_keyed")


def another_patch(facts: Any) -> None:
    major, minor, _ = facts[SOURCE]["extensions"]["spock"].split(".", 2)
    facts[NEW]["extensions"]["spock"] = f"{major}.{minor}.99"


def lolor(facts: Any) -> None:
    facts[SOURCE]["extensions"]["lolor"] = "1.2"
    facts[SOURCE]["streams"]["tables"].append({"set": "default", "table": "lolor.pg_largeobject"})


def snowflake(facts: Any) -> None:
    facts[SOURCE]["extensions"]["snowflake"] = "2.3"
    for node in (SOURCE, NEW):
        facts[node]["host"]["settings"]["snowflake.node"] = "7"


LONG_NAME = "x" * 60
SLOT = {"name": "spk_old", "active": True, "status": "reserved", "here": True, "held": 0, "lag": 0}
OTHER_SEQUENCES = [{"set": "default", "sequence": "public.s"}]
SEQUENCE = {"last": 10, "step": 1, "snowflake": False}


def slot(**changed: Any) -> Doctor:
    return change(lambda facts: facts[PEER]["host"]["slots"].append(SLOT | changed))


def unlike(name: str, severity: str, path: str, value: Any = "other") -> Case:
    return Case(name, PEER, severity, put(f"{PEER}/host/{path}", value))


def spelled(setting: str) -> Doctor:
    """Have values on the source that Spock sends as text, as a setting has them printed or parsed."""
    return put(f"{SOURCE}/tables/spelled", {"same": [setting], "across": [setting]})


def spock_five(facts: Any) -> None:
    for node in (SOURCE, PEER, NEW):
        facts[node]["extensions"]["spock"] = "5.0.11"


def unlogged(node: str) -> Doctor:
    """Have a node discard changes without a trace."""
    return several(
        setting(node, "spock.exception_logging", "none"), setting(node, "spock.exception_behaviour", "transdiscard")
    )


BEFORE = [
    Case("reachable", PEER, "fail", put(PEER, {"error": "connection refused"})),
    Case("readable", PEER, "fail", put(f"{PEER}/unread", "host: permission denied")),
    Case("reachable-from-each-other", f"{PEER} -> {NEW}", "fail", probe(PEER, NEW, "connection")),
    Case("same-from-everywhere", f"{PEER} -> {NEW}", "fail", probe(PEER, NEW, "identity")),
    Case("same-from-everywhere", f"{SOURCE} -> {PEER}", "warn", probe(SOURCE, PEER, "identity")),
    Case("reachable-from-each-other", f"{PEER} -> {SOURCE}", "warn", probe(PEER, SOURCE, "connection")),
    Case("replication-connections", f"{NEW} -> {SOURCE}", "fail", probe(NEW, SOURCE, "replication")),
    Case("postgresql-version", PEER, "fail", put(f"{PEER}/version_num", 140002)),
    Case("postgresql-version", NEW, "fail", put(f"{SOURCE}/version_num", 990002)),
    Case("same-postgresql-major", NEW, "warn", put(f"{NEW}/version_num", 990002)),
    Case("same-postgresql-minor", PEER, "warn", put(f"{PEER}/version_num", 150001)),
    Case("spock", NEW, "fail", put(f"{NEW}/spock/pauses", False)),
    Case("same-spock", NEW, "fail", put(f"{NEW}/extensions/spock", "4.9.9")),
    Case("same-spock", NEW, "fail", put(f"{NEW}/extensions/spock", "99.0.1")),
    Case("same-spock", PEER, "warn", put(f"{PEER}/extensions/spock", "99.0.1")),
    Case("same-structure", NEW, "fail", put(f"{NEW}/present", {"differing": ["table a is missing on n3"]})),
    Case("empty-tables", NEW, "fail", put(f"{NEW}/present", {"differing": [], "filled": ["public.t"]})),
    Case("same-spock-patch", NEW, "warn", change(another_patch)),
    Case("wal-level", NEW, "fail", put(f"{NEW}/settings/wal_level", "replica")),
    Case("track-commit-timestamp", PEER, "fail", put(f"{PEER}/settings/track_commit_timestamp", "off")),
    Case("output-plugin-libraries", PEER, "fail", put(f"{PEER}/settings/output_plugin_libraries", "pgoutput")),
    Case("not-a-standby", NEW, "fail", put(f"{NEW}/recovery", True)),
    Case("superuser", PEER, "fail", put(f"{PEER}/superuser", False)),
    Case(
        "shared-preload-libraries",
        NEW,
        "fail",
        several(setting(NEW, "shared_preload_libraries", "auto_explain"), put(f"{NEW}/host/library", "spock")),
    ),
    Case("writable", PEER, "fail", setting(PEER, "default_transaction_read_only", "on")),
    Case("time-limits", NEW, "warn", setting(NEW, "statement_timeout", "30000")),
    Case("pause-timeout", SOURCE, "warn", put(f"{SOURCE}/host/pause", "2s")),
    Case("client-encoding", PEER, "fail", put(f"{PEER}/host/converts", True)),
    Case(
        "monetary-locale",
        PEER,
        "fail",
        several(put(f"{SOURCE}/tables/types", ["money"]), setting(PEER, "lc_monetary", "ja_JP")),
    ),
    Case(
        "xml-option",
        NEW,
        "fail",
        several(put(f"{SOURCE}/tables/types", ["xml"]), setting(NEW, "xmloption", "document")),
    ),
    Case("transaction-isolation", NEW, "fail", setting(NEW, "default_transaction_isolation", "serializable")),
    Case("transaction-isolation", PEER, "warn", setting(PEER, "default_transaction_isolation", "serializable")),
    Case(
        "synchronous-standbys",
        NEW,
        "fail",
        put(f"{NEW}/host/standbys", {"names": "FIRST 2 (a, b)", "needed": 2, "there": 1}),
    ),
    Case("array-nulls", NEW, "fail", several(spelled("array_nulls"), setting(NEW, "array_nulls", "off"))),
    Case("array-nulls", PEER, "warn", several(spelled("array_nulls"), setting(PEER, "array_nulls", "off"))),
    Case(
        "value-formats",
        NEW,
        "fail",
        several(change(spock_five), spelled("DateStyle"), setting(NEW, "DateStyle", "SQL, DMY")),
    ),
    Case(
        "value-formats",
        NEW,
        "fail",
        several(change(spock_five), spelled("IntervalStyle"), setting(NEW, "IntervalStyle", "sql_standard")),
    ),
    Case(
        "value-formats",
        PEER,
        "warn",
        several(change(spock_five), spelled("extra_float_digits"), setting(PEER, "extra_float_digits", "0")),
    ),
    unlike("encoding", "fail", "encoding", "LATIN1"),
    unlike("collation", "warn", "locale/is", "c de_DE.utf8"),
    unlike("collation-version", "warn", "locale/actual"),
    unlike("collation-current", "warn", "locale/recorded"),
    Case("conflict-resolution", PEER, "fail", setting(PEER, "spock.conflict_resolution", "first_update_wins")),
    Case("exception-behaviour", PEER, "warn", setting(PEER, "spock.exception_behaviour", "discarded")),
    Case("ddl-replication", PEER, "warn", setting(PEER, "spock.enable_ddl_replication", "maybe")),
    unlike("database-settings", "warn", "database_settings", ["work_mem=1GB"]),
    Case("clock", PEER, "warn", clock(4)),
    Case("clock", PEER, "fail", clock(-600)),
    Case("not-a-node", NEW, "fail", put(f"{NEW}/spock/node", "n9")),
    Case("empty", NEW, "fail", put(f"{NEW}/relations", 1)),
    Case("own-server", NEW, "fail", change(lambda f: f[NEW].update(server=f[SOURCE]["server"]))),
    Case("name-free", NEW, "fail", put(f"{SOURCE}/spock/nodes/{NEW}", "host=elsewhere")),
    # Spock makes the same number of both.
    Case("number-free", NEW, "fail", put(f"{SOURCE}/spock/nodes/n103038", "host=elsewhere")),
    Case("name-length", NEW, "fail", lambda facts: facts.join["members"].append(LONG_NAME)),
    Case("roles", NEW, "fail", change(lambda f: f[SOURCE]["needed_roles"].append("owner_of_all"))),
    Case("extensions", NEW, "fail", put(f"{SOURCE}/extensions/postgis", "3.4")),
    Case("extension-versions", NEW, "warn", put(f"{SOURCE}/extensions/plpgsql", "0.9")),
    Case(
        "role-attributes",
        NEW,
        "warn",
        several(
            change(lambda f: [f[node]["host"]["role_attributes"].update(app="login") for node in (SOURCE, NEW)]),
            put(f"{SOURCE}/needed_roles", ["app"]),
            put(f"{NEW}/host/role_attributes/app", ""),
        ),
    ),
    Case("tablespaces", NEW, "fail", put(f"{SOURCE}/tables/tablespaces", ["fast"])),
    Case("same-names", NEW, "fail", put(f"{SOURCE}/structure/same", ["type public.mood"])),
    Case("creatable-objects", NEW, "fail", put(f"{NEW}/trial/objects", "no tables here")),
    Case(
        "schema-public",
        NEW,
        "fail",
        several(put(f"{SOURCE}/structure/in_public", True), put(f"{NEW}/structure/public", False)),
    ),
    Case(
        "extension-schemas",
        NEW,
        "fail",
        put(f"{SOURCE}/structure/extensions/dblink", {"schema": "ext", "used": True}),
    ),
    Case("creatable-extensions", NEW, "fail", put(f"{NEW}/trial/extensions", {"dblink": "no"})),
    Case("extension-tables", NEW, "fail", put(f"{NEW}/trial/extension_rows", {"public.app_keyed": "1 7"})),
    Case("extension-rows", SOURCE, "warn", put(f"{SOURCE}/references/extension_rows", {"public.seeded": "1 7"})),
    Case(
        "generated-columns",
        SOURCE,
        "fail",
        several(
            put(f"{SOURCE}/structure/generated", {"public.app_keyed": ["g"]}),
            put(f"{NEW}/extensions/spock", "5.0.11"),
        ),
    ),
    Case(
        "foreign-partitions",
        SOURCE,
        "fail",
        put(f"{SOURCE}/structure/partitions/foreign", {"a.far": ["public.app_keyed"]}),
    ),
    Case(
        "partitions-by-hash",
        SOURCE,
        "fail",
        put(f"{SOURCE}/structure/partitions/hashed", {"a.hashed": ["public.app_keyed"]}),
    ),
    Case("rules", SOURCE, "fail", put(f"{SOURCE}/tables/rules", {"a.part (moves)": ["a.part", "public.app_keyed"]})),
    Case("foreign-keys", SOURCE, "fail", put(f"{SOURCE}/references/broken", ["a on b, to c"])),
    Case("unread-foreign-keys", SOURCE, "warn", put(f"{SOURCE}/references/unread", ["a on b"])),
    Case("unvalidated-constraints", SOURCE, "fail", put(f"{SOURCE}/references/violated", ["c on a"])),
    Case("unread-constraints", SOURCE, "warn", put(f"{SOURCE}/references/unchecked", ["c on a"])),
    Case("table-reading-checks", SOURCE, "warn", put(f"{SOURCE}/structure/peeking", ["f(integer)"])),
    Case("search-paths", SOURCE, "warn", put(f"{SOURCE}/structure/unpinned", ["f(integer)"])),
    Case("copy-by-psql", NEW, "fail", put(f"{NEW}/psql", {"sqlstate": "ZD000", "detail": '{"fault": "not found"}'})),
    Case("copy-by-psql", NEW, "fail", put(f"{NEW}/psql", {"sqlstate": "08006", "message": "no answer"})),
    Case("lolor", NEW, "fail", change(lolor)),
    Case(
        "lolor",
        NEW,
        "fail",
        several(change(lolor), put(f"{NEW}/extensions/lolor", "1.2"), put(f"{NEW}/tables/lolor_bytes", 8192)),
    ),
    Case("snowflake-node", NEW, "warn", change(snowflake)),
    Case("member-identity", PEER, "fail", put(f"{PEER}/spock/node", "n9")),
    Case("other-nodes", PEER, "fail", put(f"{PEER}/spock/subscriptions/0/provider", "n9")),
    Case("replicating", f"{SOURCE} -> {PEER}", "fail", put(f"{PEER}/spock/subscriptions/0/status", "down")),
    Case(
        "single-subscriptions",
        PEER,
        "warn",
        change(lambda f: f[PEER]["spock"]["subscriptions"].append(f[PEER]["spock"]["subscriptions"][0])),
    ),
    Case(
        "single-subscriptions",
        SOURCE,
        "fail",
        change(lambda f: f[SOURCE]["spock"]["subscriptions"].append(f[SOURCE]["spock"]["subscriptions"][0])),
    ),
    Case("same-sets", PEER, "fail", put(f"{PEER}/spock/subscriptions/0/sets", ["default"])),
    Case("partition-roots", SOURCE, "fail", put(f"{SOURCE}/tables/tables/public.app_keyed", "public.root")),
    Case(
        "needed-columns",
        SOURCE,
        "fail",
        change(
            lambda f: [t.update(columns=["id"]) for t in f[SOURCE]["streams"]["tables"] if "keyed" in t["table"]],
        ),
    ),
    Case("exception-logging", NEW, "fail", unlogged(NEW)),
    Case("exception-logging", PEER, "warn", unlogged(PEER)),
    Case("other-joins", PEER, "fail", slot(name="spk_app_n2_zodan_co0e97236a")),
    Case("apply-delay", SOURCE, "fail", put(f"{SOURCE}/spock/subscriptions/0/delay", "01:00:00")),
    Case("forwarding", PEER, "warn", put(f"{PEER}/spock/subscriptions/0/forwards", ["all"])),
    Case("apply-delay", PEER, "warn", put(f"{PEER}/spock/subscriptions/0/delay", "00:00:10")),
    Case("exceptions", PEER, "warn", put(f"{PEER}/streams/exceptions", ["UPDATE on public.t, 2 times"])),
    Case("replication-sets", PEER, "fail", put(f"{PEER}/streams/sets/0/update", "maybe")),
    Case("set-tables", PEER, "fail", put(f"{PEER}/streams/tables", [])),
    Case(
        "set-sequences",
        PEER,
        "warn",
        put(f"{PEER}/streams/sequences", OTHER_SEQUENCES),
    ),
    Case("max-replication-slots", NEW, "fail", put(f"{NEW}/slots", 32)),
    Case("max-wal-senders", SOURCE, "fail", put(f"{SOURCE}/walsenders", 31)),
    Case("max-worker-processes", NEW, "fail", put(f"{NEW}/workers", 30)),
    Case("replication-origins", PEER, "fail", put(f"{PEER}/host/origins", 32)),
    Case("max-connections", PEER, "fail", setting(PEER, "max_connections", "2")),
    Case("inactive-slots", PEER, "warn", slot(active=False)),
    Case("free-slots", PEER, "fail", slot(name=f"spk_app_{PEER}_sub_{PEER}_{NEW}", active=False)),
    Case("held-wal", PEER, "warn", slot(active=False, held=2**30)),
    Case("lost-slots", PEER, "fail", put(f"{PEER}/host/slots/0/status", "lost")),
    Case("lag", PEER, "warn", slot(lag=2**30)),
    Case("long-transactions", PEER, "warn", put(f"{PEER}/host/transactions", ["pid 1 (app) for 900 s"])),
    Case("prepared-transactions", PEER, "fail", put(f"{PEER}/host/prepared", ["two_phase"])),
    Case(
        "wal-kept",
        SOURCE,
        "warn",
        several(
            setting(SOURCE, "max_slot_wal_keep_size", "64"),
            put(f"{SOURCE}/host/size", 2**40),
            put(f"{SOURCE}/host/wal_rate", 2**20),
        ),
    ),
    Case("waiting-slots", PEER, "warn", setting(PEER, "idle_replication_slot_timeout", "60")),
    Case(
        "waiting-slots",
        SOURCE,
        "warn",
        several(setting(SOURCE, "idle_replication_slot_timeout", "3600"), put(f"{SOURCE}/host/size", 2**40)),
    ),
    Case(
        "max-locks-per-transaction",
        NEW,
        "warn",
        several(setting(NEW, "max_locks_per_transaction", "1"), setting(NEW, "max_connections", "1")),
    ),
    Case("max-locks-per-transaction", SOURCE, "warn", put(f"{SOURCE}/tables/lockable", 10**6)),
    Case("keys", SOURCE, "fail", change(unkeyed)),
    Case("member-keys", PEER, "fail", change(lambda f: f[PEER]["tables"]["unkeyed"].append("public.app_keyed"))),
    Case("same-columns", PEER, "warn", put(f"{PEER}/tables/shapes/public.app_keyed", "otherwise")),
    Case("same-triggers", PEER, "warn", put(f"{PEER}/tables/triggers", ["public.t (audit)"])),
    Case("unreplicated-tables", SOURCE, "warn", put(f"{SOURCE}/tables/tables/public.alone", None)),
    Case("unreplicated-tables", SOURCE, "warn", put(f"{SOURCE}/tables/tables/public.leaf", "public.t")),
    Case("deferrable-keys", SOURCE, "warn", put(f"{SOURCE}/tables/deferrable", ["public.t (t_pkey)"])),
    Case("several-keys", SOURCE, "warn", put(f"{SOURCE}/tables/several_unique", ["public.t"])),
    Case("unlogged-tables", SOURCE, "warn", put(f"{SOURCE}/tables/unlogged", ["public.t"])),
    Case("triggers", SOURCE, "warn", put(f"{SOURCE}/tables/triggers", ["public.t (audit)"])),
    Case("event-triggers", SOURCE, "warn", put(f"{SOURCE}/tables/event_triggers", ["ddl_log (ddl_command_end)"])),
    Case("large-objects", SOURCE, "warn", put(f"{SOURCE}/tables/large_objects", 3)),
    Case("other-subscriptions", SOURCE, "warn", put(f"{SOURCE}/tables/subscriptions", ["reporting"])),
    Case("sequences", SOURCE, "warn", put(f"{SOURCE}/tables/sequences/public.s", SEQUENCE)),
]
AFTER = [
    Case("known-everywhere", PEER, "fail", change(lambda f: f[PEER]["spock"]["nodes"].pop(NEW))),
    Case("new-node-subscriptions", NEW, "fail", change(lambda f: f[NEW]["spock"]["subscriptions"].pop())),
    Case("forwarding", NEW, "fail", put(f"{NEW}/spock/subscriptions/0/forwards", ["all"])),
    Case("slot-active", f"{PEER} -> {NEW}", "fail", put(f"{PEER}/host/slots", [])),
    Case("replication-sets", NEW, "fail", put(f"{NEW}/streams/sets", [])),
    Case("set-tables", NEW, "fail", put(f"{NEW}/streams/tables", [])),
    Case("set-sequences", NEW, "fail", put(f"{NEW}/streams/sequences", OTHER_SEQUENCES)),
    Case("sequences-ahead", NEW, "warn", put(f"{PEER}/tables/sequences/public.s", SEQUENCE)),
    Case("row-counts", NEW, "warn", put(f"{NEW}/counts", dict.fromkeys((f"public.{table}" for table in TABLES), 3))),
]
#: Whose outcome SQL cannot know.
UNKNOWN = {"disk-space"}


@dataclass(frozen=True)
class Healthy:
    """Facts of a healthy cluster, before a join and after it."""

    before: Facts
    after: Facts


@pytest.fixture(scope="module")
def healthy(make_module_cluster: MakeCluster) -> Healthy:
    cluster = make_module_cluster(members=MEMBERS, blanks=[NEW])
    create_tables(cluster)
    fill(cluster[SOURCE], 100)
    wait_level(cluster.members)
    before = Facts.read(cluster, SOURCE, NEW)
    add_node(cluster, SOURCE, NEW)
    after = Facts.read(cluster, SOURCE, NEW).joined()
    for node in after.facts.values():
        node["counts"] = dict.fromkeys((f"public.{table}" for table in TABLES), 100)
    return Healthy(before, after)


def assert_fails(facts: Facts, function: str, case: Case) -> None:
    assert all(r.passed for r in facts.check(function) if (r.key, r.scope) == (case.key, case.scope))
    found = [r for r in facts.doctored(case.doctor).check(function) if (r.key, r.scope) == (case.key, case.scope)]
    assert [(r.severity, r.passed) for r in found] == [(case.severity, False)], found
    assert all((r.observed, r.required, r.hint)[i] for r in found for i in range(3))


@pytest.mark.parametrize("case", BEFORE, ids=str)
def test_it_fails_before_a_join(healthy: Healthy, case: Case) -> None:
    assert_fails(healthy.before, "check_join", case)


@pytest.mark.parametrize("case", AFTER, ids=str)
def test_it_fails_after_a_join(healthy: Healthy, case: Case) -> None:
    assert_fails(healthy.after, "check_cluster", case)


def test_none_is_left_out(healthy: Healthy) -> None:
    given = {case.key for case in (*BEFORE, *AFTER)} | UNKNOWN
    before, after = healthy.before.check("check_join"), healthy.after.check("check_cluster")
    assert {result.key for result in (*before, *after)} == given
    assert len(given) >= 40
    assert [r for r in (*before, *after) if r.passed is False] == []
    assert {r.key for r in (*before, *after) if r.passed is None} == UNKNOWN
    assert [r for r in (*before, *after) if not (r.observed and r.required and r.hint)] == []


def test_of_a_node_that_is_not_there_nothing_is_assumed(healthy: Healthy) -> None:
    for missing in (SOURCE, PEER, NEW):
        facts = healthy.before.doctored(put(missing, {"error": "connection refused"}))
        failed = {result.key for result in facts.check("check_join") if result.passed is False}
        assert "reachable" in failed
        assert failed <= {"reachable", "replicating", "own-server"}, failed


def test_a_slot_of_a_stranger_stops_no_join(healthy: Healthy) -> None:
    facts = healthy.before.doctored(slot(status="lost"))
    assert [result for result in facts.check("check_join") if result.passed is False] == []


@pytest.mark.parametrize(
    ("status", "action"), [("lost", "Remove the subscriber"), ("unreserved", "Raise max_slot_wal")]
)
def test_a_subscriber_that_may_catch_up_is_not_to_be_removed(healthy: Healthy, status: str, action: str) -> None:
    (place,) = [
        number
        for number, each in enumerate(healthy.before.facts[SOURCE]["host"]["slots"])
        if each["name"] == healthy.before.facts[PEER]["spock"]["subscriptions"][0]["slot"]
    ]
    facts = healthy.before.doctored(put(f"{SOURCE}/host/slots/{place}/status", status))
    (found,) = [r for r in facts.check("check_join") if (r.key, r.scope) == ("lost-slots", SOURCE)]
    assert (found.passed, found.hint.startswith(action)) == (False, True), found


def test_settings_that_differ_are_named_with_their_role(healthy: Healthy) -> None:
    facts = healthy.before.doctored(
        several(
            put(f"{SOURCE}/host/database_settings", ["app work_mem=5MB", "jit=off"]),
            put(f"{PEER}/host/database_settings", ["jit=off", "all roles: lock_timeout=1s"]),
        )
    )
    (found,) = [r for r in facts.check("check_join") if (r.key, r.scope) == ("database-settings", PEER)]
    assert found.observed == "lacks app work_mem=5MB; has beyond all roles: lock_timeout=1s"


def test_a_slot_of_the_clusters_own_is_not_taken_for_a_strangers(healthy: Healthy) -> None:
    (own,) = [s for s in healthy.before.facts[PEER]["spock"]["subscriptions"] if s["provider"] == SOURCE]

    def idle(facts: Any) -> None:
        for each in facts[SOURCE]["host"]["slots"]:
            each["active"] = each["active"] and each["name"] != own["slot"]

    failed = healthy.before.doctored(change(idle)).check("check_join")
    assert [r.observed for r in failed if (r.key, r.scope) == ("inactive-slots", SOURCE)] == ["none"]


def test_a_clone_may_have_what_a_copy_of_rows_may_not(healthy: Healthy) -> None:
    def doctor(facts: Facts) -> None:
        facts.join |= {"clone": True, "structure": "present"}
        facts.set(f"{NEW}/present", {})
        facts.set(f"{SOURCE}/tables/rules", {"public.app_keyed (moves)": ["public.app_keyed"]})
        facts.set(f"{SOURCE}/references/broken", ["a on b, to c"])
        for name in ("unread", "violated", "unchecked"):
            facts.set(f"{SOURCE}/references/{name}", ["a on b"])

    assert [r for r in healthy.before.doctored(doctor).check("check_join") if r.passed is False] == []


@pytest.mark.parametrize(("faults", "passed"), [({}, True), ({"postgis": "no such file"}, False)])
def test_an_extension_that_no_list_has_is_tried(healthy: Healthy, faults: dict[str, str], passed: bool) -> None:
    """Debian's extension_destdir has extensions that PostgreSQL creates, and does not list as available."""
    postgis = {"schema": "public", "made": False, "used": False}
    doctor = several(
        put(f"{SOURCE}/extensions/postgis", "3.4"),
        put(f"{SOURCE}/structure/extensions", {"postgis": postgis}),
        put(f"{NEW}/trial/extensions", faults),
    )
    (found,) = [r for r in healthy.before.doctored(doctor).check("check_join") if r.key == "extensions"]
    assert found.passed is passed


def test_who_lacks_dblink_is_not_sent_to_his_firewall(healthy: Healthy) -> None:
    fault = 'could not access file "$libdir/dblink": No such file or directory'
    facts = healthy.before.doctored(lambda facts: facts.probes[NEW][SOURCE].update(connection=fault))
    (found,) = [r for r in facts.check("check_join") if r.observed == fault]
    assert "contrib modules" in found.hint


def test_a_worker_that_spock_lost_is_told_from_one_that_stopped(healthy: Healthy) -> None:
    down = f"{PEER}/spock/subscriptions/0"
    found = {}
    for works in (False, True):
        doctor = several(put(f"{down}/status", "down"), put(f"{down}/works", works))
        (row,) = [
            r for r in healthy.before.doctored(doctor).check("check_join") if r.key == "replicating" and not r.passed
        ]
        found[works] = row
    assert "Restart the server" in (found[True].hint or "")
    assert "lost track" in (found[True].observed or "")
    assert "server log" in (found[False].hint or "")
    assert found[False].observed == "down"
