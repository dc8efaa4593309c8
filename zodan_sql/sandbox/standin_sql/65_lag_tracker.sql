-- pglogical records no progress, but applies each transaction with its origin and its commit time on the provider. If
-- the server tracks commit timestamps, this searches backwards for the newest transaction of an origin.
CREATE FUNCTION spock._newest_commit(p_origin text) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    c_first CONSTANT bigint := 3;
    c_epoch CONSTANT bigint := 4294967296;
    v_origin oid := (SELECT o.roident FROM pg_catalog.pg_replication_origin o WHERE o.roname = p_origin);
    v_xid bigint := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint;
    v_commit record;
BEGIN
    IF v_origin IS NULL OR NOT current_setting('track_commit_timestamp')::boolean THEN
        RETURN NULL;
    END IF;
    WHILE v_xid > c_first LOOP
        v_xid := v_xid - 1;
        SELECT c."timestamp" AS at, c.roident INTO v_commit
          FROM pg_catalog.pg_xact_commit_timestamp_origin((v_xid % c_epoch)::text::xid) c;
        -- Copied rows have the epoch as their commit time.
        IF v_commit.roident = v_origin AND v_commit.at > 'epoch' THEN
            RETURN v_commit.at;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Spock's view has more columns, which differ between versions.
CREATE VIEW spock.lag_tracker AS
SELECT o.node_name AS origin_name,
       t.node_name AS receiver_name,
       spock._newest_commit(s.sub_slot_name) AS commit_timestamp
  FROM spock.subscription s
  JOIN spock.node o ON o.node_id = s.sub_origin
  JOIN spock.node t ON t.node_id = s.sub_target;
