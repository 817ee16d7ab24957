"""Open R_h for a run: the server's set D_s, the private model, and the terms between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.config import RunSettings
from common.data.folder import load_folder_split
from common.data.images import LabelledImages
from common.data.load import load
from common.data.plan import plan
from common.errors import SettingsError
from common.models import FlatModel
from server_app.method import Knowledge
from server_app.private.settings import KnowledgeSettings
from server_app.public import PublicData
from server_app.settings import ServerSettings

__all__ = ["KnowledgeSettings", "open_knowledge", "server_set"]


def open_knowledge(
    options: KnowledgeSettings,
    server: ServerSettings,
    settings: RunSettings,
    public: PublicData,
    model: FlatModel,
    notice: Callable[[str], None],
) -> Knowledge:
    """The regularizer of a run.

    Raises
    ------
    SettingsError: its terms need a private model and none is named.
    DataError: there is no server set.
    ModelError: the private model cannot be used.
    """
    raise NotImplementedError


def server_set(
    settings: RunSettings, server: ServerSettings, public: PublicData
) -> tuple[LabelledImages, np.ndarray]:
    """D_s as a pool and the indices into it: the server's own folder, or its part of the plan."""
    data = settings.data
    if server.server_data:
        images, split = load_folder_split(Path(server.server_data), public.classes, data)
        return images, np.concatenate([split.support, split.query])
    if data.name == "folder":
        raise SettingsError(
            "the server has no images for R_h: set AUGFLOWER_SERVER_DATA to a folder with one "
            "subfolder for each class, or lambda to 0"
        )
    images = load(data.name, image_size=data.image_size, channels=data.channels)
    return images, plan(images.labels, data).server
