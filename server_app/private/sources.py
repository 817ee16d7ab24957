"""The private model from wherever it is: a folder, a library's published weights, a checkpoint.

pm/                                      a folder that ``augflower pretrain`` has written
torchvision:resnet18[/IMAGENET1K_V1]     published weights, the library's best if none is named
timm:resnet18.a1_in1k
open_clip:ViT-B-32/laion2b_s34b_b79k     a zero-shot classifier of the data set's class names
NAME@FILE                                an architecture by name and its weights in a file
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common.errors import ModelError
from common.models import MODELS, parts
from server_app.private.architectures import (
    OPEN_CLIP,
    build_architecture,
)
from server_app.private.preprocessing import Preprocessing
from server_app.private.pretrained import PretrainedModel
from server_app.private.published import published, recipe
from server_app.private.published_clip import zero_shot
from server_app.private.weights import load_weights, read_weights

_LIBRARIES = ("torchvision:", "timm:", OPEN_CLIP)


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
    if name.startswith(OPEN_CLIP):
        path = _file(name, file) if at else None
        return zero_shot(name.removeprefix(OPEN_CLIP), path, tuple(classes))
    if name in MODELS or name.startswith(_LIBRARIES):
        if at:
            return _from_file(name, _file(name, file), tuple(classes), preprocessing)
        if name in MODELS:
            raise ModelError(
                f"{name} is an architecture without published weights: train it with "
                f"`augflower pretrain`, or give its weights as {name}@FILE"
            )
        return published(name)
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


def _from_file(
    name: str, path: Path, classes: tuple[str, ...], preprocessing: Preprocessing
) -> PretrainedModel:
    """A named architecture with weights of a file; its outputs are as many as the file has."""
    weights = read_weights(path)
    if name in MODELS:
        named: tuple[str, ...] = ()
        wanted = preprocessing
    else:
        named, wanted = recipe(name)
    name = name.partition("/")[0]
    outputs = _outputs(name, weights, wanted, path)
    module = build_architecture(name, outputs, wanted)
    load_weights(module, weights, str(path))
    known = next((given for given in (named, classes) if len(given) == outputs), ())
    return PretrainedModel(name, module, known, wanted)


def _outputs(name: str, weights: dict[str, Tensor], wanted: Preprocessing, path: Path) -> int:
    head = parts.head_path(build_architecture(name, 2, wanted)) + ".weight"
    found = {n.removeprefix("module."): tensor for n, tensor in weights.items()}.get(head)
    if found is None or found.ndim != 2:
        raise ModelError(f"{path} holds no weights of {name}: {head} is missing")
    return len(found)
