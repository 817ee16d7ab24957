"""Train the private model, or a generator, on the server's own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from common.data.load import load
from common.data.plan import plan
from common.errors import DataError, ModelError
from common.models.preprocessing import Preprocessing
from deploy.run_config import default_config
from server_app.app import read_settings
from server_app.private.generator import CARD as GENERATOR_CARD
from server_app.private.generator import pretrain_decoder, save_generator
from server_app.private.images import as_pixels
from server_app.private.pretrain import pretrain
from server_app.private.pretrained import PretrainedModel
from server_app.private.seen import Seen, shape
from server_app.private.settings import PretrainSettings
from server_app.private.sources import load_pretrained
from server_app.public_data import describe


def pretrain_model(
    folder: Path,
    overrides: Mapping[str, Any],
    architecture: str,
    options: PretrainSettings,
    *,
    start: str = "",
    seed: int = 0,
    replace: bool = False,
    images: Path | None = None,
    console: Console | None = None,
) -> PretrainedModel:
    """Train ``architecture``, or ``start`` further, and keep it in ``folder``.

    Parameters
    ----------
    overrides: public settings of the runs that the model is for; their data set and partition
        say which images are the server's own.
    start: a model to go on from, as ``load_pretrained`` takes it; its architecture stays.
    images: a folder of the server's own labelled images, instead of its part of the data set.

    Raises
    ------
    SettingsError, DataError, ModelError: see ``server_app.private.pretrain``.
    """
    own = _own_images(overrides, images)
    earlier: tuple[Seen, ...] = ()
    begin: str | PretrainedModel = architecture
    if start:
        begin = load_pretrained(start, own.classes, own.preprocessing)
        earlier = begin.seen or (Seen(start),)
    return pretrain(
        begin, folder, own.pixels, own.labels, classes=own.classes,
        preprocessing=own.preprocessing, seen=(*earlier, own.seen), settings=options, seed=seed,
        replace=replace, console=console,
    )  # fmt: skip


def pretrain_generator(
    folder: Path,
    overrides: Mapping[str, Any],
    *,
    noise: int = 64,
    epochs: int = 50,
    batch_size: int = 64,
    learning_rate: float = 0.002,
    seed: int = 0,
    replace: bool = False,
    images: Path | None = None,
) -> float:
    """Train a generator of images and keep it in ``folder``; its loss, nats an image.

    Parameters
    ----------
    overrides, images: as for ``pretrain_model``; labels do not matter.
    noise: numbers that an image is made of.

    Raises
    ------
    ModelError: ``folder`` holds a generator already, or the training diverges.
    """
    if (folder / GENERATOR_CARD).exists() and not replace:
        raise ModelError(
            f"{folder} already holds a generator; choose another folder, or ask to replace it"
        )
    own = _own_images(overrides, images)
    decoder, loss = pretrain_decoder(
        as_pixels(own.pixels), noise=noise, epochs=epochs, batch_size=batch_size,
        rate=learning_rate, seed=seed,
    )  # fmt: skip
    save_generator(folder, decoder, own.preprocessing, (own.seen,))
    return loss


class _Own(NamedTuple):
    """The server's own images, and what is known of them."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    seen: Seen


def _own_images(overrides: Mapping[str, Any], images: Path | None) -> _Own:
    settings = read_settings(default_config() | dict(overrides))[0]
    public, data = describe(settings), settings.data
    if images is not None:
        pool = load("folder", images, image_size=data.image_size, channels=data.channels)
        if pool.classes != public.classes and data.name != "folder":
            raise DataError(
                f"{images} has the classes {', '.join(pool.classes)}; the run's are "
                f"{', '.join(public.classes)}"
            )
        own = np.arange(len(pool))
        seen = Seen(str(images.absolute()), settings=shape(data))
    else:
        pool = load(data.name, image_size=data.image_size, channels=data.channels)
        own = plan(pool.labels, data, pool.owners).pretrain
        seen = Seen.of(data, pool.labels, own)
        if not len(own):
            raise DataError("there are no images to train on: raise data.pretrain-images above 0")
    preprocessing = Preprocessing(data.channels, data.image_size, public.mean, public.std)
    return _Own(pool.pixels(own), pool.labels[own], public.classes, preprocessing, seen)
