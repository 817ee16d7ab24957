"""Train a small CLIP model of one's own: an image tower and a text tower, on labelled images.

    augflower train-teacher teachers/vit --data fashion-mnist --backbone vit

It stands in for a public CLIP model where none can be downloaded, in tests and in benchmarks. It
has seen the data set's own classes and a few hundred sentences made from their names, and nothing
else of the world: what it knows zero-shot is not what ViT-B-32 knows.

Captions are prompts with a class name, a new one for each class in each step. Images and sentences
of the same class belong together, however many of them are in a batch (UniCL, Yang et al., 2022,
equation (3)). The result is a folder
that open_clip reads as ``local-dir:FOLDER``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import typer
from rich.progress import track
from safetensors.torch import save
from torch import Generator, Tensor

from client_app.batches import epoch
from client_app.teachers.clip import Clip, preparation
from client_app.teachers.prompts import texts
from client_app.teachers.settings import TeacherSettings
from client_app.teachers.source import CONFIG, Source, describe
from client_app.teachers.weights import find_weights
from common.config import DataSettings
from common.data.crop import crop
from common.data.images import Indices, LabelledImages
from common.data.load import load
from common.data.plan import server_parts
from common.errors import DataError, SettingsError
from common.files import write_atomic, write_json

app = typer.Typer(add_completion=False)

Backbone = Literal["vit", "resnet"]

CAPTIONS = ("{}", "a {}", "an image of a {}", "a picture of the {}", "this is a {}", "one {}")
PIXELS = 32


@dataclass(frozen=True)
class Trained:
    """What the training gave.

    Attributes
    ----------
    images: number of images trained on.
    accuracy: zero-shot, with the data set's prompts, on images not trained on; from 0 to 1.
    """

    images: int
    accuracy: float


def train_teacher(
    folder: Path,
    backbone: Backbone,
    images: LabelledImages,
    learned: Indices,
    evaluated: Indices,
    *,
    epochs: int = 15,
    width: int = 64,
    seed: int = 0,
) -> Trained:
    """Train on some images of a pool and measure on others.

    Parameters
    ----------
    folder: receives open_clip_config.json and open_clip_model.safetensors.
    images: a pool in colour.
    learned, evaluated: indices into the pool.
    width: of both towers.

    Raises
    ------
    DataError: the pool is grey, or there are no images to learn from.
    SettingsError: the folder cannot be written.
    """
    if images.channels != 3 or not len(learned):
        raise DataError("a teacher learns from at least one image, in 3 channels")
    try:
        write_json(folder / CONFIG, _config(backbone, width))
    except OSError as error:
        raise SettingsError(
            f"{folder} cannot be written ({error.strerror}); name a folder for the teacher"
        ) from error
    source = describe(TeacherSettings(model=f"local-dir:{folder}"))
    pixels, labels = preparation(source)(images.pixels(learned)), images.labels[learned]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = source.create()
        _fit(model, source, pixels, torch.from_numpy(labels), images, epochs, seed)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomic(folder / "open_clip_model.safetensors", save(weights))
    return Trained(len(learned), _accuracy(source, images, evaluated))


def _config(backbone: Backbone, width: int) -> dict[str, Any]:
    towers: dict[Backbone, dict[str, Any]] = {
        "vit": {"layers": 3, "width": width, "head_width": 32, "patch_size": 4},
        "resnet": {"layers": [1, 1, 1, 1], "width": max(8, width // 4), "patch_size": None},
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": width, "heads": 2, "layers": 2}
    model = {"embed_dim": width, "vision_cfg": {"image_size": PIXELS, **towers[backbone]}}
    half = [0.5] * 3
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": {**model, "text_cfg": text}, "preprocess_cfg": preprocess}


def _fit(
    model: Any,
    source: Source,
    pixels: Tensor,
    labels: Tensor,
    images: LabelledImages,
    epochs: int,
    seed: int,
) -> None:
    import open_clip

    tokenizer = open_clip.get_tokenizer(source.model)
    sentences = texts(images.name, images.classes, CAPTIONS)
    tokens = torch.stack([tokenizer(row) for row in sentences])  # (classes, captions, context)
    every, size = torch.arange(len(sentences)), 32
    steps = epochs * math.ceil(len(labels) / size)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    dice = Generator().manual_seed(seed)
    model.train()
    for _ in track(range(epochs), "training the teacher", transient=True):
        for batch, classes in epoch(pixels, labels, size, dice):
            optimizer.zero_grad()
            seen = model.encode_image(crop(batch, "crop", dice, "reflect"), normalize=True)
            captions = torch.randint(len(CAPTIONS), (len(sentences),), generator=dice)
            said = model.encode_text(tokens[every, captions], normalize=True)
            scores = model.logit_scale.exp() * seen @ said.T
            together = (classes.view(-1, 1) == every.view(1, -1)).float()
            torch.autograd.backward(_contrast(scores, together) + _contrast(scores.T, together.T))
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
    model.eval()


def _contrast(scores: Tensor, together: Tensor) -> Tensor:
    """Cross-entropy to the uniform distribution over all partners; those without are left out."""
    partners = together.sum(1)
    goal = together / partners.clamp(min=1).view(-1, 1)
    each = -(goal * F.log_softmax(scores, 1)).sum(1)
    return each.sum() / (partners > 0).sum()


def _accuracy(source: Source, images: LabelledImages, chosen: Indices) -> float:
    clip = Clip(source, find_weights(source))
    classifier = clip.classifier(texts(images.name, images.classes))
    answers = (clip.embed(images.pixels(chosen)) @ classifier.T).argmax(1)
    return float((answers == torch.from_numpy(images.labels[chosen])).float().mean())


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="Receives the model.")],
    data: Annotated[str, typer.Option(help="Name of the data set.")] = "fashion-mnist",
    backbone: Annotated[str, typer.Option(help="vit or resnet.")] = "vit",
    images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 3000,
    epochs: Annotated[int, typer.Option(min=1)] = 15,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train a small CLIP model, to be used as a teacher where none can be downloaded."""
    if backbone not in ("vit", "resnet"):
        raise typer.BadParameter(f"{backbone!r}: choose vit or resnet")
    kind: Backbone = "vit" if backbone == "vit" else "resnet"
    pool = load(data, channels=3)
    learned, _, others = server_parts(pool.labels, DataSettings(name=data, pretrain_images=images))
    done = train_teacher(folder, kind, pool, learned, others[:2000], epochs=epochs, seed=seed)
    print(
        f"{folder}: trained on {done.images} images, {100 * done.accuracy:.1f} % zero-shot on "
        f"others. Name it in a teachers file as model = 'local-dir:{folder.absolute()}'"
    )


if __name__ == "__main__":
    app()
