"""Which share of a run's network this machine can hold, where a run lets devices differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.config import DataSettings
from common.errors import ModelError
from common.free_memory import free_memory
from common.methods.raffm import BATCH, WIDTHS
from deploy.doctor.finding import Finding, ok, skipped, warning
from deploy.doctor.sizes import CLASSES

CHECK = "width"


def check_width(model: str, settings: Mapping[str, Any], run: Mapping[str, Any]) -> Finding:
    """The width that the server would choose by this machine's memory; time is measured in a run.

    Parameters
    ----------
    model: of the run, by name.
    settings: of the device; its ``width`` decides.
    run: settings of the run by dotted name; others have their defaults.
    """
    if settings.get("width"):
        return ok(CHECK, f"{settings['width']:g}, as set on the device")
    if not model or model.isdecimal():
        return skipped(CHECK, "give --model with the name of the run's network")
    # Imported late: the doctor examines machines without torch as well.
    from common.capacity import Load, Measured, cost, widest
    from common.task import Task

    default = DataSettings.model_fields
    size, channels = (
        run.get(f"data.{name}", default[name.replace("-", "_")].default)
        for name in ("image-size", "channels")
    )
    widths = [float(width) for width in str(run.get("raffm.widths", WIDTHS)).split(",")]
    batch = int(run.get("raffm.sgd.batch-size", BATCH))
    try:
        costs = [cost(Task(model, CLASSES, channels, size), width) for width in widths]
    except ModelError as problem:
        return warning(CHECK, str(problem), "correct --model, or the run's data.image-size")
    free = free_memory()
    if free is None:
        return skipped(CHECK, "this system does not say how much memory is free")
    width, why = widest(costs, Measured(free), Load(batch, 0))
    return ok(CHECK, f"{width:g} with {batch} images a step: {why}")
