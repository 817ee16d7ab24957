"""Body and head of every kind of network that can be named."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from common.errors import ModelError
from common.models import MODELS, FlatModel, build, features_and_logits, parts

SMALLEST = {
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "swin_t", "swin_v2_t",
    "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2",
}  # fmt: skip
OF_TIMM = (
    "resnet18", "mobilenetv3_small_050", "efficientnet_b0", "vit_tiny_patch16_224", "convnext_atto",
    "mixer_s32_224", "caformer_s18", "test_vit", "deit_tiny_patch16_224", "mobilevit_xxs",
)  # fmt: skip


def outline(library: str, name: str, classes: int = 7) -> nn.Module:
    """A network of another library with shapes and, where it can be, no numbers."""
    for device in ("meta", "cpu"):
        try:
            with torch.device(device):
                if library == "timm":
                    return timm.create_model(name, num_classes=classes)
                more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
                return models.get_model(name, weights=None, num_classes=classes, **more)
        except NotImplementedError:
            continue
    raise AssertionError(name)


def sizes(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def agree(model: nn.Module, size: int) -> None:
    """The two parts are the whole, in what they hold and in what they say."""
    model.eval()
    body, head = parts.split(model)
    assert head is parts.head(model)
    assert sizes(body) + sizes(head) == sizes(model)
    images = torch.rand(2, 3, size, size, device=head.weight.device)
    with torch.no_grad():
        features, logits = body(images), model(images)
    assert features.shape == (2, parts.feature_size(model))
    assert head(features).shape == logits.shape == (2, 7)
    if logits.device.type != "meta":
        assert torch.equal(head(features), logits)


@pytest.mark.parametrize("name", MODELS)
def test_parts_are_the_whole(name: str):
    model = build(name, classes=7, channels=3, image_size=32)
    agree(model, 32)
    names = {name for name, _ in model.named_parameters()}
    assert parts.head_names(model) | parts.body_names(model) == names
    assert not parts.head_names(model) & parts.body_names(model)
    assert len(parts.head_names(model)) == 2


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_parts_of_torchvision(name: str):
    agree(outline("torchvision", name), 299 if name == "inception_v3" else 224)


@pytest.mark.parametrize("name", OF_TIMM)
def test_parts_of_timm(name: str):
    model = outline("timm", name)
    agree(model, model.default_cfg["input_size"][-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(models.list_models(module=models)) - SMALLEST))
def test_parts_of_all_of_torchvision(name: str):
    if name.startswith("squeezenet"):
        with pytest.raises(ModelError, match="no linear layer"):
            parts.head(outline("torchvision", name))
    else:
        agree(outline("torchvision", name), 224)


def test_parts_share_the_parameters():
    model = build("resnet8x4", classes=7, channels=3, image_size=32)
    flat = FlatModel(model)
    body, head = parts.split(model)
    before = model(torch.ones(2, 3, 32, 32)).detach()
    head(body(torch.ones(2, 3, 32, 32))).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
    assert next(body.parameters()).grad.abs().sum() > 0
    flat.vector.zero_()
    assert not any(p.any() for p in [*body.parameters(), *head.parameters()])
    assert before.any()
    assert not model(torch.ones(2, 3, 32, 32)).any()


def test_a_model_is_as_it_was_after_its_split():
    model = build("mobilenet_v2", classes=7, channels=3, image_size=32)
    layers = dict(model.named_modules())
    parts.split(model)
    assert dict(model.named_modules()) == layers


def test_features_are_what_the_head_takes():
    model = build("cnn-small", classes=7, channels=1, image_size=28)
    features, logits = features_and_logits(model, torch.rand(3, 1, 28, 28))
    assert torch.equal(parts.head(model)(features), logits)
    assert features.grad_fn is not None


def test_normalisation_is_known_by_its_names():
    model = build("resnet8x4-gn", classes=7, channels=3, image_size=32)
    norms = parts.norm_names(model)
    assert {"1.weight", "1.bias"} <= norms
    assert all(p.ndim == 1 for name, p in model.named_parameters() if name in norms)
    assert not norms & parts.head_names(model)
    assert not parts.norm_names(build("cnn-small", classes=7, channels=1, image_size=28))


def test_a_head_is_replaced():
    model = build("resnet18", classes=7, channels=3, image_size=32)
    parts.replace_head(model, nn.Linear(parts.feature_size(model), 4))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)


def test_what_has_no_such_parts_is_refused():
    with pytest.raises(ModelError, match="no linear layer"):
        parts.split(nn.Sequential(nn.Conv2d(3, 7, 1), nn.Flatten()))
    with pytest.raises(ModelError, match="not one classifier"):
        parts.head(outline("timm", "deit_tiny_distilled_patch16_224"))
    with pytest.raises(ModelError, match="no linear layer"):
        parts.head(outline("torchvision", "squeezenet1_0"))
