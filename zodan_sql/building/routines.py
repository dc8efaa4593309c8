"""The routines that people call: one list for each thing the package has to know of them.

They differ because the questions do. What is in somebody else's schema is less than what people call, most of which is
in schema zodan; what a complete installation has to have is one of each script and not all of them; and the parameters
that people write are without a prefix in some functions of schema zodan only.
"""

from __future__ import annotations

#: What is put into schema spock, and so is dropped by name: schema zodan goes as a whole.
IN_SPOCK = ("add_node", "remove_node", "health_check")

#: By which of them an installation is known to be complete: each is in one of the two scripts.
ONE_OF_EACH_SCRIPT = ("add_node", "remove_node")

#: Functions of schema zodan with the documented parameters, without p_: lint allows that to no other one there.
WITH_DOCUMENTED_PARAMETERS = frozenset({"plan_add_node", "plan_remove_node", "checks", "topology"})

#: What the reference explains one by one, by heading: every routine a person has a reason to call, in both schemas.
FOR_PEOPLE = {
    "Adding, removing, examining": ("spock.add_node", "spock.remove_node", "spock.health_check"),
    "Looking": (
        "zodan.plan_add_node",
        "zodan.plan_remove_node",
        "zodan.checks",
        "zodan.topology",
        "zodan.rescan",
        "zodan.version",
    ),
    "Going on, going back, mending": ("zodan.resume", "zodan.rollback", "zodan.mend"),
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
