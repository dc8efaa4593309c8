CREATE FUNCTION spock.spock_version() RETURNS text
LANGUAGE sql IMMUTABLE AS $$ SELECT '5.0.11-standin'::text $$;

CREATE FUNCTION spock.spock_version_num() RETURNS integer
LANGUAGE sql IMMUTABLE AS $$ SELECT 50011 $$;

CREATE FUNCTION spock.node_create(node_name name, dsn text, location text DEFAULT NULL, country text DEFAULT NULL,
                                  info jsonb DEFAULT NULL)
RETURNS oid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_id oid;
BEGIN
    v_id := pglogical.create_node(node_create.node_name, node_create.dsn);
    DELETE FROM spock._node_extra e WHERE e.node_name = node_create.node_name;
    INSERT INTO spock._node_extra
    VALUES (node_create.node_name, node_create.location, node_create.country, node_create.info);
    INSERT INTO spock.local_node
    SELECT spock._node_id(l.node_id), l.node_local_interface FROM pglogical.local_node l;
    RETURN spock._node_id(v_id);
END
$$;

CREATE FUNCTION spock._forget_gone() RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM spock.local_node WHERE NOT EXISTS (SELECT FROM pglogical.local_node);
    DELETE FROM spock._node_extra e
     WHERE NOT EXISTS (SELECT FROM pglogical.node n WHERE n.node_name = e.node_name);
    DELETE FROM spock._subscription_extra e
     WHERE NOT EXISTS (SELECT FROM pglogical.subscription s WHERE s.sub_id = e.sub_id);
    DELETE FROM spock._paused p
     WHERE NOT EXISTS (SELECT FROM pglogical.subscription s WHERE s.sub_id = p.sub_id);
$$;

CREATE FUNCTION spock.node_drop(node_name name, ifexists boolean DEFAULT false)
RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT AS $$
DECLARE
    v_dropped boolean;
BEGIN
    v_dropped := pglogical.drop_node(node_drop.node_name, node_drop.ifexists);
    PERFORM spock._forget_gone();
    RETURN v_dropped;
END
$$;

CREATE FUNCTION spock.node_add_interface(node_name name, interface_name name, dsn text)
RETURNS oid LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_node_add_interface($1, $2, $3) $$;

CREATE FUNCTION spock.node_drop_interface(node_name name, interface_name name)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.alter_node_drop_interface($1, $2) $$;

CREATE FUNCTION spock.node_info(OUT node_id oid, OUT node_name text, OUT sysid text, OUT dbname text,
                                OUT replication_sets text, OUT location text, OUT country text, OUT info jsonb)
RETURNS record LANGUAGE sql STABLE AS $$
    SELECT spock._node_id(i.node_id), i.node_name, i.sysid, i.dbname, i.replication_sets,
           e.location, e.country, e.info
      FROM pglogical.pglogical_node_info() i
      LEFT JOIN spock._node_extra e ON e.node_name = i.node_name
$$;

-- As long and as shortened as pglogical's names, which begin with "pgl".
CREATE FUNCTION spock.spock_gen_slot_name(dbname name, provider_node name, subscription name)
RETURNS name LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT ('spk' || substr(pglogical.pglogical_gen_slot_name($1, $2, $3)::text, 4))::name $$;
