"""Watching a run: a live page, metrics for Prometheus, files for TensorBoard."""
