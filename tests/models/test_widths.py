"""Networks cut to a width: order and slices leave exactly what they should."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.models import build
from common.models.widths import (
    at_width,
    by_salience,
    cut,
    groups_of,
    name_and_width,
    part,
    salience,
    taken,
)
from common.tensors import Tensors

IMAGE = 28


def clip_tower() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(IMAGE, 7, 32, 2, 4, 4.0, output_dim=8)


class Text(nn.Module):
    """A BERT encoder over words that are read off the pixels of images."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        self.bert = BertModel(BertConfig(vocab_size=50, num_hidden_layers=2, **sizes))

    def forward(self, images: Tensor) -> Tensor:
        words = (10 * images.flatten(1)[:, :12].abs()).long() % 50
        found: Tensor = self.bert(input_ids=words).last_hidden_state
        return found


def named(name: str) -> Callable[[], nn.Module]:
    return lambda: build(name, classes=5, channels=3, image_size=IMAGE)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vit": named("timm:test_vit/7"),
    "clip": clip_tower,
    "cnn": named("cnn-wide"),
    "resnet": named("resnet8x4"),
    "resnet18": named("resnet18"),
    "mobilenet": named("mobilenet_v2"),
    "bert": Text,
}
SLOW = {"bert": pytest.mark.slow}  # to import


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=SLOW.get(name, ())) for name in NETWORKS]
)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """In double precision, with weights and statistics that are all different."""
    made = NETWORKS[request.param]().double().eval()
    dice = torch.Generator().manual_seed(1)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            spread = torch.randn(tensor.shape, generator=dice, dtype=torch.double)
            tensor.copy_(spread.abs() + 0.5 if "running_var" in name else 0.3 * spread)
    return made


def images() -> Tensor:
    return torch.randn(3, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(2)).double()


def arrays(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def loaded(module: nn.Module, values: dict[str, Any]) -> nn.Module:
    other = copy.deepcopy(module)
    other.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return other


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 1e-12 * other.abs().max())


def test_sorting_leaves_the_output_what_it_was(network: nn.Module):
    groups, before = groups_of(network), arrays(network)
    after = by_salience(groups, before)
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert {place.tensor for group in groups for place in group.places} == set(moved)
    with torch.no_grad():
        assert close(loaded(network, after)(images()), network(images()))
    again = by_salience(groups, after)
    assert all(np.array_equal(again[name], after[name]) for name in after)
    for group in groups:
        assert (np.diff(salience(group, after)) <= 1e-9).all(), "the most salient come first"


@pytest.mark.parametrize("width", [0.75, 0.5, 0.01])
def test_a_slice_is_the_full_network_with_the_rest_masked(network: nn.Module, width: float):
    masked, groups = copy.deepcopy(network), [g for g in groups_of(network) if g.cut]
    for group in groups:  # what reads the units is the last place of each group
        reader = group.places[-1]
        gone = torch.tensor(reader.index[group.kept(width) :].ravel())
        masked.get_parameter(reader.tensor).data.index_fill_(reader.axis, gone, 0.0)
    small = cut(copy.deepcopy(network), width)
    with torch.no_grad():
        found, wanted = small(images()), masked(images())
    # Fewer terms of the same sums: the same to the last bit but for where a kernel adds otherwise.
    assert close(found, wanted)
    left = {group.name: group.units for group in groups_of(small)}
    for group in groups:
        assert left.get(group.name, group.kept(width)) == group.kept(width)
    parts = part(groups_of(network), specs(network), width)
    sliced = taken(Tensors.pack(arrays(network)), parts).unpack()
    assert sliced.keys() == small.state_dict().keys()
    for name, tensor in small.state_dict().items():
        assert np.array_equal(sliced[name], tensor.numpy()), name


def specs(module: nn.Module) -> Any:
    return Tensors.pack(arrays(module)).specs


def test_slices_lie_within_each_other(network: nn.Module):
    groups = groups_of(network)
    widths = [part(groups, specs(network), width) for width in (0.25, 0.5, 1.0)]
    for small, large in pairwise(widths):
        for name in small:
            for inner, outer in zip(small[name], large[name], strict=True):
                assert set(inner) <= set(outer)


def test_a_head_goes_whole_with_its_query_key_and_value():
    groups = {g.name: g for g in groups_of(named("timm:test_vit/7")())}
    heads = groups["blocks.0.attn.heads"]
    rows = part([heads], [("blocks.0.attn.qkv.weight", (192, 64), "")], 0.5)
    expected = np.concatenate([np.arange(at, at + 32) for at in (0, 64, 128)])
    assert np.array_equal(rows["blocks.0.attn.qkv.weight"][0], expected)


def test_salience_is_the_published_norm():
    """L1 over a channel's rows of query and key; RaFFM's mean of both is half of it."""
    groups = {g.name: g for g in groups_of(named("timm:test_vit/7")())}
    weight = np.arange(192 * 64, dtype=np.float32).reshape(192, 64) % 7 - 3
    tensors = {"blocks.0.attn.qkv.weight": weight, "blocks.0.attn.qkv.bias": weight[:, 0]}
    found = salience(groups["blocks.0.attn.qk.1"], tensors)
    by_hand = np.abs(weight[32:64]).sum(1) + np.abs(weight[96:128]).sum(1)
    np.testing.assert_allclose(found, by_hand)


def test_equally_salient_units_stay_in_order():
    first = groups_of(named("cnn-small")())[0]
    tensors = {"0.weight": np.ones((32, 3, 3, 3)), "3.weight": np.ones((64, 32, 3, 3))}
    marked = {**tensors, "0.bias": np.arange(32.0)}
    assert np.array_equal(by_salience([first], marked)["0.bias"], np.arange(32.0))


def test_sizes_of_a_vision_transformer():
    """ViT-Ti for 28 pixels: p d + d + d + T d + L (...) + 2 d + C (d + 1), by hand."""

    def by_hand(heads: int, hidden: int) -> int:
        d, p, tokens, layers, size = 192, 16, 50, 12, 64
        block = 4 * d + 3 * heads * size * (d + 1) + heads * size * d + d
        block += hidden * (d + 1) + hidden * d + d
        return p * d + d + d + tokens * d + layers * block + 2 * d + 10 * (d + 1)

    for name, heads, hidden in (("", 3, 768), ("@0.5", 2, 384), ("@0.25", 1, 192)):
        with torch.device("meta"):
            made = build(
                f"timm:vit_tiny_patch16_224/4{name}", classes=10, channels=1, image_size=28
            )
        assert sum(p.numel() for p in made.parameters()) == by_hand(heads, hidden)


def test_a_name_carries_a_width():
    assert at_width("timm:test_vit/4", 0.25) == "timm:test_vit/4@0.25"
    assert name_and_width("timm:test_vit/4@0.25") == ("timm:test_vit/4", 0.25)
    assert at_width("cnn-small", 1.0) == "cnn-small"
    assert name_and_width("cnn-small") == ("cnn-small", 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cnn-small@2", "'2' is no width"),
        ("cnn-small@half", "'half' is no width"),
        ("efficientnet_b0@0.5", "no units that could be left out"),
        ("resnet8x4-gn@0.5", "no units that could be left out"),
        ("timm:test_vit/0", "'0' is no size of patches"),
        ("timm:test_vit/5", "divisible by patch size"),
        ("timm:test_resnet/4", "no patches whose size"),
        ("open_clip:ViT-S-31", "near: ViT-S-32"),
    ],
)
def test_what_cannot_be_cut_is_refused(name: str, message: str):
    with pytest.raises(ModelError, match=message):
        build(name, classes=4, channels=3, image_size=IMAGE)


def test_an_image_tower_of_open_clip_is_a_model():
    with torch.device("meta"):
        whole, half = (
            build(f"open_clip:ViT-S-32{width}", classes=4, channels=1, image_size=64)
            for width in ("", "@0.5")
        )
    sizes = [sum(p.numel() for p in made.parameters()) for made in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_small_network_learns():
    """The cut attention of open_clip passes gradients to all that it kept."""
    small = cut(clip_tower(), 0.5)
    small(torch.randn(2, 3, IMAGE, IMAGE)).sum().backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None, name
