"""Find a data set by name: the user's folder, then the system's, then a download.

One data set is never given for another, and the place that it was found in is always said.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data import cifar, download, embedded, idx, image_folder, own, tiny_imagenet
from common.data.catalogue import Known, known, moments
from common.data.image_files import slug
from common.data.images import LabelledImages, Raw
from common.errors import DataError

log = logging.getLogger(__name__)

VARIABLE = "AUGFLOWER_DATA"
SYSTEM = (Path("/usr/local/share/datasets"), Path("/usr/share/datasets"))
DEBIAN = {"fashion-mnist": "dataset-fashion-mnist"}


@dataclass(frozen=True)
class Place:
    """A folder to search, and how a message names it."""

    folder: Path
    words: str


def load(
    name: str,
    folder: Path | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
) -> LabelledImages:
    """Load a data set, its train and test images joined into one pool.

    Parameters
    ----------
    name: a key of ``KNOWN``, or of ``common.data.own``; ``folder`` is any folder with one subfolder
        of images a class.
    folder: where to look first; without it, the environment's ``AUGFLOWER_DATA``.
    image_size: height and width of the images given out, pixels; their own without it.
    channels: 1 or 3; the data set's own without it.

    Raises
    ------
    DataError: no such data set, it is nowhere to be found, or its files are damaged.
    """
    facts = known(name)
    if channels not in (None, 1, 3):
        raise DataError(f"images have 1 (grey) or 3 (colour) channels, not {channels}")
    size = image_size or facts.image_size
    if size is None:
        raise DataError("the images of a folder have no size in common: give image-size")
    raw, found = _find(name, facts, folder, size, channels or len(facts.mean))
    log.info("%s: %d images, %s", facts.title, len(raw.labels), found)
    mean, std = moments(name, channels or len(facts.mean))
    data = own.find(name)
    labels = np.ascontiguousarray(raw.labels, np.int64)
    labels.setflags(write=False)
    return LabelledImages(
        name, raw.classes, labels, len(mean), size, mean, std, found, raw.read,
        data.owners if data else None,
    )  # fmt: skip


def cache_folder() -> Path:
    """Where downloads are kept: ``augflower/data`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "augflower" / "data"


def _first(folder: Path | None) -> Place | None:
    """The user's own folder; named, so it must be there."""
    words = "the folder given"
    if folder is None and os.environ.get(VARIABLE):
        folder, words = Path(os.environ[VARIABLE]), VARIABLE
    if folder is None:
        return None
    if not folder.is_dir():
        raise DataError(f"{folder} ({words}) is not a folder: create it, or name another")
    return Place(folder, words)


def _find(
    name: str, facts: Known, folder: Path | None, size: int, channels: int
) -> tuple[Raw, str]:
    if name in embedded.PACKAGES:
        return embedded.read(name, facts.classes), f"embedded in {embedded.PACKAGES[name]}"
    if (data := own.find(name)) is not None:
        return data.raw, "in memory"
    first = _first(folder)
    if name == "folder":
        if first is None:
            raise DataError(f"data set 'folder' needs a folder: give one, or set {VARIABLE}")
        return image_folder.read(first.folder, size, channels), f"in {first.folder}"
    home = Place(cache_folder(), "downloaded earlier")
    places = [Place(base, "the system's") for base in SYSTEM] + [home]
    if first is not None:
        places.insert(0, first)
    for place in places:
        raw = _open(name, facts, place.folder)
        if raw is not None:
            return raw, f"found in {raw.place} ({place.words})"
        if place is first:
            log.warning("%s does not hold %s; looking further", place.folder, facts.title)
    failure = _download(facts, home.folder / name)
    raw = None if failure else _open(name, facts, home.folder)
    if raw is None:
        searched = "; ".join(f"{place.folder} ({place.words})" for place in places)
        target = (first or home).folder / name
        raise DataError(
            f"{facts.title} was not found. Searched: {searched}; download: "
            f"{failure or f'{home.folder / name} is in its way, and not complete: remove it'}.\n"
            f"Bring {facts.bring} into {target}"
            + (f", or on Debian: apt install {DEBIAN[name]}" if name in DEBIAN else "")
        )
    return raw, f"downloaded to {raw.place}"


def _open(name: str, facts: Known, base: Path) -> Raw | None:
    """The data set in ``base`` or in a subfolder that bears its name, if it is there."""
    for folder in _candidates(name, facts, base):
        raw = _read(name, facts, folder)
        if raw is not None:
            return raw
    return None


def _read(name: str, facts: Known, folder: Path) -> Raw | None:
    if name == "tiny-imagenet":
        return tiny_imagenet.read(folder)
    if name == "emnist-letters":
        return idx.read(folder, facts.classes, prefix="emnist-letters-", test="test")
    if name in ("mnist", "fashion-mnist"):
        return idx.read(folder, facts.classes)
    return cifar.read(folder, name)


def _candidates(name: str, facts: Known, base: Path) -> Iterator[Path]:
    """Folders that may hold the files.

    Fashion-MNIST's files are named like MNIST's, so files in ``base`` itself count only if its
    own name says which of them it holds.
    """
    names = [name, facts.download] if facts.download else [name]
    if slug(base.name) in map(slug, names) or name not in ("mnist", "fashion-mnist"):
        yield base
    yield from (base / part for part in names)
    if facts.download:  # as torchvision unpacks them
        yield base / facts.download / "raw"
        yield base / name / facts.download / "raw"


def _download(facts: Known, folder: Path) -> str | None:
    """Fetch a data set through torchvision into ``folder``; returns why it failed."""
    if facts.download is None:
        return "none is offered for it"
    return download.fetch(facts.download, folder)
