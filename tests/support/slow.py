"""A table whose rows take their time to be copied, so that a copy can be watched."""

from __future__ import annotations

from support.tables import add_to_sets
from zodan_sql.sandbox import Cluster

TABLE = "slow"
#: Its rows are stored as they are: what is written shows in the size of its files.
_DDL = """
CREATE FUNCTION dawdle(p_ports text[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('port') = ANY (p_ports) THEN
        PERFORM pg_catalog.pg_sleep(0.002);
    END IF;
    RETURN true;
END
$$;
CREATE TABLE slow (id int PRIMARY KEY, filler text, CHECK (public.dawdle('{ports}')));
ALTER TABLE slow ALTER filler SET STORAGE PLAIN;
"""


def create_slow_table(cluster: Cluster, rows: int) -> None:
    """Make the table on every member; a check takes two milliseconds a row, on the servers of the blanks alone."""
    ports = "{" + ",".join(str(node.port) for node in cluster.blanks) + "}"
    for node in cluster.members:
        with node.connect() as connection:
            connection.execute(_DDL.replace("{ports}", ports))
        add_to_sets(node, {TABLE: "default"})
    cluster.members[0].execute(f"INSERT INTO {TABLE} SELECT i, repeat('x', 1500) FROM generate_series(1, {rows}) AS i")
