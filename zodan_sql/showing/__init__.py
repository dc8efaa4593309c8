"""What was read, for people: the picture of a cluster and the page of an operation."""
