"""For people to look at: the picture of a cluster, and the page about an operation."""
