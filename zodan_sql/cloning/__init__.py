"""Make a node of a physical copy of its source, on the machine that the new node's server runs on."""
