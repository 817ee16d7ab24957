"""Models by name."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from common import extensions
from common.errors import ModelError
from common.models.cnn import cnn, cnn_5x5
from common.models.resnet import resnet
from common.models.small_stem import small_stem
from common.models.widths import cut, name_and_width

Builder = Callable[[int, int, int], nn.Module]
_WIDE = (32, 64, 128, 256)


def _resnet(depth: int, norm: str) -> Builder:
    return lambda classes, channels, _: resnet(classes, channels, depth, _WIDE, norm)


MODELS: dict[str, Builder] = {
    # Digits of 8x8 pixels.
    "cnn-tiny": partial(cnn, widths=(16, 32), activation=nn.ELU),
    # The published network for Fashion-MNIST: 50,186 parameters for 10 classes.
    "cnn-small": partial(cnn, widths=(32, 64), activation=nn.ELU),
    "cnn-wide": partial(cnn, widths=(64, 128, 256), activation=nn.ELU),
    # PFLlib's for images of 28 pixels and more.
    "cnn-5x5": cnn_5x5,
    "resnet8x4": _resnet(8, "batch"),
    "resnet8x4-gn": _resnet(8, "group"),
    "resnet32x4": _resnet(32, "batch"),
    # torchvision's, with stems for 28 to 64 pixels; "torchvision:NAME" has the ImageNet stem.
    "mobilenet_v2": small_stem("mobilenet_v2"),
    "efficientnet_b0": small_stem("efficientnet_b0"),
    "resnet18": small_stem("resnet18"),
}


_REGISTERED: dict[str, Builder] = {}


def register(name: str, builder: Builder) -> None:
    """Let the model ``name`` mean what ``builder`` makes, in this process."""
    _REGISTERED[name] = builder


def build(name: str, *, classes: int, channels: int, image_size: int, seed: int = 0) -> nn.Module:
    """A freshly initialised model.

    Parameters
    ----------
    name: one of ``known()``, or ``torchvision:NAME``, ``timm:NAME`` or ``open_clip:NAME``, the
        image tower with a new linear layer behind it. A vision transformer takes images of
        ``image_size``; ``timm:NAME/4`` has patches of 4 pixels. With ``@0.5`` behind any of them,
        it is cut to half its width (``common/models/widths.py``).
    image_size: height and width of the square input, pixels.
    seed: of the initialisation; the caller's random state is left as it was.

    Raises
    ------
    ModelError: no such model, or it cannot take such images.
    """
    if image_size < 1 or channels < 1 or classes < 2:
        raise ModelError(
            f"model {name!r}: needs images of at least 1 pixel and 1 channel and at least 2 "
            f"classes, not image_size={image_size}, channels={channels}, classes={classes}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        whole, width = name_and_width(name)
        model = cut(_create(whole, classes, channels, image_size), width)
    _try(model, name, classes, channels, image_size)
    return model


def known() -> list[str]:
    """Names of models: AugFlower's, then those of installed packages."""
    return [*MODELS, *extensions.added("models")]


def _create(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    library, _, rest = name.rpartition(":")
    if library == "torchvision":
        return _torchvision(rest, classes, channels)
    if library == "timm":
        return _timm(rest, classes, channels, image_size)
    if library == "open_clip":
        return _open_clip(rest, classes, channels, image_size)
    if name in extensions.added("models"):
        register(name, extensions.load("models", name))
    builder = MODELS.get(name) or _REGISTERED.get(name)
    if builder is None:
        near = difflib.get_close_matches(name, known(), n=3) or known()
        raise ModelError(
            f"no model is named {name!r}; near: {', '.join(near)}. Also possible: "
            "torchvision:NAME, timm:NAME and open_clip:NAME"
        )
    return builder(classes, channels, image_size)


def _try(model: nn.Module, name: str, classes: int, channels: int, image_size: int) -> None:
    """Let the model see one image now, rather than fail in the middle of a run."""
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, channels, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        raise ModelError(
            f"model {name!r} cannot take images of {channels} x {image_size} x {image_size}: "
            f"{str(error)[:200]}; choose another image-size or model"
        ) from error
    if getattr(logits, "shape", None) != (1, classes):
        raise ModelError(f"model {name!r} is no classifier of one label for each image")
    model.train(training)


def _torchvision(name: str, classes: int, channels: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ModelError(f"torchvision has no model {name!r}; near: {', '.join(near) or 'none'}")
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        _replace_stem(model, channels)
    return model


def _replace_stem(model: nn.Module, channels: int) -> None:
    """Let the first convolution take ``channels`` instead of 3 colour channels."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            parent, _, attribute = path.rpartition(".")
            stem = nn.Conv2d(
                channels,
                layer.out_channels,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                bias=layer.bias is not None,
            )
            setattr(model.get_submodule(parent), attribute, stem)
            return
    raise ModelError(
        f"{type(model).__name__} has no convolution that could take {channels} channels"
    )


def _timm(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    import timm

    plain, slash, patch = name.partition("/")
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=3)
        raise ModelError(f"timm has no model {plain!r}; near: {', '.join(near) or 'none'}")
    options: dict[str, Any] = {}
    configuration = timm.get_pretrained_cfg(plain)
    if configuration is not None and configuration.fixed_input_size:
        options["img_size"] = image_size
    if slash:
        options["patch_size"] = int(patch) if patch.isdecimal() else 0
        if not 0 < options["patch_size"] <= image_size:
            raise ModelError(
                f"model timm:{name}: {patch!r} is no size of patches; 1 to {image_size} pixels are"
            )
    try:
        model: nn.Module = timm.create_model(
            plain, num_classes=classes, in_chans=channels, **options
        )
    except TypeError as error:
        raise ModelError(f"timm's {plain} has no patches whose size could be chosen") from error
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ModelError(
            f"timm's {plain} cannot take images of {image_size} pixels: {str(error)[:200]}; choose "
            f"another image-size, or patches that fit, such as timm:{plain}/4"
        ) from error
    return model


def _open_clip(name: str, classes: int, channels: int, image_size: int) -> nn.Module:
    import open_clip

    if name not in (known := open_clip.list_models()):
        near = difflib.get_close_matches(name, known, n=3)
        raise ModelError(f"open_clip has no model {name!r}; near: {', '.join(near) or 'none'}")
    sizes = open_clip.get_model_config(name)
    tower = open_clip.model._build_vision_tower(
        sizes["embed_dim"],
        {**sizes["vision_cfg"], "image_size": image_size},
        sizes.get("quick_gelu", False),
    )
    if channels != 3:
        _replace_stem(tower, channels)
    return nn.Sequential(OrderedDict(tower=tower, head=nn.Linear(sizes["embed_dim"], classes)))
