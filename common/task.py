"""The shape of what is learned: which network, how many classes, what images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import nn

from common.errors import ModelError
from common.models import build
from common.models.initial import copy_weights, weights_of
from common.models.light import Tuning, frozen_digest, head_alone, name_and_tuning, tune
from common.models.parts import head_names
from common.models.seeded import seeded
from common.models.widths import at_width


@dataclass(frozen=True)
class Task:
    """What must be known to build a network.

    Attributes
    ----------
    architecture: name of the run's model.
    classes: number of classes.
    channels: of the images, 1 or 3.
    image_size: height and width, pixels.
    backbone: where the weights of a frozen part are, as ``pretrained-weights``; random if empty.
    features: whether the network is the head alone, and takes features in place of images.
    """

    architecture: str
    classes: int
    channels: int
    image_size: int
    backbone: str = ""
    features: bool = False

    @property
    def tuning(self) -> Tuning | None:
        """What of the network is trained; None if it is all."""
        return name_and_tuning(self.architecture)[1]

    def build(self, architecture: str = "", seed: int = 0) -> nn.Module:
        """A freshly initialised network; by default the run's.

        Raises
        ------
        ModelError: no such model, or it cannot take such images.
        """
        plain, tuning = name_and_tuning(architecture or self.architecture)
        make = partial(
            build, plain, classes=self.classes, channels=self.channels, image_size=self.image_size,
            seed=seed,
        )  # fmt: skip
        if self.features:
            with torch.device("meta"):
                outline = make()
            return seeded(lambda: head_alone(outline), seed)
        module = make()
        if tuning is None:
            return module
        if self.backbone and torch.get_default_device().type != "meta":
            left = copy_weights(module, weights_of(plain, self.backbone), self.backbone)
            if missing := [name for name in left if name not in head_names(module)]:
                raise ModelError(
                    f"{self.backbone} has no {missing[0]} for {plain}: without it the part that is "
                    "not trained would be random"
                )
        return seeded(lambda: tune(module, tuning), seed)


@lru_cache(maxsize=8)
def backbone_digest(task: Task) -> str:
    """SHA-256 of what of the task's network nobody trains; empty if all of it is trained."""
    return frozen_digest(replace(task, features=False).build()) if task.tuning else ""


def hollow(task: Task, width: float = 1.0) -> nn.Module:
    """The task's network, or one cut to a width: names and shapes without memory for values.

    Raises
    ------
    ModelError: see ``Task.build``.
    """
    with torch.device("meta"):
        return task.build(at_width(task.architecture, width))
