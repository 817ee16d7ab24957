"""The shape of what is learned: which network, how many classes, what images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from common.models import build
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
    """

    architecture: str
    classes: int
    channels: int
    image_size: int

    def build(self, architecture: str = "", seed: int = 0) -> nn.Module:
        """A freshly initialised network; by default the run's.

        Raises
        ------
        ModelError: no such model, or it cannot take such images.
        """
        return build(
            architecture or self.architecture, classes=self.classes, channels=self.channels,
            image_size=self.image_size, seed=seed,
        )  # fmt: skip


def hollow(task: Task, width: float = 1.0) -> nn.Module:
    """The task's network, or one cut to a width: names and shapes without memory for values.

    Raises
    ------
    ModelError: see ``Task.build``.
    """
    with torch.device("meta"):
        return task.build(at_width(task.architecture, width))
