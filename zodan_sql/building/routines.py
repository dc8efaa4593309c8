"""The routines that people call: one list for each fact that the package needs about them.

The lists differ because they answer different questions. Most of the routines that people call are in schema zodan, and
few in schema spock. To know that an installation is complete, one routine of each script is enough. Only some functions
of schema zodan have parameters without a prefix.
"""

from __future__ import annotations

#: The routines in schema spock. Uninstalling drops them by name, and schema zodan as a whole.
IN_SPOCK = ("add_node", "remove_node", "health_check")

#: Each of these is in one of the two scripts. An installation that has both is complete.
ONE_OF_EACH_SCRIPT = ("add_node", "remove_node")

#: The functions of schema zodan with the documented parameters, without p_. Lint allows no others there.
WITH_DOCUMENTED_PARAMETERS = frozenset(
    {"plan_add_node", "plan_remove_node", "plan_replace_node", "checks", "topology", "verify"}
)

#: What the reference explains one by one, by heading: every routine that a person has a reason to call.
FOR_PEOPLE = {
    "Adding, removing, checking": ("spock.add_node", "spock.remove_node", "zodan.replace_node", "spock.health_check"),
    "Inspecting": (
        "zodan.plan_add_node",
        "zodan.plan_remove_node",
        "zodan.plan_replace_node",
        "zodan.checks",
        "zodan.topology",
        "zodan.rescan",
        "zodan.verify",
        "zodan.version",
    ),
    "Resuming, rolling back, repairing": ("zodan.resume", "zodan.rollback", "zodan.mend"),
    "Single steps by hand": (
        "zodan.create_node",
        "zodan.get_spock_nodes",
        "zodan.create_sub",
        "zodan.enable_sub",
        "zodan.create_replication_slot",
        "zodan.sync_event",
        "zodan.wait_for_sync_event",
        "zodan.get_commit_timestamp",
        "zodan.advance_replication_slot",
        "zodan.sub_drop",
        "zodan.repset_drop",
        "zodan.node_drop",
    ),
}
