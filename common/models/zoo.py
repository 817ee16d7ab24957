"""Models by name: AugFlower's own, torchvision's, timm's and open_clip's.

Here is what those libraries call a network, how it is built for a run's images, its published
weights, and the preprocessing and classes that belong to them.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from common import extensions
from common.accelerator import CPU
from common.errors import ModelError, unknown_model
from common.models import clip
from common.models.cnn import cnn, cnn_5x5
from common.models.preprocessing import Preprocessing
from common.models.resnet import resnet
from common.models.seeded import seeded
from common.models.widths import cut, name_and_width

Builder = Callable[[int, int, int], nn.Module]
_WIDE = (32, 64, 128, 256)


_STEM = {
    "resnet18": "conv1",
    "mobilenet_v2": "features.0.0",
    "efficientnet_b0": "features.0.0",
}
_FIRST_REDUCTION = {
    "mobilenet_v2": "features.2.conv.1.0",
    "efficientnet_b0": "features.2.0.block.1.0",
}


def _small_stem(name: str) -> Builder:
    """torchvision's network ``name`` with a stem for images of 28 to 64 pixels.

    An ImageNet stem shrinks the image by 4 before the first block, so that a 32-pixel image ends
    as a single cell. Here the stem and the first reduction after it keep the size, as is usual
    for CIFAR: the network shrinks an image by 8 in all, and all behind the stem is unchanged.
    """

    def build(classes: int, channels: int, _: int) -> nn.Module:
        model = _torchvision(name, classes, 3)
        old = cast(nn.Conv2d, model.get_submodule(_STEM[name]))
        stem = nn.Conv2d(channels, old.out_channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(_STEM[name], stem)
        if name in _FIRST_REDUCTION:
            first = cast(nn.Conv2d, model.get_submodule(_FIRST_REDUCTION[name]))
            first.stride = (1, 1)
        else:
            model.set_submodule("maxpool", nn.Identity())
        return model

    return build


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
    "mobilenet_v2": _small_stem("mobilenet_v2"),
    "efficientnet_b0": _small_stem("efficientnet_b0"),
    "resnet18": _small_stem("resnet18"),
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
    seed: of the initialisation, which is the same on all devices of PyTorch; the caller's random
        state is left as it was.

    Raises
    ------
    ModelError: no such model, or it cannot take such images.
    """
    if image_size < 1 or channels < 1 or classes < 2:
        raise ModelError(
            f"model {name!r}: needs images of at least 1 pixel and 1 channel and at least 2 "
            f"classes, not image_size={image_size}, channels={channels}, classes={classes}"
        )
    whole, width = name_and_width(name)
    where = torch.get_default_device()
    with where if where.type == "meta" else CPU:
        model = seeded(lambda: cut(_create(whole, classes, channels, image_size), width), seed)
        _try(model, name, classes, channels, image_size)
    return model if where.type in ("cpu", "meta") else model.to(where)


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
        raise unknown_model(f"torchvision has no model {name!r}", name, known)
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
        raise unknown_model(f"timm has no model {plain!r}", plain, timm.list_models())
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

    clip.check_names(name)
    sizes = open_clip.get_model_config(name)
    tower = open_clip.model._build_vision_tower(
        sizes["embed_dim"],
        {**sizes["vision_cfg"], "image_size": image_size},
        sizes.get("quick_gelu", False),
    )
    if channels != 3:
        _replace_stem(tower, channels)
    return nn.Sequential(OrderedDict(tower=tower, head=nn.Linear(sizes["embed_dim"], classes)))


def is_published(name: str) -> bool:
    """Whether a name is one of torchvision or timm, whose classifiers come with weights."""
    return name.startswith(("torchvision:", "timm:"))


def recipe(name: str) -> tuple[tuple[str, ...], Preprocessing]:
    """Class names, empty where unknown, and preprocessing of published weights.

    Parameters
    ----------
    name: ``torchvision:NAME``, ``torchvision:NAME/TAG`` or ``timm:NAME[.TAG]``.

    Raises
    ------
    ModelError: no such model or tag.
    """
    library, _, rest = name.partition(":")
    if library == "torchvision":
        weights = _torchvision_weights(rest)
        how = weights.transforms()
        classes = tuple(weights.meta["categories"])
        return classes, Preprocessing(3, how.crop_size[0], tuple(how.mean), tuple(how.std))
    config = _timm_config(rest)
    channels, size, _ = config["input_size"]
    preprocessing = Preprocessing(channels, size, tuple(config["mean"]), tuple(config["std"]))
    return _timm_classes(config), preprocessing


def published_weights(name: str, otherwise: str) -> dict[str, Tensor]:
    """The tensors of published weights, from the library's cache or the network.

    Parameters
    ----------
    name: as in ``recipe``.
    otherwise: what the reader of an error can do instead of bringing the file to the cache.

    Raises
    ------
    ModelError: unknown, or neither in the cache nor within reach; says which file to bring.
    """
    library, _, rest = name.partition(":")
    # Any kind of error may come out of the network, and out of a torn file in the cache.
    if library == "torchvision":
        weights = _torchvision_weights(rest)
        place = f"{torch.hub.get_dir()}/checkpoints/{weights.url.rpartition('/')[2]}"
        bring = f"{weights.url} to {place}, or {otherwise}"
        try:
            return dict(weights.get_state_dict(progress=True, check_hash=True, weights_only=True))
        except Exception as error:
            raise _not_here(name, bring, error) from error
    import timm

    bring = f"model.safetensors from https://huggingface.co/{_timm_config(rest).get('hf_hub_id')}"
    try:
        return dict(timm.create_model(rest, pretrained=True).state_dict())
    except Exception as error:
        raise _not_here(name, f"{bring} and {otherwise}", error) from error


def _torchvision_weights(rest: str) -> Any:
    from torchvision import models

    name, _, tag = rest.partition("/")
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_model(f"torchvision has no model {name!r}", name, known)
    tags = models.get_model_weights(name)
    if tag and tag not in tags.__members__:
        names = ", ".join(tags.__members__)
        raise ModelError(f"torchvision:{name} has no weights {tag!r}; it has {names}")
    return tags[tag] if tag else tags.DEFAULT


def _timm_config(name: str) -> dict[str, Any]:
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(name):
        raise unknown_model(f"timm has no model {name!r}", base, timm.list_models())
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise unknown_model(f"timm:{base} has no weights {tag!r}", tag, tags)
    config = timm.get_pretrained_cfg(name)
    return config.to_dict() if config else {}  # type: ignore[no-untyped-call]


def _timm_classes(config: dict[str, Any]) -> tuple[str, ...]:
    from timm.data.imagenet_info import ImageNetInfo

    if config.get("label_names"):
        return tuple(config["label_names"])
    if config.get("num_classes") != 1000:
        return ()
    # The first of each class's synonyms, which is also torchvision's choice.
    return tuple(text.partition(",")[0] for text in ImageNetInfo().label_descriptions())


def _not_here(name: str, bring: str, error: Exception) -> ModelError:
    return ModelError(
        f"the weights of {name} are not here and cannot be fetched ({str(error)[:200]}). "
        f"Bring {bring}"
    )
