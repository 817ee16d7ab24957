"""The private pretrained model (PM), theta_p, and the folder in which it is kept.

    card.json               architecture, classes, preprocessing, accuracy, which images it was
                            trained on, name and hash of weights
    weights-<hash>.safetensors

The weights are written first and the card last, each atomically: at any moment the folder holds
one whole model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.files import read_json, write_atomic, write_json
from common.models import build, clip, features_and_logits, parts
from common.models.preprocessing import Preprocessing
from common.models.weights import fingerprint, load_weights, read_weights, weights_bytes
from server_app.private.seen import Seen

CARD = "card.json"
_FORMAT = 1
OPEN_CLIP = "open_clip:"


@dataclass(frozen=True, eq=False)
class PretrainedModel:
    """A model that never leaves the server.

    Attributes
    ----------
    architecture: its name, as ``build_architecture`` takes it.
    module: the network, in evaluation mode, without gradients.
    classes: names, in the order of the logits; empty where nobody knows them.
    preprocessing: what its images must be.
    accuracy: on validation images, in [0, 1]; None where it was not measured.
    seen: the images that it was trained on, by training; empty where nobody knows.
    """

    architecture: str
    module: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    accuracy: float | None = None
    seen: tuple[Seen, ...] = ()

    def __post_init__(self) -> None:
        self.module.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden features (n, f) and logits (n, classes) of uint8 images (n, c, h, w)."""
        return features_and_logits(self.module, self.preprocessing(pixels))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, hexadecimal."""
        return fingerprint(self.module)

    def save(self, folder: Path) -> None:
        """Write the model's folder; an older model in it stays whole until the new one is."""
        content = weights_bytes(self.module)
        digest = hashlib.sha256(content).hexdigest()
        file = f"weights-{digest[:16]}.safetensors"
        write_atomic(folder / file, content)
        card = {
            "format": _FORMAT,
            "architecture": self.architecture,
            "outputs": parts.head(self.module).out_features,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.as_dict(),
            "accuracy": self.accuracy,
            "seen": [training.as_dict() for training in self.seen],
            "weights": file,
            "sha256": digest,
        }
        write_json(folder / CARD, card)
        for old in folder.glob("weights-*.safetensors"):
            if old.name != file:
                old.unlink()

    @classmethod
    def load(cls, folder: Path) -> PretrainedModel:
        """Read a folder that ``save`` has written.

        Raises
        ------
        ModelError: no such folder, no card, weights that are missing, torn or do not fit.
        """
        card = _read_card(folder)
        try:
            classes = tuple(map(str, card["classes"]))
            preprocessing = Preprocessing.from_dict(card["preprocessing"])
            name, path = str(card["architecture"]), folder / str(card["weights"])
            outputs = int(card["outputs"])
            accuracy = None if card["accuracy"] is None else float(card["accuracy"])
            expected = str(card["sha256"])
            # Cards of earlier releases do not tell.
            seen = tuple(Seen.from_dict(training) for training in card.get("seen", []))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / CARD}: entry {error} is missing or wrong") from error
        if not path.is_file():
            raise ModelError(f"{folder / CARD} names the weights {path.name}, which are not there")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ModelError(
                f"{path} is not the file that {CARD} describes; copy the whole folder again, "
                "or run `augflower pretrain` again"
            )
        module = build_architecture(name, outputs, preprocessing)
        load_weights(module, read_weights(path), str(folder))
        return cls(name, module, classes, preprocessing, accuracy, seen)


def _read_card(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ModelError(f"no private model in {folder}: no such folder")
    if not (folder / CARD).is_file():
        raise ModelError(
            f"{folder} holds no private model: {CARD} is missing; `augflower pretrain` writes it"
        )
    try:
        card = read_json(folder / CARD)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder / CARD} is not JSON: {error}") from error
    if not isinstance(card, dict) or card.get("format") != _FORMAT:
        raise ModelError(f"{folder / CARD} is not a card of format {_FORMAT}")
    return card


def build_architecture(
    name: str, classes: int, preprocessing: Preprocessing, seed: int = 0
) -> nn.Module:
    """A freshly initialised classifier; ``open_clip:NAME`` is one that can be zero-shot.

    Raises
    ------
    ModelError: no such architecture, or it cannot take such images.
    """
    channels, size = preprocessing.channels, preprocessing.image_size
    if not name.startswith(OPEN_CLIP):
        return build(name, classes=classes, channels=channels, image_size=size, seed=seed)
    plain = name.removeprefix(OPEN_CLIP)
    clip.check_names(plain)
    if channels != 3:
        raise ModelError(f"{name} takes 3 channels, not {channels}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers = clip.create(plain, image_size=size)
        return clip.ClipClassifier(towers.visual, clip.width(plain), classes)
