"""What is drawn of a run: pages, charts, tables."""
