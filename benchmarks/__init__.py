"""Commands whose output is a table in ``docs/results.md``."""
