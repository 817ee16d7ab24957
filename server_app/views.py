"""Torch views of what came over the wire."""

from __future__ import annotations

import warnings

import torch

from common.tensors import Vector

# Received data is read-only, and nothing here writes to it.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def view(vector: Vector) -> torch.Tensor:
    """The same memory as a tensor, shape (d,); not to be written to."""
    return torch.from_numpy(vector)
