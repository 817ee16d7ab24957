"""One client's images, ready to train on."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    classes: tuple[int, ...]
    client: int


def client_data(images: LabelledImages, split: ClientSplit, client: int = -1) -> ClientData:
    """Read one client's images; raises DataError if a file cannot be read."""
    return ClientData(
        *images.tensors(split.support), *images.tensors(split.query), split.classes, client
    )
