"""The private model from wherever it is: a folder, a library's published weights, a checkpoint.

pm/                                      a folder that ``augflower pretrain`` has written
torchvision:resnet18[/IMAGENET1K_V1]     published weights, the library's best if none is named
timm:resnet18.a1_in1k
open_clip:ViT-B-32/laion2b_s34b_b79k     a zero-shot classifier of the data set's class names
NAME@FILE                                an architecture by name and its weights in a file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from common.errors import ModelError
from common.models import MODELS, clip, parts, zoo
from common.models.preprocessing import Preprocessing
from common.models.weights import load_weights, read_weights
from server_app.private.pretrained import OPEN_CLIP, PretrainedModel, build_architecture

_PROMPTS = ("a photo of a {}.", "a low resolution photo of a {}.", "a grayscale photo of a {}.")


def load_pretrained(
    source: str | Path, classes: Sequence[str], preprocessing: Preprocessing
) -> PretrainedModel:
    """The private model that ``source`` names, see above.

    Parameters
    ----------
    classes: names of the data set's classes; a zero-shot classifier is made for these.
    preprocessing: the data set's; used where neither card nor library say better.

    Raises
    ------
    ModelError: nothing of that name, or weights that are missing, unreadable or do not fit.
    """
    text = str(source)
    if Path(text).expanduser().is_dir():
        return PretrainedModel.load(Path(text).expanduser())
    name, at, file = text.partition("@")
    path = _file(name, file) if at else None
    if name.startswith(OPEN_CLIP):
        return _zero_shot(name.removeprefix(OPEN_CLIP), path, tuple(classes))
    if zoo.is_published(name):
        named, wanted = zoo.recipe(name)
        otherwise = f"give {name.partition('/')[0]}@FILE"
        weights = read_weights(path) if path else zoo.published_weights(name, otherwise)
        return _named(name, weights, (named, classes), wanted, text)
    if name in MODELS:
        if path is None:
            raise ModelError(
                f"{name} is an architecture without published weights: train it with "
                f"`augflower pretrain`, or give its weights as {name}@FILE"
            )
        return _named(name, read_weights(path), (classes,), preprocessing, text)
    if Path(text).expanduser().is_file():
        raise ModelError(f"{text} does not say its architecture; give it as NAME@{text}")
    raise ModelError(
        f"no private model {text!r}: neither a folder nor a name. Names are {', '.join(MODELS)}, "
        "torchvision:NAME, timm:NAME and open_clip:NAME/TAG, each also as NAME@FILE"
    )


def _file(name: str, file: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ModelError(f"no checkpoint {file!r} for {name}: not a file")
    return path


def _named(
    name: str,
    weights: Mapping[str, Tensor],
    possible: Sequence[Sequence[str]],
    wanted: Preprocessing,
    where: str,
) -> PretrainedModel:
    """A named architecture with given weights; its outputs are as many as these have.

    Parameters
    ----------
    possible: class names, in the order of preference, of which those that are as many are taken.
    """
    name = name.partition("/")[0]
    head = parts.head_path(build_architecture(name, 2, wanted)) + ".weight"
    found = {n.removeprefix("module."): tensor for n, tensor in weights.items()}.get(head)
    if found is None or found.ndim != 2:
        raise ModelError(f"{where} holds no weights of {name}: {head} is missing")
    module = build_architecture(name, len(found), wanted)
    load_weights(module, weights, where)
    known = next((tuple(given) for given in possible if len(given) == len(found)), ())
    return PretrainedModel(name, module, known, wanted)


def _zero_shot(name: str, checkpoint: Path | None, classes: tuple[str, ...]) -> PretrainedModel:
    """A classifier of ``classes`` from a model with both towers.

    Parameters
    ----------
    name: ``ARCHITECTURE/TAG``, or ``ARCHITECTURE`` alone where a checkpoint is given.
    checkpoint: file with the weights of both towers.
    """
    import open_clip

    plain, _, tag = name.partition("/")
    clip.check_names(plain, tag)
    if checkpoint is None and not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(plain)) or "none"
        raise ModelError(f"{name} names no weights: give {OPEN_CLIP}{plain}/TAG, one of {tags}")
    path = checkpoint or clip.public_weights(plain, tag, f"give {OPEN_CLIP}{plain}@FILE")
    architecture = clip.with_activation(plain, tag)
    towers = clip.create(architecture)
    try:
        clip.load(towers, path)
    # The library raises whatever its readers of many formats raise.
    except Exception as error:
        raise ModelError(f"{path} holds no weights of {OPEN_CLIP}{plain}: {error}") from error
    module = clip.ClipClassifier(towers.visual, clip.width(architecture), len(classes))
    texts = [[prompt.format(name) for prompt in _PROMPTS] for name in classes]
    with torch.no_grad():
        directions = clip.text_classifier(towers, architecture, texts)
        module.head.weight.copy_(directions * towers.logit_scale.exp())
    public = open_clip.get_pretrained_cfg(plain, tag) if tag else {}
    wanted = clip.preprocessing(open_clip.get_model_config(architecture), public, {})
    mean, std = tuple(wanted["mean"]), tuple(wanted["std"])
    preprocessing = Preprocessing(len(mean), wanted["size"], mean, std)
    return PretrainedModel(OPEN_CLIP + architecture, module, classes, preprocessing)
