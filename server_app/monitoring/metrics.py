"""What Prometheus sees of a run; made from the status at each scrape, nothing is counted twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from server_app.monitoring.reader import Reader
from server_app.monitoring.status import PHASES, STATES, Status

_PREFIX = "augflower_"
_RECENT = 100  # rounds, after which a figure that is no longer recorded is forgotten


class RunCollector(Collector):
    """The metrics of one status.

    Labels have few values: phases, states, outcomes, and the names of a method's own figures.
    Nodes, fields and reasons are no labels, for devices choose them; the page shows those.
    """

    def __init__(self, status: Status) -> None:
        self._reader = Reader(status)

    def describe(self) -> list[Metric]:
        """Nothing: names do not depend on a run, and asking would cost a snapshot."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families of metrics as of now."""
        seen = self._reader.read()
        yield from _state(seen)
        yield from _counted(seen, len(self._reader.lines))
        yield from _figures(self._reader.lines)


def make_registry(status: Status) -> CollectorRegistry:
    """The run's metrics and those of the server's process."""
    registry = CollectorRegistry()
    registry.register(RunCollector(status))
    ProcessCollector(registry=registry)
    return registry


def _state(seen: dict[str, Any]) -> Iterator[Metric]:
    meta = seen["meta"]
    info = {
        "run": meta.get("run", ""),
        "method": meta.get("method", ""),
        "model": meta.get("model", {}).get("name", ""),
        "data": meta.get("settings", {}).get("data.name", ""),
    }
    names = {key: str(value) for key, value in info.items()}
    yield InfoMetricFamily(_PREFIX + "run", "The run that this server process drives.", names)
    yield _gauge("round", "Round that is going on; 0 is the evaluation before training.", seen)
    yield _gauge("rounds", "Number of the run's last round.", seen)
    phase = GaugeMetricFamily(
        _PREFIX + "phase", "1 for the phase that the run is in, 0 for all others.", labels=["phase"]
    )
    for name in PHASES:
        phase.add_metric([name], float(name == seen["phase"]))
    yield phase
    yield GaugeMetricFamily(
        _PREFIX + "phase_start_timestamp_seconds",
        "Unix time at which the present phase began.",
        seen["since"],
    )
    nodes = GaugeMetricFamily(_PREFIX + "nodes", "Nodes in each state.", labels=["state"])
    states = [node["state"] for node in seen["nodes"].values()]
    for name in STATES:
        nodes.add_metric([name], float(states.count(name)))
    yield nodes


def _counted(seen: dict[str, Any], rounds: int) -> Iterator[Metric]:
    totals = seen["totals"]
    yield CounterMetricFamily(
        _PREFIX + "rounds_recorded", "Rounds that were closed and recorded.", rounds
    )
    yield CounterMetricFamily(
        _PREFIX + "sent_bytes", "Bytes of messages down to the devices.", totals["bytes_down"]
    )
    yield CounterMetricFamily(
        _PREFIX + "received_bytes", "Bytes of messages up from the devices.", totals["bytes_up"]
    )
    yield CounterMetricFamily(
        _PREFIX + "training_requests", "Requests to nodes to train.", totals["asked"]
    )
    replies = CounterMetricFamily(
        _PREFIX + "training_replies",
        "What became of requests to train: admitted, missing or rejected.",
        labels=["outcome"],
    )
    for outcome, key in (("admitted", "replies"), ("missing", "missing"), ("rejected", "rejected")):
        replies.add_metric([outcome], totals[key])
    yield replies
    rejections = CounterMetricFamily(
        _PREFIX + "rejections",
        "What the gate has rejected: replies to requests to train, evaluations, introductions.",
        labels=["step"],
    )
    for step, key in (
        ("training", "rejected"),
        ("evaluation", "rejected_evaluations"),
        ("introduction", "rejected_introductions"),
    ):
        rejections.add_metric([step], totals[key])
    yield rejections
    seconds = CounterMetricFamily(
        _PREFIX + "phase_seconds", "Seconds spent in each phase of all rounds.", labels=["phase"]
    )
    for name, amount in seen["seconds"].items():
        seconds.add_metric([name], amount)
    yield seconds


def _figures(lines: list[dict[str, Any]]) -> Iterator[Metric]:
    """The newest value of every figure that the last rounds have recorded."""
    lines = lines[-_RECENT:]
    loss = _latest(lines, "train").get("loss")
    if loss is not None:
        yield GaugeMetricFamily(
            _PREFIX + "training_loss", "Mean loss that clients reported in training.", loss
        )
    evaluated = _latest(lines, "evaluation")
    accuracy = GaugeMetricFamily(
        _PREFIX + "accuracy_ratio",
        "Accuracy on evaluated clients before and after adaptation, from 0 to 1.",
        labels=["adaptation"],
    )
    evaluated_loss = GaugeMetricFamily(
        _PREFIX + "evaluation_loss",
        "Loss on evaluated clients before and after adaptation.",
        labels=["adaptation"],
    )
    for when in ("before", "after"):
        for family, key in ((accuracy, "accuracy"), (evaluated_loss, "loss")):
            if (value := evaluated.get(f"{key}_{when}")) is not None:
                family.add_metric([when], value)
    yield accuracy
    yield evaluated_loss
    figures = GaugeMetricFamily(
        _PREFIX + "method_figure",
        "Figures of the method's server half in its last step, such as rho and residuals.",
        labels=["figure"],
    )
    for name, value in _latest(lines, "method").items():
        figures.add_metric([name], math.nan if value is None else value)
    yield figures


def _latest(lines: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The newest of each of the entries under that key."""
    found: dict[str, Any] = {}
    for line in lines:
        found |= line.get(key) or {}
    return found


def _gauge(name: str, text: str, seen: dict[str, Any]) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, seen[name])
