-- Stand-in for Spock on pglogical: only for trials and tests.
-- It has the interface of Spock in schema "spock"; slots, workers, origins and apply are pglogical's.

-- This script creates the schema, not the control file, so that the schema belongs to the extension
-- and a structure dump leaves it out.
CREATE SCHEMA spock;

-- Facts in Spock's catalogs for which pglogical has no column.
CREATE TABLE spock._node_extra (
    node_name name PRIMARY KEY,
    location text,
    country text,
    info jsonb
);

CREATE TABLE spock._subscription_extra (
    sub_id oid PRIMARY KEY,
    skip_schema text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Subscriptions that a pause has disabled in pglogical; the views still show them as enabled.
CREATE TABLE spock._paused (
    sub_id oid PRIMARY KEY
);

-- At most one row: the pause in force.
CREATE TABLE spock._pause (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    token bigint NOT NULL,
    deadline timestamptz NOT NULL
);
CREATE SEQUENCE spock._pause_token;

-- Spock's node ids fit the 16 bits of a replication origin id.
CREATE FUNCTION spock._node_id(p_id oid) RETURNS oid
LANGUAGE sql IMMUTABLE STRICT AS
$$ SELECT (p_id::bigint & 65535)::oid $$;

-- Runs statements on another connection and returns the one value of the last.
-- It looks up dblink at run time: Spock does not depend on dblink, so neither may its stand-in.
CREATE FUNCTION spock._on(p_dsn text, p_sql text, p_detached_sql text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    c_connection CONSTANT text := 'spock_standin';
    v_schema name;
    v_result text;
BEGIN
    SELECT n.nspname INTO v_schema
      FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'dblink';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the stand-in for Spock needs the extension "dblink" in database "%"', current_database()
            USING ERRCODE = 'undefined_object', HINT = 'Run CREATE EXTENSION dblink.';
    END IF;
    EXECUTE format('SELECT %I.dblink_connect($1, $2)', v_schema) USING c_connection, p_dsn;
    BEGIN
        EXECUTE format('SELECT v FROM %I.dblink($1, $2) AS t(v text)', v_schema)
           INTO v_result USING c_connection, p_sql;
        IF p_detached_sql IS NOT NULL THEN
            -- Nobody waits for this statement: the server runs it to its end after the connection is gone.
            EXECUTE format('SELECT %I.dblink_send_query($1, $2)', v_schema) USING c_connection, p_detached_sql;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        EXECUTE format('SELECT %I.dblink_disconnect($1)', v_schema) USING c_connection;
        RAISE;
    END;
    EXECUTE format('SELECT %I.dblink_disconnect($1)', v_schema) USING c_connection;
    RETURN v_result;
END
$$;
REVOKE ALL ON FUNCTION spock._on(text, text, text) FROM PUBLIC;

CREATE FUNCTION spock._local_dsn() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT i.if_dsn
      FROM pglogical.local_node l
      JOIN pglogical.node_interface i ON i.if_id = l.node_local_interface
$$;
REVOKE ALL ON FUNCTION spock._local_dsn() FROM PUBLIC;

-- Partitioned tables in replication sets: pglogical knows only their leaves.
CREATE TABLE spock._root (
    set_id oid NOT NULL,
    set_reloid oid NOT NULL,
    PRIMARY KEY (set_id, set_reloid));
