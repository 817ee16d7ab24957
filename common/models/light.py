"""Light tuning: a pretrained backbone that stays as it is, and the small part that is trained.

Behind the name of a model stands what is trained of it, always with the head:

NAME+head        nothing else
NAME+bias        all biases
NAME+adapter-8   bottlenecks of 8 behind each feed-forward layer: x + U gelu(D x), U = 0 at first
NAME+prompt-10   ten tokens beside the others in each block, gone behind it (VPT-deep)
NAME+lora-8      W + 2 B A of rank 8 in place of W, B = 0 at first (LoRA, alpha = 2 r)
NAME+ffa-8       the same with one A for all that nobody trains (FFA-LoRA, arXiv 2403.12313)

The modes but the last two are FedPEFT's (arXiv 2210.01708). LoRA is on the input projections of
attention, in networks without attention on all layers but the head.

What is frozen is neither a parameter nor a persistent buffer of the network: whatever takes its
parameters, or writes its state, has the light part alone.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from common.errors import ModelError
from common.models import parts
from common.models.weights import digest

PLAIN = ("head", "bias")
SIZED = ("adapter", "prompt", "lora", "ffa")
SCALE = 2.0
"""s in W + s B A, for every rank."""

_LARGEST = 1024
_ATTENTION = ("qkv.weight", "in_proj_weight", "query.weight", "value.weight")


@dataclass(frozen=True)
class Tuning:
    """What is trained of a network.

    Attributes
    ----------
    mode: one of ``PLAIN`` or ``SIZED``.
    size: of bottlenecks, number of tokens, or rank; 0 where there is none.
    """

    mode: str
    size: int = 0


def name_and_tuning(name: str) -> tuple[str, Tuning | None]:
    """The model of which a part is trained, and what; None if it is trained as a whole.

    Raises
    ------
    ModelError: what stands behind the last + is no such part.
    """
    plain, plus, text = name.rpartition("+")
    if not plus:
        return name, None
    mode, _, size = text.partition("-")
    if mode in PLAIN and text == mode:
        return plain, Tuning(mode)
    if mode in SIZED and size.isdecimal() and 0 < int(size) <= _LARGEST:
        return plain, Tuning(mode, int(size))
    raise ModelError(
        f"model {name!r}: {text!r} is nothing that could be trained of it; there are "
        f"{', '.join(PLAIN)}, {'-N, '.join(SIZED)}-N, with N from 1 to {_LARGEST}"
    )


def with_rank(name: str, rank: int) -> str:
    """The same model with another number behind what is trained of it."""
    return f"{name.rpartition('-')[0]}-{rank}"


def tune(network: nn.Module, tuning: Tuning) -> nn.Module:
    """Freeze a network in place, but for its head and what is trained besides; add what is new.

    Returns the network.

    Raises
    ------
    ModelError: it has no such place, or no head.
    """
    for path, layer in [*network.named_modules()]:
        if isinstance(layer, _BatchNorm):
            network.set_submodule(path, FixedNorm(layer))
    trained = [*parts.head(network).parameters()]
    if tuning.mode == "bias":
        trained += [p for name, p in network.named_parameters() if name.endswith("bias")]
    elif tuning.mode == "adapter":
        trained += _add_adapters(network, tuning.size)
    elif tuning.mode == "prompt":
        trained += _add_prompts(network, tuning.size)
    elif tuning.mode in ("lora", "ffa"):
        trained += _add_changes(network, tuning.size, fixed=tuning.mode == "ffa")
    _freeze(network, {id(parameter) for parameter in trained})
    return network


def head_alone(network: nn.Module) -> nn.Module:
    """The head under its own path, freshly made, as a network that takes features."""
    path, old = parts.head_path(network), parts.head(network)
    inner: nn.Module = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
    for name in reversed(path.split(".")):
        inner = nn.Sequential(OrderedDict([(name, inner)]))
    return inner


def frozen_digest(network: nn.Module) -> str:
    """SHA-256 of what is frozen of a network, hexadecimal."""
    kept = network.state_dict().keys()
    return digest({name: b for name, b in network.named_buffers() if name not in kept})


class FixedNorm(nn.Module):
    """A batch normalisation whose statistics stay what they are in training as well."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__()
        if layer.running_mean is None or layer.running_var is None:
            raise ModelError("a normalisation layer has no statistics that could be frozen")
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.register_buffer("running_mean", layer.running_mean)
        self.register_buffer("running_var", layer.running_var)
        # timm's have dropout and activation in the same layer.
        behind = [getattr(layer, name) for name in ("drop", "act") if hasattr(layer, name)]
        self.behind = nn.Sequential(*behind)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        mean, var = self.get_buffer("running_mean"), self.get_buffer("running_var")
        found: Tensor = self.behind(
            F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        )
        return found


class Adapter(nn.Module):
    """x + U gelu(D x), the identity at first."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (..., width)."""
        found: Tensor = x + self.up(F.gelu(self.down(x)))
        return found


class Prompted(nn.Module):
    """A transformer's block with tokens beside those that it is given."""

    def __init__(self, block: nn.Module, tokens: int, width: int, bound: float) -> None:
        super().__init__()
        self.block = block
        self.prompt = nn.Parameter(torch.empty(tokens, width).uniform_(-bound, bound))

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """Shape (n, tokens, width)."""
        prompt = self.prompt.expand(len(x), -1, -1)
        found: Tensor = self.block(torch.cat([x, prompt], 1), *others, **named)
        return found[:, : x.shape[1]]


class Change(nn.Module):
    """W + s B A in place of W; convolutions as matrices with a row for each output.

    Attributes
    ----------
    a: shape (rank, inputs).
    b: shape (outputs, rank).
    """

    a: Tensor

    def __init__(self, weight: Tensor, rank: int, fixed: str = "") -> None:
        super().__init__()
        outputs, inputs = len(weight), weight.numel() // len(weight)
        rank, bound = min(rank, outputs, inputs), 1 / math.sqrt(inputs)
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        if not fixed:
            self.a = nn.Parameter(torch.empty(rank, inputs).uniform_(-bound, bound))
            return
        # NumPy's are the same bits on every processor, and fewer rows are the first of them.
        seed = int.from_bytes(hashlib.sha256(fixed.encode()).digest()[:8])
        rows = np.random.default_rng(seed).uniform(-bound, bound, (rank, inputs))
        self.register_buffer("a", torch.tensor(rows, dtype=torch.float32))

    def forward(self, weight: Tensor) -> Tensor:
        """Of the shape of the weight."""
        return weight + SCALE * (self.b @ self.a).view_as(weight)


def _blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Those of timm's and open_clip's transformers."""
    for path, module in network.named_modules():
        if hasattr(module, "attn") and hasattr(module, "mlp"):
            yield path, module


def _add_adapters(network: nn.Module, size: int) -> list[nn.Parameter]:
    # Hugging Face's BERT has no module for the whole feed-forward layer: its last one stands for it
    places = [f"{path}.mlp" for path, _ in _blocks(network)]
    places += [f"{p}.output.dense" for p, m in network.named_modules() if _is_bert_layer(m)]
    added: list[nn.Parameter] = []
    for path in places:
        old = network.get_submodule(path)
        last = [layer for layer in old.modules() if isinstance(layer, nn.Linear)][-1]
        adapter = Adapter(last.out_features, size)
        network.set_submodule(path, nn.Sequential(OrderedDict(inner=old, adapter=adapter)))
        added += adapter.parameters()
    return _some(added, network, "adapters go behind")


def _add_prompts(network: nn.Module, size: int) -> list[nn.Parameter]:
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    added = []
    for path, block in [*_blocks(network)]:
        width = next(m for m in block.modules() if isinstance(m, nn.LayerNorm)).normalized_shape[0]
        # VPT's, with the values of a patch.
        bound = math.sqrt(6 / ((first.weight[0].numel() if first else width) + width))
        prompted = Prompted(block, size, width, bound)
        network.set_submodule(path, prompted)
        added.append(prompted.prompt)
    return _some(added, network, "tokens go into")


def _add_changes(network: nn.Module, rank: int, *, fixed: bool) -> list[nn.Parameter]:
    named, head = dict(network.named_parameters()), parts.head_names(network)
    chosen = [name for name in named if name.endswith(_ATTENTION)]
    if not chosen:
        layers = (nn.Linear, nn.Conv1d, nn.Conv2d)
        paths = [path for path, m in network.named_modules() if isinstance(m, layers)]
        chosen = [f"{path}.weight" for path in paths if f"{path}.weight" not in head]
    added: list[nn.Parameter] = []
    for name in chosen:
        path, _, attribute = name.rpartition(".")
        change = Change(named[name], rank, name if fixed else "")
        parametrize.register_parametrization(network.get_submodule(path), attribute, change)
        added += change.parameters()
    return _some(added, network, "LoRA goes on")


def _is_bert_layer(module: nn.Module) -> bool:
    return type(module).__name__ == "BertLayer"


def _some(added: list[nn.Parameter], network: nn.Module, what: str) -> list[nn.Parameter]:
    if not added:
        raise ModelError(
            f"{type(network).__name__} has no layers that {what}; take +head or +bias, or a vision "
            "transformer of timm or open_clip"
        )
    return added


def _freeze(network: nn.Module, trained: set[int]) -> None:
    for layer in network.modules():
        for name, parameter in [*layer.named_parameters(recurse=False)]:
            if id(parameter) not in trained:
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach(), persistent=False)
        for name, buffer in [*layer.named_buffers(recurse=False)]:
            layer.register_buffer(name, buffer, persistent=False)
