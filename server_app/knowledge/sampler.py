"""Which images of D_s each gradient uses: epochs in random order, a pure function of a counter."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ORDER, _BATCH = 0, 1


class EpochSampler:
    """Batches without replacement within an epoch; the last, smaller one of an epoch is left out.

    Attributes
    ----------
    drawn: batches so far; the whole state.
    """

    def __init__(self, images: int, batch_size: int, seed: int) -> None:
        self.drawn = 0
        self._images = images
        self._batch_size = min(batch_size, images)
        self._seed = seed

    def draw(self) -> tuple[Tensor, int]:
        """Indices of the next batch, shape (b,), and a seed for what is random within it."""
        epoch, position = divmod(self.drawn, self._images // self._batch_size)
        order = np.random.default_rng([self._seed, _ORDER, epoch]).permutation(self._images)
        start = position * self._batch_size
        within = np.random.SeedSequence([self._seed, _BATCH, self.drawn]).generate_state(1)[0]
        self.drawn += 1
        return torch.from_numpy(order[start : start + self._batch_size]), int(within)
