-- Spock writes its tables as catalogs, whatever a publication of all tables would need to know of their rows.
ALTER TABLE pglogical.local_sync_status REPLICA IDENTITY FULL;

-- A subscription that forwards must be the only enabled one of its node: a forwarded change moves
-- the origin of the node it came from, which a direct subscription holds.
CREATE FUNCTION spock._check_forwarding(p_name name, p_forward_origins text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_other record;
BEGIN
    FOR v_other IN SELECT sub_name, sub_forward_origins FROM spock.subscription
                    WHERE sub_enabled AND sub_name <> p_name
    LOOP
        IF cardinality(p_forward_origins) > 0 THEN
            RAISE EXCEPTION 'cannot activate forwarding on subscription "%" while subscription "%" is enabled on this node',
                            p_name, v_other.sub_name
                USING ERRCODE = 'object_not_in_prerequisite_state';
        ELSIF cardinality(v_other.sub_forward_origins) > 0 THEN
            RAISE EXCEPTION 'cannot enable subscription "%" while subscription "%" has forwarding active',
                            p_name, v_other.sub_name
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END LOOP;
END
$$;

-- For the pg_dump of the structure copy, which runs in the data directory (see standin_bin/pg_dump).
-- As in Spock, a name goes there unchanged, as a pattern, and only if the schema exists here.
CREATE FUNCTION spock._write_skip_schema(p_schemas text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('COPY (SELECT s FROM unnest(%L::text[]) AS s WHERE to_regnamespace(quote_ident(s)) IS NOT NULL) TO %L',
                   p_schemas, current_setting('data_directory') || '/spock_standin_skip_schema');
END
$$;
REVOKE ALL ON FUNCTION spock._write_skip_schema(text[]) FROM PUBLIC;

CREATE FUNCTION spock.sub_create(
    subscription_name name,
    provider_dsn text,
    replication_sets text[] DEFAULT '{default,default_insert_only,ddl_sql}',
    synchronize_structure boolean DEFAULT false,
    synchronize_data boolean DEFAULT false,
    forward_origins text[] DEFAULT '{}',
    apply_delay interval DEFAULT '0',
    force_text_transfer boolean DEFAULT false,
    enabled boolean DEFAULT true,
    skip_schema text[] DEFAULT '{}')
RETURNS oid LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
    v_id oid;
    v_slot name;
    v_origin name;
    v_others pglogical.subscription[] := ARRAY(SELECT s FROM pglogical.subscription s);
BEGIN
    IF enabled THEN
        PERFORM spock._check_forwarding(subscription_name, forward_origins);
    END IF;
    -- pglogical refuses a set that another subscription to the same provider has, where Spock only warns. So during the
    -- call the others have no sets. Nobody sees that, because this transaction restores them.
    UPDATE pglogical.subscription SET sub_replication_sets = '{}';
    v_id := pglogical.create_subscription(subscription_name, provider_dsn, replication_sets, synchronize_structure,
                                          synchronize_data, forward_origins, apply_delay, force_text_transfer);
    UPDATE pglogical.subscription s SET sub_replication_sets = o.sub_replication_sets
      FROM unnest(v_others) o WHERE o.sub_id = s.sub_id;
    SELECT n.node_name INTO v_origin
      FROM pglogical.subscription s JOIN pglogical.node n ON n.node_id = s.sub_origin
     WHERE s.sub_id = v_id;
    v_slot := spock.spock_gen_slot_name(current_database(), v_origin, subscription_name);
    -- pglogical's manager does not see the row before this transaction commits.
    UPDATE pglogical.subscription SET sub_slot_name = v_slot, sub_enabled = sub_create.enabled WHERE sub_id = v_id;
    INSERT INTO spock._subscription_extra (sub_id, skip_schema) VALUES (v_id, sub_create.skip_schema);
    IF NOT enabled AND NOT synchronize_structure AND NOT synchronize_data THEN
        -- Otherwise pglogical would create the slot again on the first start, and lose what an
        -- existing slot holds. With "ready" it goes on from the origin's position.
        UPDATE pglogical.local_sync_status SET sync_status = 'r' WHERE sync_subid = v_id;
        IF pg_catalog.pg_replication_origin_oid(v_slot) IS NULL THEN
            PERFORM pg_catalog.pg_replication_origin_create(v_slot);
        END IF;
    END IF;
    IF synchronize_structure THEN
        PERFORM spock._write_skip_schema(skip_schema);
    END IF;
    PERFORM spock._fetch_node_extra(v_origin, provider_dsn);
    RETURN v_id;
END
$$;

CREATE FUNCTION spock._fetch_node_extra(p_node name, p_dsn text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_extra jsonb;
BEGIN
    IF EXISTS (SELECT FROM spock._node_extra WHERE node_name = p_node)
       OR NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'dblink') THEN
        RETURN;
    END IF;
    v_extra := spock._on(p_dsn, 'SELECT to_jsonb(i)::text FROM spock.node_info() AS i')::jsonb;
    INSERT INTO spock._node_extra
    VALUES (p_node, v_extra ->> 'location', v_extra ->> 'country', nullif(v_extra -> 'info', 'null'));
END
$$;

-- pglogical refuses to drop a slot whose plugin is not its own.
CREATE FUNCTION spock._drop_remote_slot(p_dsn text, p_slot name) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM spock._on(p_dsn, format('SELECT spock._drop_slot(%L)::text', p_slot));
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'could not drop slot "%" on provider, you will probably have to drop it manually', p_slot;
END
$$;

CREATE FUNCTION spock._drop_slot(p_slot name) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    c_patience CONSTANT interval := '10 s';
    v_deadline timestamptz := clock_timestamp() + c_patience;
    v_active_pid integer;
BEGIN
    LOOP
        SELECT active_pid INTO v_active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = p_slot;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        EXIT WHEN v_active_pid IS NULL OR clock_timestamp() > v_deadline;
        -- The apply worker is dead; its walsender may not have noticed yet.
        PERFORM pg_catalog.pg_terminate_backend(v_active_pid);
        PERFORM pg_catalog.pg_sleep(0.02);
    END LOOP;
    PERFORM pg_catalog.pg_drop_replication_slot(p_slot);
    RETURN true;
END
$$;
REVOKE ALL ON FUNCTION spock._drop_slot(name) FROM PUBLIC;

CREATE FUNCTION spock.sub_drop(subscription_name name, ifexists boolean DEFAULT false)
RETURNS oid LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
    v_sub record;
    v_level text := current_setting('client_min_messages');
    v_dropped oid;
BEGIN
    SELECT s.sub_slot_name, i.if_dsn INTO v_sub
      FROM pglogical.subscription s JOIN pglogical.node_interface i ON i.if_id = s.sub_origin_if
     WHERE s.sub_name = subscription_name;
    -- pglogical's warning about the slot would be wrong, because the slot is dropped below.
    PERFORM set_config('client_min_messages', 'error', true);
    v_dropped := pglogical.drop_subscription(subscription_name, ifexists);
    PERFORM set_config('client_min_messages', v_level, true);
    IF v_sub.sub_slot_name IS NOT NULL THEN
        PERFORM spock._drop_remote_slot(v_sub.if_dsn, v_sub.sub_slot_name);
    END IF;
    PERFORM spock._forget_gone();
    RETURN v_dropped;
END
$$;

CREATE FUNCTION spock.sub_enable(subscription_name name, immediate boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    PERFORM spock._check_forwarding(s.sub_name, s.sub_forward_origins)
       FROM pglogical.subscription s WHERE s.sub_name = subscription_name;
    IF EXISTS (SELECT FROM spock._pause) THEN
        INSERT INTO spock._paused
        SELECT s.sub_id FROM pglogical.subscription s WHERE s.sub_name = subscription_name
            ON CONFLICT DO NOTHING;
        RETURN true;
    END IF;
    RETURN pglogical.alter_subscription_enable(subscription_name, immediate);
END
$$;

CREATE FUNCTION spock.sub_disable(subscription_name name, immediate boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
BEGIN
    DELETE FROM spock._paused p USING pglogical.subscription s
     WHERE s.sub_id = p.sub_id AND s.sub_name = subscription_name;
    RETURN pglogical.alter_subscription_disable(subscription_name, immediate);
END
$$;

CREATE FUNCTION spock.sub_alter_options(subscription_name name, options jsonb)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
    v_sub record;
    v_key text;
    v_list text[];
BEGIN
    SELECT sub_id, sub_name, sub_enabled INTO v_sub FROM spock.subscription WHERE sub_name = subscription_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'subscription "%" does not exist', subscription_name USING ERRCODE = 'undefined_object';
    END IF;
    FOR v_key IN SELECT jsonb_object_keys(options) LOOP
        CASE v_key
        WHEN 'forward_origins', 'skip_schema' THEN
            v_list := ARRAY(SELECT jsonb_array_elements_text(options -> v_key));
            IF v_key = 'skip_schema' THEN
                UPDATE spock._subscription_extra SET skip_schema = v_list WHERE sub_id = v_sub.sub_id;
            ELSIF v_list <@ '{all}'::text[] THEN
                IF v_sub.sub_enabled THEN
                    PERFORM spock._check_forwarding(subscription_name, v_list);
                END IF;
                UPDATE pglogical.subscription SET sub_forward_origins = v_list WHERE sub_id = v_sub.sub_id;
            ELSE
                RAISE EXCEPTION 'invalid value for option "forward_origins"'
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'The only supported value is "all".';
            END IF;
        WHEN 'apply_delay' THEN
            UPDATE pglogical.subscription SET sub_apply_delay = (options ->> v_key)::interval
             WHERE sub_id = v_sub.sub_id;
        ELSE
            RAISE EXCEPTION 'unrecognized subscription option "%"', v_key USING ERRCODE = 'invalid_parameter_value';
        END CASE;
    END LOOP;
    IF v_sub.sub_enabled AND NOT EXISTS (SELECT FROM spock._paused WHERE sub_id = v_sub.sub_id) THEN
        -- A worker reads its options only when it starts.
        PERFORM pglogical.alter_subscription_enable(subscription_name);
    END IF;
    RETURN options <> '{}';
END
$$;

-- A reload of the configuration wakes Spock's manager, which then starts the next worker at once. pglogical's manager
-- sleeps a second after each start, and perhaps three minutes after a worker died. A reload does not wake it, but any
-- signal between processes does, and this signal changes nothing (it writes to the server's log). If this database has no
-- manager, the supervisor starts one; it sleeps three minutes if it heard of a new node while it started the manager of
-- another database. The function has its owner's rights, because everybody who may ask for the status may wake them.
CREATE FUNCTION spock._wake_manager() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_catalog.pg_log_backend_memory_contexts(a.pid) FROM pg_catalog.pg_stat_activity a
     WHERE a.datname = pg_catalog.current_database() AND a.backend_type LIKE 'pglogical manager %'
        OR a.backend_type = 'pglogical supervisor'
$$;

CREATE FUNCTION spock.sub_show_status(
    subscription_name name DEFAULT NULL,
    OUT subscription_name text, OUT status text, OUT provider_node text, OUT provider_dsn text,
    OUT slot_name text, OUT replication_sets text[], OUT forward_origins text[])
RETURNS SETOF record LANGUAGE sql VOLATILE AS $$
    -- Whoever asks is waiting for a worker to start.
    SELECT spock._wake_manager()
     WHERE EXISTS (SELECT FROM pglogical.show_subscription_status($1) t WHERE t.status = 'down');
    SELECT t.subscription_name,
           -- A paused worker of Spock still runs.
           CASE WHEN p.sub_id IS NULL THEN t.status ELSE 'replicating' END,
           t.provider_node, t.provider_dsn, t.slot_name, t.replication_sets, t.forward_origins
      FROM pglogical.show_subscription_status($1) t
      JOIN pglogical.subscription s ON s.sub_name = t.subscription_name
      LEFT JOIN spock._paused p ON p.sub_id = s.sub_id
$$;

CREATE FUNCTION spock.sub_show_table(subscription_name name, relation regclass,
                                     OUT nspname text, OUT relname text, OUT status text)
RETURNS record LANGUAGE sql STABLE STRICT AS
$$ SELECT * FROM pglogical.show_subscription_table($1, $2) $$;

CREATE FUNCTION spock.sub_add_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_subscription_add_replication_set($1, $2) $$;

CREATE FUNCTION spock.sub_remove_repset(subscription_name name, replication_set name)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_subscription_remove_replication_set($1, $2) $$;

CREATE FUNCTION spock.sub_alter_interface(subscription_name name, interface_name name)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_subscription_interface($1, $2) $$;

CREATE FUNCTION spock.sub_alter_sync(subscription_name name, truncate boolean DEFAULT false)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_subscription_synchronize($1, $2) $$;

CREATE FUNCTION spock.sub_resync_table(subscription_name name, relation regclass, truncate boolean DEFAULT true)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_subscription_resynchronize_table($1, $2, $3) $$;

CREATE FUNCTION spock.sub_wait_for_sync(subscription_name name)
RETURNS void LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.wait_for_subscription_sync_complete($1) $$;

CREATE FUNCTION spock.table_wait_for_sync(subscription_name name, relation regclass)
RETURNS void LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.wait_for_table_sync_complete($1, $2) $$;

CREATE FUNCTION spock.wait_slot_confirm_lsn(slotname name, target pg_lsn)
RETURNS void LANGUAGE sql VOLATILE AS
$$ SELECT pglogical.wait_slot_confirm_lsn($1, $2) $$;
