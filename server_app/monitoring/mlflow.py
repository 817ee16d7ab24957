"""Runs in MLflow: settings are its parameters, figures its metrics, rounds its steps.

MLflow's own variables say where: ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server_app.monitoring.callbacks import identity
from server_app.monitoring.scalars import scalars, unix

EXPERIMENT = "augflower"
_TAG = "augflower.run"
_ROUND = "round"
_MOST = 100  # parameters that MLflow takes at once
_ENDS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow:
    """Tells MLflow of each round once, also where a run goes on."""

    def __init__(self) -> None:
        import mlflow.entities
        import mlflow.exceptions

        self._entities = mlflow.entities
        self._error = mlflow.exceptions.MlflowException
        self._new_client = mlflow.MlflowClient
        self._client: Any = None
        self._run = ""
        self._last = -1

    def begin(self, meta: Mapping[str, Any], folder: Path) -> None:
        """Make a run in MLflow, or take up the one that this run has made there."""
        client = self._client = self._new_client()
        experiment, tag = self._experiment(), identity(meta)
        found = client.search_runs([experiment], f"tags.`{_TAG}` = '{tag}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._last = int(found[0].data.metrics.get(_ROUND, -1))
            client.update_run(self._run, status="RUNNING")
            return
        tags = {_TAG: tag, "method": meta["method"], "model": meta["model"]["name"]}
        tags |= {f"version.{name}": text for name, text in meta["versions"].items()}
        self._run = client.create_run(experiment, tags=tags, run_name=meta["run"]).info.run_id
        self._last = -1
        params = [self._entities.Param(key, str(value)) for key, value in meta["settings"].items()]
        for first in range(0, len(params), _MOST):
            client.log_batch(self._run, params=params[first : first + _MOST])

    def round(self, line: Mapping[str, Any]) -> None:
        """Send a round's figures, with its number last: without that it is sent again."""
        if line["round"] <= self._last:
            return
        at = int(1000 * (unix(line) or time.time()))
        metrics = [
            self._entities.Metric(tag, value, at, line["round"])
            for tag, value in (*scalars(line), (_ROUND, line["round"]))
        ]
        self._client.log_batch(self._run, metrics=metrics)
        self._last = line["round"]

    def end(self, how: str) -> None:
        """Note how the run has ended."""
        self._client.set_terminated(self._run, _ENDS[how])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = self._client.get_experiment_by_name(name)
        if known is None:
            try:
                return self._client.create_experiment(name)
            except self._error:  # a run beside this one may have been faster
                known = self._client.get_experiment_by_name(name)
                if known is None:
                    raise
        return known.experiment_id
