"""An executable model of a Spock cluster and of the protocols of design 4 and 5, driven by hypothesis."""
