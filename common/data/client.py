"""One client's images, ready to train on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from common.data.images import LabelledImages
from common.data.plan import ClientSplit


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client learns from; images are normalised.

    Attributes
    ----------
    support_images: float32, shape (n_s, c, h, w).
    support_labels: int64, shape (n_s,).
    query_images: float32, shape (n_q, c, h, w).
    query_labels: int64, shape (n_q,).
    classes: labels that the client holds, ascending.
    client: its number in the plan; -1 for a device with its own folder.
    test_images: float32, shape (n_t, c, h, w), which nobody learns from; may be empty.
    test_labels: int64, shape (n_t,).
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    classes: tuple[int, ...]
    client: int
    test_images: Tensor = field(default_factory=lambda: torch.zeros(0))
    test_labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def to(self, where: torch.device) -> ClientData:
        """The same on another device."""
        if where.type == "cpu":
            return self
        found = {part.name: getattr(self, part.name) for part in fields(self)}
        moved: dict[str, Any] = {n: v.to(where) for n, v in found.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    @property
    def evaluation(self) -> tuple[Tensor, Tensor]:
        """Images and labels to evaluate on: the test part, or the query set where there is none."""
        if len(self.test_labels):
            return self.test_images, self.test_labels
        return self.query_images, self.query_labels

    @property
    def commonest(self) -> int:
        """The class of most of the images that the client may learn from; the first of several."""
        learned = [self.support_labels] + ([self.query_labels] if len(self.test_labels) else [])
        return int(torch.cat(learned).bincount().argmax())


def client_data(images: LabelledImages, split: ClientSplit, client: int = -1) -> ClientData:
    """Read one client's images; raises DataError if a file cannot be read."""
    test = images.tensors(split.test) if len(split.test) else ()
    return ClientData(
        *images.tensors(split.support), *images.tensors(split.query), split.classes, client, *test
    )
