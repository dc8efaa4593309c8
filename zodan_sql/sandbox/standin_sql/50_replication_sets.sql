CREATE FUNCTION spock.repset_create(
    set_name name, replicate_insert boolean DEFAULT true, replicate_update boolean DEFAULT true,
    replicate_delete boolean DEFAULT true, replicate_truncate boolean DEFAULT true)
RETURNS oid LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.create_replication_set($1, $2, $3, $4, $5) $$;

CREATE FUNCTION spock.repset_alter(
    set_name name, replicate_insert boolean DEFAULT NULL, replicate_update boolean DEFAULT NULL,
    replicate_delete boolean DEFAULT NULL, replicate_truncate boolean DEFAULT NULL)
RETURNS oid LANGUAGE sql VOLATILE AS
$$ SELECT pglogical.alter_replication_set($1, $2, $3, $4, $5) $$;

CREATE FUNCTION spock.repset_drop(set_name name, ifexists boolean DEFAULT false)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.drop_replication_set($1, $2) $$;

-- pglogical knows only plain tables: a partitioned table stands for its leaves.
CREATE FUNCTION spock._plain_tables(p_relation regclass, p_include_partitions boolean)
RETURNS SETOF regclass LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass
      FROM pg_catalog.pg_partition_tree(p_relation) t
      JOIN pg_catalog.pg_class c ON c.oid = t.relid
     WHERE p_include_partitions AND c.relkind = 'r'
     UNION
    SELECT p_relation
      FROM pg_catalog.pg_class c
     WHERE c.oid = p_relation AND c.relkind <> 'p'
$$;

CREATE FUNCTION spock.repset_add_table(
    set_name name, relation regclass, synchronize_data boolean DEFAULT false, columns text[] DEFAULT NULL,
    row_filter text DEFAULT NULL, include_partitions boolean DEFAULT true)
RETURNS boolean LANGUAGE sql VOLATILE AS $$
    INSERT INTO spock._root
    SELECT s.set_id, c.oid
      FROM pglogical.replication_set s JOIN pglogical.local_node l ON l.node_id = s.set_nodeid
     CROSS JOIN pg_catalog.pg_class c
     WHERE s.set_name = $1 AND c.oid = relation AND c.relkind = 'p'
        ON CONFLICT DO NOTHING;
    SELECT coalesce(bool_and(pglogical.replication_set_add_table(set_name, t, synchronize_data, columns, row_filter)), true)
      FROM spock._plain_tables(relation, include_partitions) t
$$;

CREATE FUNCTION spock.repset_remove_table(set_name name, relation regclass, include_partitions boolean DEFAULT true)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS $$
    DELETE FROM spock._root r USING pglogical.replication_set s
     WHERE s.set_id = r.set_id AND s.set_name = $1 AND r.set_reloid = relation;
    SELECT coalesce(bool_and(pglogical.replication_set_remove_table(set_name, t)), true)
      FROM spock._plain_tables(relation, include_partitions) t
$$;

CREATE FUNCTION spock.repset_add_all_tables(set_name name, schema_names text[], synchronize_data boolean DEFAULT false)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.replication_set_add_all_tables($1, $2, $3) $$;

CREATE FUNCTION spock.repset_add_seq(set_name name, relation regclass, synchronize_data boolean DEFAULT false)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.replication_set_add_sequence($1, $2, $3) $$;

CREATE FUNCTION spock.repset_add_all_seqs(set_name name, schema_names text[], synchronize_data boolean DEFAULT false)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.replication_set_add_all_sequences($1, $2, $3) $$;

CREATE FUNCTION spock.repset_remove_seq(set_name name, relation regclass)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.replication_set_remove_sequence($1, $2) $$;

CREATE FUNCTION spock.repset_show_table(
    relation regclass, repsets text[], OUT relid oid, OUT nspname text, OUT relname text, OUT att_list text[],
    OUT has_row_filter boolean, OUT relkind "char", OUT relispartition boolean)
RETURNS record LANGUAGE sql STABLE STRICT AS $$
    SELECT i.relid, i.nspname, i.relname, i.att_list, i.has_row_filter, c.relkind, c.relispartition
      FROM pglogical.show_repset_table_info($1, $2) i
      JOIN pg_catalog.pg_class c ON c.oid = i.relid
$$;

CREATE FUNCTION spock.sync_seq(relation regclass)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.synchronize_sequence($1) $$;

CREATE FUNCTION spock.replicate_ddl(
    command text, replication_sets text[] DEFAULT '{ddl_sql}',
    search_path text DEFAULT current_setting('search_path'), role text DEFAULT CURRENT_USER)
RETURNS boolean LANGUAGE sql VOLATILE STRICT AS
$$ SELECT pglogical.replicate_ddl_command(format('SET LOCAL search_path = %s; %s', $3, $1), $2) $$;
