"""The package's work in databases: it connects, installs, calls, and reads the answers."""
