"""How far the global model may go in one step, whatever the curvatures have told."""

from __future__ import annotations

import math
from statistics import median

import torch

from server_app.saved import Saved

GROWTH = 3.0
"""Times the median of the recent steps: a longer one shows that this loss does not settle by
itself; it is cut to that length."""

FIRST = 3
"""Steps that must have been seen before another is compared with them."""

REACH = 0.5
"""Share of the model's norm that is the longest step at any time; usual ones are under a fifth."""

INNER = 0.05
"""Share of the model's norm that is the longest of the server's several steps of a round, as in
``transfer``: the same on every data set, however curved R_h is."""

RECENT = 10
"""Steps that are remembered."""


class Safeguard:
    """Cuts steps that are far too long; none if the penalty is fixed.

    Attributes
    ----------
    lengths: of the recent steps.
    """

    lengths: Saved[list[float]]

    def __init__(self, active: bool) -> None:
        self._active = active
        self.lengths = []

    def inner(self, step: float, size: float) -> float:
        """Factor, at most 1, by which one of the server's several steps of a round is to be cut.

        Their damping trusts one secant on one mini-batch, which may tell far too little.

        Parameters
        ----------
        step: its length.
        size: norm of the model that makes it.
        """
        if not self._active or size == 0:
            return 1.0
        return min(1.0, INNER * size / step) if step > 0 else 1.0

    def cut(self, step: torch.Tensor, size: float) -> bool:
        """Shorten a step, shape (d,), in place if it is too long; says whether it was.

        Parameters
        ----------
        size: norm of the model that makes it.
        """
        length = float(step.norm())
        longest = REACH * size if size > 0 else math.inf
        if len(self.lengths) >= FIRST:
            longest = min(longest, GROWTH * median(self.lengths))
        cut = self._active and length > longest
        factor = longest / length if cut else 1.0
        step.mul_(factor)
        self.lengths = [*self.lengths, length * factor][-RECENT:]
        return cut

    def restart(self) -> None:
        """Forget the steps of a run that had lost its way."""
        self.lengths = []
