"""From templates to files: rendering, lint and the reference. Nothing here opens a database."""
