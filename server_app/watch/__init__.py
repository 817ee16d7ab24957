"""Watching a run: a live page, metrics for Prometheus, callbacks for trackers."""
