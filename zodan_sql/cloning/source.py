"""What a clone asks of its source, and makes there: one slot."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psycopg

from zodan_sql.client import checks
from zodan_sql.client.checks import CheckResult
from zodan_sql.client.connection import connect, parse_dsn, read_rows
from zodan_sql.client.install import borrowed
from zodan_sql.errors import ZodanError, from_database

_FACTS = """
SELECT l.node_name::text AS node, pg_catalog.current_setting('server_version_num')::int / 10000 AS major,
       pg_catalog.version() AS version, r.rolsuper AS superuser, current_user::text AS role,
       pg_catalog.current_database()::text AS dbname,
       c.system_identifier::text AS system, k.timeline_id AS timeline,
       pg_catalog.floor(extract(epoch FROM pg_catalog.pg_postmaster_start_time()))::bigint AS started,
       pg_catalog.current_setting('data_directory') AS data_directory,
       pg_catalog.current_setting('config_file') AS config_file,
       pg_catalog.current_setting('shared_preload_libraries') AS libraries,
       (SELECT pg_catalog.jsonb_object_agg(s.name, s.setting) FROM pg_catalog.pg_settings AS s
         WHERE s.name IN ('archive_mode', 'synchronous_standby_names', 'primary_conninfo',
             'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_replication_slots',
             'max_prepared_transactions', 'max_locks_per_transaction', 'track_commit_timestamp',
             'max_active_replication_origins', 'fsync', 'block_size', 'wal_block_size', 'segment_size',
             'data_checksums', 'max_slot_wal_keep_size')) AS settings,
       (SELECT pg_catalog.sum(pg_catalog.pg_database_size(d.oid)) FROM pg_catalog.pg_database AS d)::bigint AS bytes,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots)::int AS slots,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_type = 'walsender')::int
           AS senders,
       (SELECT coalesce(pg_catalog.array_agg(d.datname::text ORDER BY d.datname), '{}') FROM pg_catalog.pg_database AS d
         WHERE d.datallowconn AND d.datname NOT IN (pg_catalog.current_database(), 'template1', 'postgres'))
           AS databases,
       (SELECT coalesce(pg_catalog.jsonb_object_agg(t.spcname, pg_catalog.pg_tablespace_location(t.oid)), '{}')
          FROM pg_catalog.pg_tablespace AS t WHERE pg_catalog.pg_tablespace_location(t.oid) <> '') AS tablespaces,
       (SELECT pg_catalog.array_agg(n.node_name::text) FROM spock.node AS n) AS members,
       (SELECT coalesce(pg_catalog.array_agg(DISTINCT pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)),
                   '{}')
          FROM pg_catalog.pg_depend AS d
          JOIN pg_catalog.pg_depend AS m ON (m.classid, m.objid) = (d.refclassid, d.refobjid) AND m.deptype = 'e'
          JOIN pg_catalog.pg_extension AS e ON e.oid = m.refobjid AND e.extname = 'spock'
         WHERE d.deptype IN ('n', 'a') AND d.classid <> 'pg_catalog.pg_extension'::regclass
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS o
                WHERE (o.classid, o.objid) = (d.classid, d.objid) AND o.deptype = 'e')
           AND pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid) !~ '\\m(zodan|spock)\\.') AS dependents
  FROM spock.local_node AS n
  JOIN spock.node AS l ON l.node_id = n.node_id
 CROSS JOIN pg_catalog.pg_control_system() AS c
 CROSS JOIN pg_catalog.pg_control_checkpoint() AS k
  JOIN pg_catalog.pg_roles AS r ON r.rolname = current_user
"""
_SLOT = """
SELECT r.confirmed_flush_lsn::text, r.active, r.wal_status FROM pg_catalog.pg_replication_slots AS r
 WHERE r.slot_name = %s
"""
# A slot that is marked for failover goes to a standby of the source too.
_MAKE = "SELECT lsn::text FROM pg_catalog.pg_create_logical_replication_slot(%s, 'spock_output'{})"
_OPEN = """
SELECT pg_catalog.format('transaction of process %s (%s) since %s', a.pid, a.usename,
           pg_catalog.date_trunc('second', a.xact_start))
  FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
UNION ALL
SELECT pg_catalog.format('prepared transaction %L in database %I since %s', p.gid, p.database,
           pg_catalog.date_trunc('second', p.prepared)) FROM pg_catalog.pg_prepared_xacts AS p
"""
_DROP = """
SELECT pg_catalog.pg_drop_replication_slot(r.slot_name) FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %s
"""
# The same as before a removal, but as rows.
_REMOVAL = """
SELECT c.key, c.name, c.scope, c.severity, c.passed, c.observed, c.required, c.hint, c.verdict
  FROM zodan.survey_leave(%(old)s, %(old_dsn)s, NULL) AS s
 CROSS JOIN LATERAL zodan.check_leave(s.p_facts, s.p_leave, false, false, false) AS f
 CROSS JOIN LATERAL zodan.give_verdict(f) AS c
"""
_NAME = """
SELECT spock.spock_gen_slot_name(%(dbname)s::name, %(source)s::name, zodan.copy_name(%(new)s)::name)::text AS name,
       zodan.clone_name(%(new)s) AS mark
"""
# The name of a file begins with the timeline's; a file of an earlier one does not count.
_SWITCH = """
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal()) WHERE pg_catalog.current_setting('archive_mode') <> 'off'
"""
_ARCHIVED = "SELECT coalesce(a.last_archived_wal >= %s, false) FROM pg_catalog.pg_stat_archiver AS a"
_IS_NODE = "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'spock')"


_REST_S = 0.2


@dataclass(frozen=True)
class Facts:
    """What the source says of itself."""

    node: str
    major: int
    version: str
    superuser: bool
    role: str
    dbname: str
    system: str
    timeline: int
    started: int
    data_directory: str
    config_file: str
    libraries: str
    settings: dict[str, str]
    bytes: int
    slots: int
    senders: int
    databases: list[str]
    tablespaces: dict[str, str]
    members: list[str]
    dependents: list[str]


@dataclass(frozen=True)
class Names:
    """The slot on the source, and the origin on the copy that says how far it goes."""

    name: str
    mark: str


@dataclass(frozen=True)
class Slot:
    """A slot of the source."""

    lsn: str
    is_active: bool
    is_lost: bool


class Source:
    """The member that is copied."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def facts(self) -> Facts:
        """Return what the source says of itself. Raises ZodanError (ZD003) if it is no node."""
        found = read_rows(self.dsn, _FACTS, {}, Facts)
        if not found:
            raise ZodanError(
                "the source is no Spock node", sqlstate="ZD003", hint="Give the connection string of a member."
            )
        return found[0]

    def names(self, source: str, new: str, new_dsn: str, old: str, old_dsn: str) -> tuple[Names, list[CheckResult]]:
        """Return the names that Zodan's join uses, and the checks of a join among the members.

        ``old`` is the member to be removed afterwards, with the checks of that, or empty.
        """
        settings = parse_dsn(new_dsn, "--new-node-dsn")
        given = {"dbname": settings.get("dbname") or settings.get("user") or "", "source": source, "new": new}
        with borrowed(self.dsn) as lent:
            found = checks.examine(lent, {"check_type": "pre", "src_node_name": source, "src_dsn": self.dsn})
            names = read_rows(lent, _NAME, given, Names)[0]
            if old:
                found += read_rows(lent, _REMOVAL, {"old": old, "old_dsn": old_dsn}, CheckResult)
            return names, found

    def slot(self, name: str) -> Slot | None:
        """Return a slot, if there is one of this name."""
        with connect(self.dsn, "--src-dsn") as connection:
            row = connection.execute(_SLOT, [name]).fetchone()
        return Slot(row[0] or "", bool(row[1]), row[2] == "lost") if row else None

    def make_slot(self, name: str, major: int) -> str:
        """Make a slot, and return its position. Waits for the transactions that are open on the source."""
        extra = ", failover => true" if major >= 17 else ""
        with connect(self.dsn, "--src-dsn") as connection:
            try:
                row = connection.execute(_MAKE.format(extra).encode(), [name]).fetchone()
            except psycopg.Error as error:
                raise from_database(error) from None
        return str(row[0]) if row else ""

    def open_transactions(self) -> list[str]:
        """Return the transactions whose end a slot that is made now waits for, in words."""
        with connect(self.dsn, "--src-dsn") as connection:
            return [row[0] for row in connection.execute(_OPEN.encode()).fetchall()]

    def drop_slot(self, name: str) -> bool:
        """Drop a slot that nobody uses; return whether there was one."""
        with connect(self.dsn, "--src-dsn") as connection:
            try:
                return connection.execute(_DROP, [name]).rowcount > 0
            except psycopg.Error as error:
                raise from_database(error) from None

    def archive(self, budget_s: float) -> None:
        """Close the WAL file that is written to, and wait until the archiver, if there is one, has taken it."""
        with connect(self.dsn, "--src-dsn") as connection:
            row = connection.execute(_SWITCH.encode()).fetchone()
            until = time.monotonic() + budget_s
            while row and time.monotonic() < until:
                taken = connection.execute(_ARCHIVED.encode(), [row[0]]).fetchone()
                if taken is None or taken[0]:
                    return
                time.sleep(_REST_S)

    def other_nodes(self, databases: list[str]) -> list[str]:
        """Return those of the source's other databases that have Spock."""
        found = []
        for dbname in databases:
            with connect(_with_database(self.dsn, dbname), "--src-dsn") as connection:
                row = connection.execute(_IS_NODE).fetchone()
            if row and row[0]:
                found.append(dbname)
        return found


def _with_database(dsn: str, dbname: str) -> str:
    return psycopg.conninfo.make_conninfo(dsn, dbname=dbname)
