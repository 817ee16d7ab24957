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
from server_app.private.build import build_regularizer
from server_app.private.preprocessing import Preprocessing
from server_app.private.pretrained import PretrainedModel
from server_app.private.seen import check_unseen
from server_app.private.settings import KnowledgeSettings
from server_app.private.sources import load_pretrained
from server_app.private.terms.tasks import TaskShape
from server_app.public import PublicData
from server_app.settings import ServerSettings

__all__ = ["KnowledgeSettings", "open_knowledge", "server_set"]


def open_knowledge(
    options: KnowledgeSettings,
    server: ServerSettings,
    settings: RunSettings,
    public: PublicData,
    model: FlatModel,
    rate: float,
    notice: Callable[[str], None],
) -> Knowledge:
    """The regularizer of a run.

    Parameters
    ----------
    rate: of the adaptation that the model is trained for.

    Raises
    ------
    SettingsError: its terms need a private model and none is named, or the one that is has seen
        images of the run's clients, or of the server's set.
    DataError: there is no server set.
    ModelError: the private model cannot be used.
    """
    preprocessing = Preprocessing(
        settings.data.channels, settings.data.image_size, public.mean, public.std
    )
    pretrained: PretrainedModel | None = None
    if options.kl or options.crd or options.tasks:
        if not server.private_model:
            raise SettingsError(
                "the terms knowledge.kl, .crd and .tasks need a private model: name it in the "
                "server's environment as AUGFLOWER_PRIVATE_MODEL (augflower pretrain makes one), "
                "or set these terms, or lambda, to 0"
            )
        pretrained = load_pretrained(server.private_model, public.classes, preprocessing)
        _check_disjoint(pretrained, settings, server, notice)
    images, indices = server_set(settings, server, public)
    if not len(indices):
        raise SettingsError("R_h needs images of the server: raise data.server-images above 0")
    notice(f"R_h on {len(indices)} images of the server")
    center = model.vector.clone() if options.squared_distance else None
    data = settings.data
    tasks = TaskShape(data.classes_per_client, data.support_fraction, rate)
    return build_regularizer(
        options, model, images.pixels(indices), images.labels[indices], pretrained, settings.seed,
        classes=public.classes, preprocessing=preprocessing, cache=server.cache, center=center,
        tasks=tasks,
    )  # fmt: skip


def _check_disjoint(
    pretrained: PretrainedModel,
    settings: RunSettings,
    server: ServerSettings,
    notice: Callable[[str], None],
) -> None:
    data = settings.data
    if data.name == "folder":  # devices bring images of their own, which the server cannot know
        return
    labels = load(data.name, image_size=data.image_size, channels=data.channels).labels
    parts = plan(labels, data)
    if not check_unseen(pretrained.seen, data, labels, parts, not server.server_data):
        notice(
            "nobody knows which images the private model was trained on; if the clients' are among "
            "them, the results will look better than they are"
        )


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
