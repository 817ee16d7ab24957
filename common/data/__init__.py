"""Data sets, partitions and support/query splits."""
