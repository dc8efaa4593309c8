CREATE VIEW spock.node AS
SELECT spock._node_id(n.node_id) AS node_id, n.node_name, e.location, e.country, e.info
  FROM pglogical.node n
  LEFT JOIN spock._node_extra e ON e.node_name = n.node_name;

CREATE VIEW spock.node_interface AS
SELECT if_id, if_name, spock._node_id(if_nodeid) AS if_nodeid, if_dsn
  FROM pglogical.node_interface;

-- A table as in Spock, whose row is made with the node and goes with it.
CREATE TABLE spock.local_node (node_id oid PRIMARY KEY, node_local_interface oid NOT NULL);

CREATE VIEW spock.subscription AS
SELECT s.sub_id,
       s.sub_name,
       spock._node_id(s.sub_origin) AS sub_origin,
       spock._node_id(s.sub_target) AS sub_target,
       s.sub_origin_if,
       s.sub_target_if,
       s.sub_enabled OR p.sub_id IS NOT NULL AS sub_enabled,
       s.sub_slot_name,
       s.sub_replication_sets,
       s.sub_forward_origins,
       s.sub_apply_delay,
       s.sub_force_text_transfer,
       '0/0'::pg_lsn AS sub_skip_lsn,
       nullif(e.skip_schema, '{}') AS sub_skip_schema,
       e.created_at AS sub_created_at
  FROM pglogical.subscription s
  LEFT JOIN spock._subscription_extra e ON e.sub_id = s.sub_id
  LEFT JOIN spock._paused p ON p.sub_id = s.sub_id;

-- Spock 5.0 has no function to change forward_origins: people UPDATE the catalog instead. No Spock has one to change
-- the name.
CREATE FUNCTION spock._subscription_update() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (to_jsonb(NEW) - '{sub_name,sub_forward_origins,sub_skip_schema}'::text[])
       IS DISTINCT FROM (to_jsonb(OLD) - '{sub_name,sub_forward_origins,sub_skip_schema}'::text[]) THEN
        RAISE EXCEPTION 'the stand-in for Spock can update sub_name, sub_forward_origins and sub_skip_schema only'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    UPDATE pglogical.subscription SET sub_name = NEW.sub_name, sub_forward_origins = NEW.sub_forward_origins
     WHERE sub_id = OLD.sub_id;
    UPDATE spock._subscription_extra
       SET skip_schema = coalesce(NEW.sub_skip_schema, '{}') WHERE sub_id = OLD.sub_id;
    RETURN NEW;
END
$$;
CREATE TRIGGER subscription_update INSTEAD OF UPDATE ON spock.subscription
    FOR EACH ROW EXECUTE FUNCTION spock._subscription_update();

CREATE VIEW spock.local_sync_status AS
SELECT sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn
  FROM pglogical.local_sync_status;

-- Without the sync events, which Spock does not queue.
CREATE VIEW spock.queue AS
SELECT queued_at, role, replication_sets, message_type, message
  FROM pglogical.queue WHERE message::text <> '""';
-- A worker of pglogical goes on as the role of the last queued command: it must be one that may apply everything.
CREATE FUNCTION spock._queue_insert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO pglogical.queue (queued_at, role, replication_sets, message_type, message)
    VALUES (NEW.queued_at, current_user, NEW.replication_sets, NEW.message_type, NEW.message);
    RETURN NEW;
END
$$;
CREATE TRIGGER queue_insert INSTEAD OF INSERT ON spock.queue
    FOR EACH ROW EXECUTE FUNCTION spock._queue_insert();

CREATE VIEW spock.replication_set AS
SELECT set_id, spock._node_id(set_nodeid) AS set_nodeid, set_name,
       replicate_insert, replicate_update, replicate_delete, replicate_truncate
  FROM pglogical.replication_set;

-- In Spock it is a table, and says by xmin when a table was added.
CREATE VIEW spock.replication_set_table AS
SELECT set_id, set_reloid, set_att_list, set_row_filter, xmin
  FROM pglogical.replication_set_table
UNION ALL
SELECT r.set_id, r.set_reloid::regclass, NULL, NULL, r.xmin
  FROM spock._root r JOIN pg_catalog.pg_class c ON c.oid = r.set_reloid;

CREATE VIEW spock.replication_set_seq AS
SELECT set_id, set_seqoid
  FROM pglogical.replication_set_seq;

-- One row for each table and set; a table in no set has one row without a set.
CREATE VIEW spock.tables AS
SELECT c.oid AS relid, n.nspname, c.relname, s.set_name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN (SELECT rt.set_reloid, rs.set_name
               FROM spock.replication_set_table rt
               JOIN pglogical.replication_set rs ON rs.set_id = rt.set_id
               JOIN pglogical.local_node l ON l.node_id = rs.set_nodeid) s ON s.set_reloid = c.oid
 WHERE c.relkind IN ('r', 'p')
   AND (s.set_name IS NOT NULL
        OR (c.relpersistence = 'p' AND n.nspname !~ '^pg_'
            AND n.nspname NOT IN ('information_schema', 'spock', 'pglogical')));

-- Spock writes here when pglogical would stop and retry: only a test ever inserts a row.
CREATE TABLE spock.exception_log (
    remote_origin oid NOT NULL,
    remote_commit_ts timestamptz NOT NULL,
    command_counter integer NOT NULL,
    retry_errored_at timestamptz NOT NULL,
    remote_xid bigint NOT NULL,
    local_origin oid,
    local_commit_ts timestamptz,
    table_schema text,
    table_name text,
    operation text,
    local_tup jsonb,
    remote_old_tup jsonb,
    remote_new_tup jsonb,
    ddl_statement text,
    ddl_user text,
    error_message text NOT NULL,
    PRIMARY KEY (remote_origin, remote_commit_ts, command_counter, retry_errored_at));
