"""From templates to files: rendering, lint and the reference; opens no database (design, section 2)."""
