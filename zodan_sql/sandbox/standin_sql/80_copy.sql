-- Spock stamps copied rows with the epoch as their commit time, so that any change wins over them. pglogical's
-- copy commits with the time of its end: a change made on the provider meanwhile would look older and lose.
-- The copy writes as a replica, so a replica trigger gives its transaction the stamp. The restore of the
-- structure creates the triggers before the data arrives and drops them afterwards (see standin_bin/pg_restore).

CREATE FUNCTION spock._stamp_copy() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.pg_replication_origin_session_is_setup() THEN
        PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', 'epoch');
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION spock._stamp_copy_on() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_table regclass;
BEGIN
    FOR v_table IN
        SELECT c.oid::regclass
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'p'
           AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'spock', 'pglogical')
           AND NOT EXISTS (SELECT FROM spock._subscription_extra e WHERE n.nspname = ANY (e.skip_schema))
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'spock_stamp_copy')
    LOOP
        EXECUTE format('CREATE TRIGGER spock_stamp_copy BEFORE INSERT ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION spock._stamp_copy()', v_table);
        EXECUTE format('ALTER TABLE %s ENABLE REPLICA TRIGGER spock_stamp_copy', v_table);
    END LOOP;
END
$$;

CREATE FUNCTION spock._stamp_copy_off() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_table regclass;
BEGIN
    FOR v_table IN SELECT tgrelid::regclass FROM pg_catalog.pg_trigger WHERE tgname = 'spock_stamp_copy' LOOP
        EXECUTE format('DROP TRIGGER spock_stamp_copy ON %s', v_table);
    END LOOP;
END
$$;
