"""Initialisation by a seed that leaves the caller's random state as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


def seeded(build: Callable[[], Net], seed: int) -> Net:
    """A network with the initialisation of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
