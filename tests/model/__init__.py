"""An executable model of a Spock cluster and of the protocols of docs/explanation/protocol.md, driven by hypothesis."""
