"""Negatives for contrastive terms: images of other classes, or, without labels, any other image."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import DataError

_RANGE = 2**62


class Negatives:
    """Draws, uniformly and with replacement, from all images outside the anchor's group.

    The groups are the classes of ``labels``, or single images where ``labels`` is None. With the
    images sorted by group, those outside a group are a ring from its end round to its start.

    Raises
    ------
    DataError: all images are of one class.
    """

    def __init__(self, images: int, labels: Tensor | None) -> None:
        groups = torch.arange(images) if labels is None else labels
        self._order = groups.argsort(stable=True)
        ordered = groups[self._order].contiguous()
        start = torch.searchsorted(ordered, groups.contiguous())
        self._end = torch.searchsorted(ordered, groups.contiguous(), right=True)
        self._outside = images - (self._end - start)
        if int(self._outside.min()) == 0:
            raise DataError(
                "the contrastive term needs images of at least two classes in the server's set; "
                "set knowledge.labelled=false to take any other image as a negative"
            )

    def draw(self, indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """``count`` negatives for each of the images ``indices`` (b,): shape (b, count)."""
        shape = (len(indices), count)
        # The bias of the remainder is below images / 2^62.
        ahead = torch.randint(_RANGE, shape, generator=generator) % self._outside[indices, None]
        return self._order[(self._end[indices, None] + ahead) % len(self._order)]
