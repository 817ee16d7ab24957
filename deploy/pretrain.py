"""Train the private model on the server's own images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from common.data.load import load
from common.data.plan import plan
from common.errors import DataError
from common.models.preprocessing import Preprocessing
from deploy.run_config import default_config
from server_app.app import read_settings
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
    earlier: tuple[Seen, ...] = ()
    begin: str | PretrainedModel = architecture
    if start:
        begin = load_pretrained(start, public.classes, preprocessing)
        earlier = begin.seen or (Seen(start),)
    return pretrain(
        begin, folder, pool.pixels(own), pool.labels[own],
        classes=public.classes, preprocessing=preprocessing,
        seen=(*earlier, seen), settings=options, seed=seed, replace=replace, console=console,
    )  # fmt: skip
