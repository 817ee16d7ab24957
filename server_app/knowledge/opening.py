"""Open R_h for a run: the server's set D_s, the private model, and the terms between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median_low

import numpy as np

from common.config import DataSettings, RunSettings
from common.data.folder import load_folder_split
from common.data.image_files import decode, list_all_images, list_images
from common.data.images import Indices, Pixels
from common.data.load import load
from common.data.plan import plan
from common.errors import DataError, SettingsError
from common.models import FlatModel
from common.models.preprocessing import Preprocessing
from server_app.knowledge.build import build_regularizer
from server_app.knowledge.settings import KnowledgeSettings
from server_app.knowledge.terms.tasks import TaskShape
from server_app.method import Knowledge
from server_app.private.generator import ImageGenerator, load_generator
from server_app.private.pretrained import PretrainedModel
from server_app.private.seen import Seen, check_fits, check_unseen
from server_app.private.sources import load_pretrained
from server_app.public_data import PublicData
from server_app.settings import ServerSettings

__all__ = ["KnowledgeSettings", "open_generator", "open_knowledge", "server_set"]


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
        images of the run's clients, or of the server's set, or was trained for another task.
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
        check_fits(pretrained.seen, pretrained.classes, settings.data, public.classes)
        _check_disjoint(pretrained.seen, settings, server, notice, "private model")
    pixels, labels = server_set(options, settings, server, public)
    if not len(pixels):
        raise SettingsError("R_h needs images of the server: raise data.server-images above 0")
    notice(f"R_h on {len(pixels)} images of the server")
    if labels is None and options.cross_entropy:
        notice(
            "without labels of the server's images, R_h has no cross-entropy; knowledge.kl and "
            "knowledge.tasks learn from the private model's answers instead"
        )
    center = model.vector.clone() if options.squared_distance else None
    data = settings.data
    tasks = TaskShape(_task_classes(data), data.support_fraction, rate)
    return build_regularizer(
        options, model, pixels, labels, pretrained, settings.seed,
        classes=public.classes, preprocessing=preprocessing, cache=server.cache, center=center,
        tasks=tasks,
    )  # fmt: skip


def open_generator(
    server: ServerSettings,
    settings: RunSettings,
    public: PublicData,
    notice: Callable[[str], None],
) -> ImageGenerator:
    """The generator of a run.

    Raises
    ------
    SettingsError: none is named, or the one that is has seen images of the run's clients.
    ModelError: it cannot be used.
    """
    if not server.generator:
        raise SettingsError(
            f"method {settings.method} needs a generator of images: name it in the server's "
            "environment as AUGFLOWER_GENERATOR (augflower pretrain --generator makes one)"
        )
    data = settings.data
    preprocessing = Preprocessing(data.channels, data.image_size, public.mean, public.std)
    generator = load_generator(Path(server.generator).expanduser(), preprocessing)
    _check_disjoint(generator.seen, settings, server, notice, "generator")
    return generator


def _task_classes(data: DataSettings) -> int:
    """Classes of a task: as many as sources have at the median, two at least.

    Of devices' own images the server knows no more than ``data.classes-per-client`` says.
    """
    if data.name == "folder":
        return data.classes_per_client
    images = load(data.name, image_size=data.image_size, channels=data.channels)
    parts = plan(images.labels, data, images.owners)
    return max(2, median_low(len(parts.clients[source].classes) for source in parts.sources))


def _check_disjoint(
    seen: Sequence[Seen],
    settings: RunSettings,
    server: ServerSettings,
    notice: Callable[[str], None],
    what: str,
) -> None:
    data = settings.data
    if data.name == "folder":  # devices bring images of their own, which the server cannot know
        return
    images = load(data.name, image_size=data.image_size, channels=data.channels)
    parts = plan(images.labels, data, images.owners)
    if not check_unseen(seen, data, images.labels, parts, not server.server_data, what):
        notice(
            f"nobody knows which images the {what} was trained on; if the clients' are among "
            "them, the results will look better than they are"
        )


def server_set(
    options: KnowledgeSettings, settings: RunSettings, server: ServerSettings, public: PublicData
) -> tuple[Pixels, Indices | None]:
    """D_s, from the server's own folder or its part of the plan.

    Returns uint8 pixels (n, c, h, w), and labels (n,) in the order of the run's classes, or None
    without ``knowledge.labelled``. Then it does not matter what the folder's subfolders are named,
    or whether there are any.
    """
    data = settings.data
    if server.server_data and not options.labelled:
        return _unlabelled(Path(server.server_data), data.image_size, data.channels), None
    if server.server_data:
        folder = Path(server.server_data)
        if folder.is_dir() and list_images(folder):
            raise SettingsError(
                f"{folder} holds images in no class: sort them into one subfolder for each class, "
                "or set knowledge.labelled=false, which takes all images as they are"
            )
        images, split = load_folder_split(folder, public.classes, data)
        indices = np.concatenate([split.support, split.query])
        return images.pixels(indices), images.labels[indices]
    if data.name == "folder":
        raise SettingsError(
            "the server has no images for R_h: set AUGFLOWER_SERVER_DATA to a folder with one "
            "subfolder for each class, or lambda to 0"
        )
    images = load(data.name, image_size=data.image_size, channels=data.channels)
    indices = plan(images.labels, data, images.owners).server
    return images.pixels(indices), images.labels[indices] if options.labelled else None


def _unlabelled(folder: Path, size: int, channels: int) -> Pixels:
    """All images in ``folder`` and in the folders within, in the order of their paths."""
    if not folder.is_dir():
        raise DataError(f"{folder} (AUGFLOWER_SERVER_DATA) is not a folder")
    paths = list_all_images(folder)
    if not paths:
        raise DataError(f"{folder} (AUGFLOWER_SERVER_DATA) holds no images")
    return np.stack([decode(path, size, channels) for path in paths])
