"""A generator of images that stays at the server: ``augflower pretrain --generator``'s, or any.

generator/         a folder that ``augflower pretrain --generator`` has written: a small decoder,
                   the half of a variational autoencoder that makes images
generator.pt       a TorchScript module of the user's own, such as a StyleGAN's, with methods
                   ``mapping(noise)`` -> latents (n, l) and ``synthesis(latents)`` -> images
                   (n, channels, h, w) from 0 to 1, and an attribute ``noise``: numbers that
                   ``mapping`` takes

Neither it nor its path is part of any message. What is sent are images and latents, and only as a
method says.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import ModelError
from common.files import read_json, write_atomic, write_json
from common.models.preprocessing import Preprocessing
from common.models.state import load_state, state_of
from common.tensorfile import dump, parse
from server_app.private.seen import Seen

CARD = "generator.json"
_WEIGHTS = "generator.safetensors"
_FORMAT = 1
_WIDTH = 32


class Decoder(nn.Module):
    """From normal noise (n, noise), which is its own latent, to images from 0 to 1."""

    def __init__(self, noise: int, channels: int, image_size: int, width: int = _WIDTH) -> None:
        super().__init__()
        self.noise, self.size, self.start = noise, image_size, -(-image_size // 4)
        self.width = width
        self.first = nn.Linear(noise, 2 * width * self.start**2)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def mapping(self, noise: Tensor) -> Tensor:
        """The latents of noise: noise."""
        return noise

    def logits(self, latents: Tensor) -> Tensor:
        """Images before the sigmoid."""
        start: Tensor = self.first(latents)
        grown: Tensor = self.layers(start.view(-1, 2 * self.width, self.start, self.start))
        return grown[..., : self.size, : self.size]

    def synthesis(self, latents: Tensor) -> Tensor:
        """Images from 0 to 1."""
        return self.logits(latents).sigmoid()


@dataclass(frozen=True, eq=False)
class ImageGenerator:
    """A generator, and what images of a run must be.

    Attributes
    ----------
    module: with ``noise``, ``mapping`` and ``synthesis``.
    preprocessing: of the run's images.
    seen: the images that it was trained on; empty where nobody knows.
    """

    module: Any
    preprocessing: Preprocessing
    seen: tuple[Seen, ...] = ()

    @property
    def noise(self) -> int:
        """Numbers that it takes."""
        return int(self.module.noise)

    @torch.no_grad()
    def latents(self, noise: Tensor) -> Tensor:
        """Shape (n, l), of normal noise (n, noise)."""
        found: Tensor = self.module.mapping(noise)
        return found

    @torch.no_grad()
    def images(self, latents: Tensor) -> Tensor:
        """Images (n, channels, size, size) as the clients' models take theirs."""
        made: Tensor = self.module.synthesis(latents)
        return self.preprocessing((255 * made.clamp(0, 1)).round().to(torch.uint8))


def save_generator(
    folder: Path, decoder: Decoder, preprocessing: Preprocessing, seen: tuple[Seen, ...] = ()
) -> None:
    """Write a generator's folder: weights first and the card last, each atomically."""
    content = dump({"generator": state_of(decoder)}, {})
    write_atomic(folder / _WEIGHTS, content)
    card = {
        "format": _FORMAT, "noise": decoder.noise, "width": decoder.width,
        "preprocessing": preprocessing.as_dict(), "seen": [one.as_dict() for one in seen],
        "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    write_json(folder / CARD, card)


def load_generator(source: Path, preprocessing: Preprocessing) -> ImageGenerator:
    """A folder that ``save_generator`` has written, or a TorchScript file of the user's own.

    Raises
    ------
    ModelError: there is none, it is torn, or it makes no such images.
    """
    if source.is_dir():
        found = _from_folder(source, preprocessing)
    elif source.is_file():
        found = _from_script(source, preprocessing)
    else:
        raise ModelError(
            f"no generator in {source} (AUGFLOWER_GENERATOR): neither a folder that `augflower "
            "pretrain --generator` has written nor a TorchScript file"
        )
    _try(found, str(source))
    return found


def _from_folder(folder: Path, preprocessing: Preprocessing) -> ImageGenerator:
    try:
        card = read_json(folder / CARD)
        content = (folder / _WEIGHTS).read_bytes()
        own = Preprocessing.from_dict(card["preprocessing"])
        decoder = Decoder(int(card["noise"]), own.channels, own.image_size, int(card["width"]))
        seen = tuple(Seen.from_dict(one) for one in card["seen"])
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise ModelError(f"{folder / _WEIGHTS} is not the file that {CARD} describes")
        load_state(decoder, parse(content, str(folder))[0]["generator"])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{folder} holds no whole generator ({error}); `augflower pretrain --generator` writes "
            "one"
        ) from error
    return ImageGenerator(decoder.eval().requires_grad_(False), preprocessing, seen)


def _from_script(path: Path, preprocessing: Preprocessing) -> ImageGenerator:
    try:
        module: Any = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise ModelError(
            f"{path} is no TorchScript file: save a generator with torch.jit.script(...).save(...)"
        ) from error
    return ImageGenerator(module.eval(), preprocessing)


def _try(generator: ImageGenerator, where: str) -> None:
    """One image now, rather than a failure in the middle of a run."""
    try:
        latents = generator.latents(torch.zeros(2, generator.noise))
        raw = generator.module.synthesis(latents)
        generator.images(latents)
    except (AttributeError, RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"{where} cannot generate: {str(error)[:200]}; a generator has mapping(noise), "
            "synthesis(latents) and noise"
        ) from error
    if latents.ndim != 2 or raw.ndim != 4 or not 0 <= raw.min() <= raw.max() <= 1:
        raise ModelError(
            f"{where}: latents must have the shape (n, l) and images (n, channels, h, w), from 0 "
            f"to 1, not {tuple(latents.shape)} and {tuple(raw.shape)}, {float(raw.min()):g} to "
            f"{float(raw.max()):g}"
        )


class _Autoencoder(nn.Module):
    def __init__(self, decoder: Decoder, channels: int) -> None:
        super().__init__()
        self.decoder, width, noise = decoder, decoder.width, decoder.noise
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(2 * width * decoder.start**2, 2 * noise),
        )  # fmt: skip


def pretrain_decoder(
    pixels: Tensor, *, noise: int, epochs: int, batch_size: int, rate: float, seed: int
) -> tuple[Decoder, float]:
    """A decoder for such images, and its loss at the end, nats an image.

    A variational autoencoder (Kingma and Welling, 2014): cross-entropy of the pixels plus the
    divergence of the code from a normal one, by Adam.

    Parameters
    ----------
    pixels: uint8, shape (n, c, size, size).

    Raises
    ------
    ModelError: it diverges.
    """
    images = pixels.float() / 255
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = Decoder(noise, images.shape[1], images.shape[-1])
        both = _Autoencoder(decoder, images.shape[1])
        adam, last = torch.optim.Adam(both.parameters(), rate), 0.0
        for _ in range(epochs):
            total = 0.0
            for chosen in torch.randperm(len(images)).split(batch_size):
                shown = images[chosen]
                mean, spread = both.encoder(shown).chunk(2, 1)
                code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
                loss = (
                    F.binary_cross_entropy_with_logits(decoder.logits(code), shown, reduction="sum")
                    + 0.5 * (mean.square() + spread.exp() - spread - 1).sum()
                )
                adam.zero_grad()
                torch.autograd.backward(loss / len(chosen))
                adam.step()
                total += float(loss.detach())
            last = total / len(images)
            if not np.isfinite(last):
                raise ModelError(f"the generator diverged; lower the learning rate, now {rate:g}")
    return decoder.eval().requires_grad_(False), last
