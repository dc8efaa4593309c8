-- Spock sets a flag that its apply workers check between transactions. The stand-in disables the
-- subscriptions in a separate session, because pglogical's manager sees only committed changes. A worker
-- inside a transaction rolls it back and applies it again later.

CREATE FUNCTION spock._pause_timeout() RETURNS interval
LANGUAGE sql STABLE AS
$$ SELECT make_interval(secs => coalesce(nullif(current_setting('spock.pause_timeout', true), ''), '10')::float8) $$;

CREATE FUNCTION spock._apply_workers() RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    RETURN (SELECT count(*) FROM pg_catalog.pg_stat_activity
             WHERE datname = current_database() AND backend_type LIKE 'pglogical apply %');
END
$$;

-- The pause would miss a worker that the manager is just starting: let starts finish first.
CREATE FUNCTION spock._let_workers_start(p_deadline timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_wanted bigint := (SELECT count(*) FROM pglogical.subscription WHERE sub_enabled);
BEGIN
    WHILE spock._apply_workers() < v_wanted AND clock_timestamp() < p_deadline LOOP
        PERFORM pg_catalog.pg_sleep(0.02);
    END LOOP;
END
$$;

CREATE FUNCTION spock._pause_begin(p_timeout interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_sub record;
    v_token bigint := nextval('spock._pause_token');
BEGIN
    INSERT INTO spock._pause (token, deadline) VALUES (v_token, clock_timestamp() + p_timeout)
        ON CONFLICT (only_row) DO UPDATE SET token = excluded.token, deadline = excluded.deadline;
    FOR v_sub IN SELECT sub_id, sub_name FROM pglogical.subscription WHERE sub_enabled LOOP
        INSERT INTO spock._paused VALUES (v_sub.sub_id) ON CONFLICT DO NOTHING;
        PERFORM pglogical.alter_subscription_disable(v_sub.sub_name);
    END LOOP;
    RETURN v_token;
END
$$;

CREATE FUNCTION spock._pause_end(p_token bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_name name;
BEGIN
    DELETE FROM spock._pause WHERE token = p_token OR p_token IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    FOR v_name IN SELECT s.sub_name FROM pglogical.subscription s JOIN spock._paused p ON p.sub_id = s.sub_id LOOP
        PERFORM pglogical.alter_subscription_enable(v_name);
    END LOOP;
    DELETE FROM spock._paused;
    RETURN true;
END
$$;

-- Ends a pause whose caller is gone.
CREATE PROCEDURE spock._pause_watch(p_token bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_deadline timestamptz;
BEGIN
    LOOP
        SELECT deadline INTO v_deadline FROM spock._pause WHERE token = p_token;
        EXIT WHEN NOT FOUND;
        IF clock_timestamp() >= v_deadline THEN
            PERFORM spock._pause_end(p_token);
            EXIT;
        END IF;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(0.05);
    END LOOP;
END
$$;

CREATE FUNCTION spock.pause_apply_workers() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_timeout interval := spock._pause_timeout();
    v_deadline timestamptz := clock_timestamp() + v_timeout;
    v_dsn text := spock._local_dsn();
    v_token bigint;
BEGIN
    IF v_dsn IS NULL THEN
        RETURN;
    END IF;
    PERFORM spock._let_workers_start(v_deadline - v_timeout / 2);
    v_token := spock._on(v_dsn, format('SELECT spock._pause_begin(%L)::text', v_timeout));
    PERFORM spock._on(v_dsn, 'SELECT 1::text', format('CALL spock._pause_watch(%s)', v_token));
    WHILE spock._apply_workers() > 0 LOOP
        IF clock_timestamp() >= v_deadline THEN
            PERFORM spock.resume_apply_workers();
            RAISE EXCEPTION 'timed out waiting for apply workers to pause after %', v_timeout
                USING ERRCODE = 'lock_not_available';
        END IF;
        PERFORM pg_catalog.pg_sleep(0.01);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION spock.pause_apply_workers() FROM PUBLIC;

CREATE FUNCTION spock.resume_apply_workers() RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM spock._pause) THEN
        PERFORM spock._on(spock._local_dsn(), 'SELECT spock._pause_end(NULL)::text');
    END IF;
END
$$;
REVOKE ALL ON FUNCTION spock.resume_apply_workers() FROM PUBLIC;
