"""Networks cut to a share of their width: salience order, sub-networks, and what of them is whose.

Some units of a network can change places without changing its output: channels between two
convolutions, attention heads, channels of queries and keys or of values within a head, channels of
a feed-forward layer. Sorted by salience, the first of them make the best small network (RaFFM,
arXiv 2310.00247, section 3). Whole heads are kept, so that the scale of the attention stays what it
was and a sub-network equals the full one in which the other units are masked. The residual width
has no such freedom and stays whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import ModelError
from common.tensors import Spec, Tensors

Index = NDArray[np.int64]
Where = dict[str, tuple[Index, ...]]
"""Name of a tensor -> the indices of a part of it, axis by axis."""


@dataclass(frozen=True)
class Place:
    """Where the units of a group are in one tensor.

    Attributes
    ----------
    index: entries along ``axis`` that belong to each unit, shape (units, k).
    """

    tensor: str
    axis: int
    index: Index


@dataclass(frozen=True)
class Group:
    """Units that can change places.

    Attributes
    ----------
    cut: whether a smaller network has fewer of them; else they are only sorted.
    """

    name: str
    places: tuple[Place, ...]
    cut: bool = True

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.places[0].index)

    def kept(self, width: float) -> int:
        """Units of a network of this width: a share of them, rounded up, and at least one."""
        return max(1, math.ceil(width * self.units - 1e-9)) if self.cut else self.units


def at_width(name: str, width: float) -> str:
    """The name under which ``common.models.build`` knows a network cut to a width."""
    return name if width == 1 else f"{name}@{width:g}"


def name_and_width(name: str) -> tuple[str, float]:
    """What ``at_width`` was made of; a name without a width is that of the whole network.

    Raises
    ------
    ModelError: what stands behind the last @ is no width.
    """
    whole, at, text = name.rpartition("@")
    if not at:
        return name, 1.0
    try:
        width = float(text)
    except ValueError:
        width = 0.0
    if not 0 < width <= 1:
        raise ModelError(f"model {name!r}: {text!r} is no width; over 0 and at most 1 are possible")
    return whole, width


def groups_of(network: nn.Module) -> list[Group]:
    """All groups of a network, those within attention heads before the heads.

    Known are chains of convolutions and linear layers with what treats each channel alone between
    them, the blocks of torchvision's and AugFlower's residual networks, timm's vision transformers,
    open_clip's image towers, and BERT as Hugging Face's transformers has it.
    """
    found: list[Group] = []
    within: set[int] = set()
    for path, module in network.named_modules():
        start = f"{path}." if path else ""
        kind = type(module).__name__
        if kind == "Attention" and hasattr(module, "qkv"):
            found += _fused_attention(start, module)
        elif kind == "ResidualAttentionBlock" and isinstance(module.attn, nn.MultiheadAttention):
            found += _multihead_attention(f"{start}attn.", module.attn)
        elif kind == "BertLayer":
            found += _bert_layer(start, module)
        elif kind == "Mlp" and hasattr(module, "fc1"):
            found += _chain([(f"{start}{n}", getattr(module, n)) for n in _MLP])
        elif kind in ("BasicBlock", "Bottleneck") and hasattr(module, "bn1"):
            names = [n for n in _RESIDUAL if hasattr(module, n)]
            found += _chain([(f"{start}{n}", getattr(module, n)) for n in names])
        elif isinstance(module, nn.Sequential) and id(module) not in within:
            found += _chain([*_flattened(start, module, within)])
    return found


_MLP = ("fc1", "act", "drop1", "norm", "fc2")
_RESIDUAL = ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3")


def salience(group: Group, tensors: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """L1 norm of the weights of each unit, shape (units,); biases and norms do not count."""
    score = np.zeros(group.units)
    for place in group.places:
        values = tensors[place.tensor]
        if values.ndim > 1:
            across = tuple(axis for axis in range(values.ndim) if axis != place.axis)
            size = np.abs(values, dtype=np.float64).sum(across)
            score += size[place.index].sum(1)
    return score


def arranged(
    tensors: Mapping[str, NDArray[Any]], orders: Sequence[tuple[Group, Index]]
) -> dict[str, NDArray[Any]]:
    """The tensors with the units of each group in another order; the old ones stay what they are.

    Parameters
    ----------
    orders: for each group, the old number of the unit that comes to each place.
    """
    new = dict(tensors)
    for group, order in orders:
        for place in group.places:
            axis, old = place.axis, new[place.tensor]
            entries = np.arange(old.shape[axis])
            entries[place.index.ravel()] = place.index[order].ravel()
            new[place.tensor] = np.take(old, entries, axis)
    return new


def by_salience(
    groups: Sequence[Group], tensors: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The tensors with the most salient units first; of equals, those that were first stay so."""
    orders = [(group, np.argsort(-salience(group, tensors), kind="stable")) for group in groups]
    return arranged(tensors, orders)


def part(groups: Sequence[Group], specs: Sequence[Spec], width: float) -> Where:
    """What a network of this width has of each tensor: the first units of each group."""
    where: Where = {name: tuple(map(np.arange, shape)) for name, shape, _ in specs}
    for group in groups:
        count = group.kept(width)
        if count == group.units:
            continue
        for place in group.places:
            if place.tensor in where:
                axes = [*where[place.tensor]]
                axes[place.axis] = np.setdiff1d(axes[place.axis], place.index[count:])
                where[place.tensor] = tuple(axes)
    return where


def taken(tensors: Tensors, where: Where) -> Tensors:
    """A part of named tensors, as named tensors of its own."""
    whole = tensors.unpack()
    return Tensors.pack({name: whole[name][np.ix_(*where[name])] for name, _, _ in tensors.specs})


def inside(outer: Where, inner: Where) -> Where:
    """A part of a part: where in ``outer`` the entries of ``inner`` are, which it holds."""
    return {name: tuple(map(np.searchsorted, outer[name], axes)) for name, axes in inner.items()}


def flat(where: Where, specs: Sequence[Spec]) -> Index:
    """Where the entries of a part are in the flat vector of the whole tensors."""
    found, start = [], 0
    for name, shape, _ in specs:
        entries = np.arange(start, start + math.prod(shape)).reshape(shape)
        found.append(entries[np.ix_(*where[name])].ravel())
        start += math.prod(shape)
    return np.concatenate(found)


def cut(network: nn.Module, width: float) -> nn.Module:
    """The network without all but the first units of each group; it is changed in place.

    Raises
    ------
    ModelError: nothing of it can be cut, or the width is not within (0, 1].
    """
    if not 0 < width <= 1:
        raise ModelError(f"a width is a share of a network, over 0 and at most 1, not {width:g}")
    if width == 1:
        return network
    groups = [group for group in groups_of(network) if group.cut]
    if not groups:
        raise ModelError(
            f"{type(network).__name__} has no units that could be left out, such as channels "
            "between two convolutions, attention heads or feed-forward channels; choose another "
            "model"
        )
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    specs = [(name, tuple(tensor.shape), "") for name, tensor in named.items()]
    where = part(groups, specs, width)
    for name, tensor in named.items():
        if all(len(axis) == n for axis, n in zip(where[name], tensor.shape, strict=True)):
            continue
        smaller = tensor.detach()
        for axis, index in enumerate(where[name]):
            smaller = smaller.index_select(axis, torch.tensor(index, device=tensor.device))
        path, _, last = name.rpartition(".")
        owner = network.get_submodule(path)
        if isinstance(tensor, nn.Parameter):
            smaller = nn.Parameter(smaller, tensor.requires_grad)
        setattr(owner, last, smaller)
    for path, module in [*network.named_modules()]:
        _fit(network, path, module)
    return network


def _fit(network: nn.Module, path: str, module: Any) -> None:
    """Let what a layer knows of its own sizes agree with its weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, within = module.weight.shape[:2]
        if _depthwise_before(module):
            module.groups = module.out_channels
        module.in_channels = within * module.groups
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
        module.num_features = len(module.weight)
    elif type(module).__name__ == "Attention" and hasattr(module, "qkv"):
        module.attn_dim = module.proj.weight.shape[1]
        module.num_heads = module.attn_dim // module.head_dim
    elif (
        isinstance(module, nn.MultiheadAttention)
        and module.out_proj.weight.shape[1] != module.embed_dim
    ):
        network.set_submodule(path, _FewerHeads(module))
    elif type(module).__name__ == "BertSelfAttention":
        module.all_head_size = len(module.query.weight)
        module.num_attention_heads = module.all_head_size // module.attention_head_size


class _FewerHeads(nn.Module):
    """Self-attention with fewer heads than its width has room for, as open_clip calls it.

    ``nn.MultiheadAttention`` wants the heads to fill the width.
    """

    def __init__(self, cut: nn.MultiheadAttention) -> None:
        super().__init__()
        self.head_size = cut.head_dim
        self.batch_first = cut.batch_first
        self.in_proj_weight, self.in_proj_bias = cut.in_proj_weight, cut.in_proj_bias
        self.out_proj = cut.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, attn_mask: Any = None
    ) -> tuple[Tensor, None]:
        """Map (n, tokens, d) to the same, or (tokens, n, d) without ``batch_first``."""
        x = query if self.batch_first else query.transpose(0, 1)
        both = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = both.unflatten(-1, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4).unbind(0)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask)
        x = self.out_proj(heads.transpose(1, 2).flatten(2))
        return (x if self.batch_first else x.transpose(0, 1)), None


def _flattened(
    start: str, module: nn.Sequential, seen: set[int]
) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a chain, those of chains in it in their place."""
    for name, layer in module.named_children():
        if isinstance(layer, nn.Sequential):
            seen.add(id(layer))
            yield from _flattened(f"{start}{name}.", layer, seen)
        else:
            yield f"{start}{name}", layer


_CHANNELWISE = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.ELU, nn.GELU, nn.SiLU,
    nn.LeakyReLU, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Flatten,
)  # fmt: skip


def _chain(layers: Sequence[tuple[str, Any]]) -> list[Group]:
    """Groups of the outputs of each layer that all go to the next convolution or linear layer."""
    found: list[Group] = []
    open_: tuple[str, int, list[Place]] | None = None  # whose outputs are under way
    for path, layer in layers:
        if open_ and isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine:
            names = ["weight", "bias"]
            names += ["running_mean", "running_var"] if layer.track_running_stats else []
            open_[2].extend(_rows(path, name, open_[1]) for name in names)
        elif open_ and _depthwise(layer) and layer.weight.shape[0] == open_[1]:
            open_[2].extend(_outputs(path, layer, open_[1]))
        elif isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            entries = layer.weight.shape[1]
            if open_ and entries % open_[1] == 0:
                index = np.arange(entries).reshape(open_[1], -1)
                open_[2].append(Place(f"{path}.weight", 1, index))
                found.append(Group(open_[0], tuple(open_[2])))
            units = layer.weight.shape[0]
            open_ = (path, units, _outputs(path, layer, units))
        elif not isinstance(layer, _CHANNELWISE) and not _gelu(layer):
            open_ = None
    return found


def _gelu(layer: nn.Module) -> bool:
    return type(layer).__name__ in ("QuickGELU", "GELUTanh", "GELU", "Swish")


def _depthwise(layer: Any) -> bool:
    if not isinstance(layer, nn.Conv2d) or layer.groups == 1:
        return False
    return layer.groups == layer.in_channels == layer.out_channels


def _depthwise_before(layer: nn.Conv2d) -> bool:
    """Of a layer whose weights may have been cut already."""
    return layer.groups > 1 and layer.weight.shape[1] == 1


def _rows(path: str, name: str, units: int) -> Place:
    return Place(f"{path}.{name}", 0, np.arange(units)[:, None])


def _outputs(path: str, layer: Any, units: int) -> list[Place]:
    names = ["weight"] + (["bias"] if layer.bias is not None else [])
    return [_rows(path, name, units) for name in names]


def _fused_attention(start: str, module: Any) -> list[Group]:
    """Of timm: rows of ``qkv`` are all heads' queries, then keys, then values."""
    if getattr(module, "gate", None) is not None or not isinstance(module.norm, nn.Identity):
        return []
    heads, size = module.num_heads, module.head_dim
    fused = [f"{start}qkv.weight"] + ([f"{start}qkv.bias"] if module.qkv.bias is not None else [])
    shared = isinstance(module.q_norm, nn.Identity)  # a norm ties the channels of all heads
    return _heads(start, heads, size, fused, f"{start}proj.weight", qk=shared)


def _multihead_attention(start: str, module: nn.MultiheadAttention) -> list[Group]:
    fused = [f"{start}in_proj_weight"]
    fused += [f"{start}in_proj_bias"] if module.in_proj_bias is not None else []
    return _heads(start, module.num_heads, module.head_dim, fused, f"{start}out_proj.weight")


def _heads(
    start: str, heads: int, size: int, fused: Sequence[str], out: str, qk: bool = True
) -> list[Group]:
    """Groups of an attention whose queries, keys and values are rows of the same tensors."""
    rows = np.arange(3 * heads * size).reshape(3, heads, size)
    columns = np.arange(heads * size).reshape(heads, size)
    found = []
    for head in range(heads):
        both = np.stack([rows[0, head], rows[1, head]], 1)
        if qk:
            places = tuple(Place(name, 0, both) for name in fused)
            found.append(Group(f"{start}qk.{head}", places, cut=False))
        values = [Place(name, 0, rows[2, head][:, None]) for name in fused]
        values.append(Place(out, 1, columns[head][:, None]))
        found.append(Group(f"{start}vo.{head}", tuple(values), cut=False))
    whole = rows.transpose(1, 0, 2).reshape(heads, -1)
    places = (*(Place(name, 0, whole) for name in fused), Place(out, 1, columns))
    return [*found, Group(f"{start}heads", places)]


def _bert_layer(start: str, module: Any) -> list[Group]:
    """Of Hugging Face's BERT: queries, keys and values are layers of their own."""
    attention = module.attention.self
    heads, size = attention.num_attention_heads, attention.attention_head_size
    units = np.arange(heads * size).reshape(heads, size)
    at, out = f"{start}attention.self.", f"{start}attention.output.dense.weight"
    found = []
    for head in range(heads):
        index = units[head][:, None]
        both = [_tensor(f"{at}{n}.{t}", index) for n in ("query", "key") for t in _TENSORS]
        values = [_tensor(f"{at}value.{t}", index) for t in _TENSORS] + [Place(out, 1, index)]
        found.append(Group(f"{at}qk.{head}", tuple(both), cut=False))
        found.append(Group(f"{at}vo.{head}", tuple(values), cut=False))
    places = [_tensor(f"{at}{n}.{t}", units) for n in ("query", "key", "value") for t in _TENSORS]
    found.append(Group(f"{at}heads", (*places, Place(out, 1, units))))
    inner = (f"{start}intermediate.dense", module.intermediate.dense)
    return found + _chain([inner, (f"{start}output.dense", module.output.dense)])


_TENSORS = ("weight", "bias")


def _tensor(name: str, index: Index) -> Place:
    return Place(name, 0, index)
