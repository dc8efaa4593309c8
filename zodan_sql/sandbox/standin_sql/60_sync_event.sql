-- pglogical does not send WAL messages. An empty command in its queue is a change like any other,
-- so the subscribers' origins move past it.
CREATE FUNCTION spock.sync_event(transactional boolean DEFAULT false)
RETURNS pg_lsn LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    INSERT INTO pglogical.queue (queued_at, role, replication_sets, message_type, message)
    VALUES (now(), current_user, NULL, 'Q', to_json(''::text));
    RETURN pg_catalog.pg_current_wal_insert_lsn();
END
$$;

CREATE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin_id oid, lsn pg_lsn, timeout integer DEFAULT 0,
    wait_if_disabled boolean DEFAULT false)
LANGUAGE plpgsql AS $$
DECLARE
    c_poll CONSTANT double precision := 0.05;
    v_started timestamptz := clock_timestamp();
    v_sub record;
BEGIN
    LOOP
        SELECT s.sub_enabled, o.remote_lsn INTO v_sub
          FROM spock.subscription s
          LEFT JOIN pg_catalog.pg_replication_origin_status o ON o.external_id = s.sub_slot_name
         WHERE s.sub_origin = wait_for_sync_event.origin_id;
        IF NOT FOUND AND NOT wait_if_disabled THEN
            RAISE EXCEPTION 'no subscription found for origin %', origin_id;
        ELSIF NOT v_sub.sub_enabled AND NOT wait_if_disabled THEN
            RAISE EXCEPTION 'subscription to origin % has been disabled', origin_id;
        ELSIF v_sub.sub_enabled AND v_sub.remote_lsn >= wait_for_sync_event.lsn THEN
            result := true;
            RETURN;
        ELSIF timeout <> 0 AND clock_timestamp() >= v_started + make_interval(secs => timeout) THEN
            result := false;
            RETURN;
        END IF;
        ROLLBACK;
        PERFORM pg_catalog.pg_sleep(c_poll);
    END LOOP;
END
$$;

CREATE PROCEDURE spock.wait_for_sync_event(
    OUT result boolean, origin name, lsn pg_lsn, timeout integer DEFAULT 0,
    wait_if_disabled boolean DEFAULT false)
LANGUAGE plpgsql AS $$
DECLARE
    v_origin_id oid;
BEGIN
    SELECT n.node_id INTO v_origin_id FROM spock.node n WHERE n.node_name = wait_for_sync_event.origin;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'origin node "%" not found', origin USING ERRCODE = 'undefined_object';
    END IF;
    CALL spock.wait_for_sync_event(result, v_origin_id, lsn, timeout, wait_if_disabled);
END
$$;
