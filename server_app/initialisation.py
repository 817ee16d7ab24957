"""The model that a run starts from: freshly initialised, or with published or local weights,
such as those that another run has ended with.

Devices get it over the wire; none of them fetches anything but the frozen part of a model of which
only a small part is trained.
"""

from __future__ import annotations

from collections.abc import Callable

from common.config import RunSettings
from common.errors import SettingsError
from common.models import FlatModel
from common.models.initial import copy_weights, weights_of
from common.task import Task


def initial_model(
    settings: RunSettings, classes: int, notice: Callable[[str], None] = lambda _: None
) -> FlatModel:
    """Build the run's model and start it as ``pretrained-weights`` says.

    Raises
    ------
    ModelError: no such model or tag, or weights that are missing, unreadable or do not fit.
    SettingsError: a part of a model is to be trained, and there are no weights for the rest.
    """
    data, source = settings.data, settings.pretrained_weights
    task = Task(settings.model, classes, data.channels, data.image_size, source)
    if task.tuning and not source:
        raise SettingsError(
            f"model {settings.model} trains a small part of a pretrained network: give "
            "pretrained-weights, a file, a folder or a tag, which every device must have as well"
        )
    module = task.build(seed=settings.seed)
    if task.tuning:
        size = sum(parameter.numel() for parameter in module.parameters())
        notice(f"{settings.model}: {size:,} parameters are trained; the rest is from {source}")
    elif source:
        kept = copy_weights(module, weights_of(settings.model, source), source)
        own = f"; its own initialisation keeps {', '.join(kept)}" if kept else ""
        notice(f"{settings.model} starts from {source}{own}")
    return FlatModel(module)
