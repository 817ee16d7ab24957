"""A PyTorch model whose parameters and gradients are each one flat vector.

First-order federated updates are vector arithmetic. Here every parameter is a view into one
vector, and so is every gradient: an update is one operation, a gradient needs no gathering.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from common.tensors import Tensors


class FlatModel:
    """A module over flat float32 storage, on PyTorch's default device.

    Attributes
    ----------
    module: the network; its parameters are views into ``vector``.
    vector: all parameters, shape (d,), float32.
    specs: name, shape and dtype of each parameter, in the order of ``vector``.
    """

    def __init__(self, module: nn.Module) -> None:
        if (where := torch.get_default_device()).type != "cpu":
            module.to(where)
        self.module = module
        named = list(module.named_parameters())
        self.vector = torch.cat([p.detach().reshape(-1).float() for _, p in named])
        self._gradient = torch.zeros_like(self.vector)
        self.specs = tuple((name, tuple(p.shape), "float32") for name, p in named)
        position = 0
        for _, parameter in named:
            size, shape = parameter.numel(), parameter.shape
            parameter.data = self.vector[position : position + size].view(shape)
            parameter.grad = self._gradient[position : position + size].view(shape)
            position += size

    def load(self, vector: Tensor) -> None:
        """Copy a flat vector of shape (d,) into the parameters."""
        self.vector.copy_(vector)

    def load_tensors(self, parameters: Tensors) -> None:
        """Copy named tensors, packed as ``parameters`` packs them, into the parameters."""
        self.load(torch.tensor(parameters.vector))

    def gradient(self, loss: Callable[[], Tensor]) -> tuple[Tensor, float]:
        """Gradient of ``loss()`` at the current parameters.

        Returns the gradient, shape (d,), valid until the next call, and the value of the loss.
        """
        self._gradient.zero_()
        value = loss()
        torch.autograd.backward(value)
        return self._gradient, float(value.detach())

    @property
    def parameters(self) -> Tensors:
        """The parameters as named tensors (a copy)."""
        vector = self.vector.numpy(force=True).copy()
        return Tensors(self.specs, {"float32": vector} if vector.size else {})

    @property
    def buffers(self) -> Tensors:
        """Persistent buffers, such as BatchNorm's running statistics, as named tensors (a copy)."""
        kept = self.module.state_dict().keys()
        named = self.module.named_buffers()
        return Tensors.pack({n: np.array(b.numpy(force=True)) for n, b in named if n in kept})

    def load_buffers(self, buffers: Tensors) -> None:
        """Copy named tensors into the module's buffers."""
        own = dict(self.module.named_buffers())
        for name, array in buffers.unpack().items():
            own[name].copy_(torch.from_numpy(np.array(array)))
