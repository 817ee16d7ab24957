"""All that a module holds, parameters and buffers, as named tensors and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from common.tensors import Tensors


def state_of(module: nn.Module) -> Tensors:
    """All parameters and buffers (a copy)."""
    return Tensors.pack(
        {name: part.numpy(force=True).copy() for name, part in module.state_dict().items()}
    )


def load_state(module: nn.Module, state: Tensors) -> None:
    """Take up what ``state_of`` gave."""
    named = state.unpack().items()
    module.load_state_dict({name: torch.from_numpy(np.array(part)) for name, part in named})
