"""What is public about a run's data: class names, normalisation, digest of the partition."""

from __future__ import annotations

from dataclasses import dataclass

from common.config import RunSettings
from common.data.catalogue import moments
from common.data.load import load
from common.data.plan import plan
from common.errors import SettingsError


@dataclass(frozen=True)
class PublicData:
    """Facts that devices know as well.

    Attributes
    ----------
    classes: names, in the order of the labels.
    mean, std: per channel, of pixels in [0, 1].
    digest: of the partition; empty where devices bring their own images.
    client_images: numbers of support, query and test images of each client of the partition.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    client_images: tuple[tuple[int, int, int], ...] = ()


def describe(settings: RunSettings) -> PublicData:
    """The public facts of the run's data set.

    Raises
    ------
    SettingsError: the devices bring their own images and the classes are not named.
    DataError: the data set cannot be found or does not suffice for the partition.
    """
    data = settings.data
    mean, std = moments(data.name, data.channels)
    if data.name == "folder":
        classes = data.classes
        if len(classes) < 2:
            raise SettingsError(
                "data.name='folder' needs data.class-names, such as 'cat,dog': the subfolders "
                "that devices sort their images into"
            )
        return PublicData(classes, mean, std)
    images = load(data.name, image_size=data.image_size, channels=data.channels)
    shared = plan(images.labels, data, images.owners)
    client_images = tuple((len(c.support), len(c.query), len(c.test)) for c in shared.clients)
    return PublicData(images.classes, mean, std, shared.digest(), client_images)
