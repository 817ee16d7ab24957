"""A device's own labelled images: a folder with one subfolder a class.

Which half an image is in, support or query, follows from its content and, in a class of few images,
from that of the others: it stays in it when images are renamed or moved between devices, and where
there are many also when some are added.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from common.config import DataSettings
from common.data.catalogue import moments
from common.data.image_files import decode, list_classes, slug
from common.data.images import Indices, LabelledImages, Pixels
from common.data.plan import ClientSplit
from common.errors import DataError

log = logging.getLogger(__name__)

FEW = 20
"""Images of a class under which its support set has exactly the share that is asked for."""


def image_hashes(folder: Path) -> list[str]:
    """Content hashes of all images of a folder, without copies, sorted.

    Raises
    ------
    DataError: no such folder, a class without images, one image in two classes, or unreadable.
    """
    return sorted(item for files in _distinct(list_classes(folder)).values() for item in files)


def load_folder_split(
    folder: Path,
    classes: Sequence[str],
    settings: DataSettings,
    only: Collection[str] | None = None,
) -> tuple[LabelledImages, ClientSplit]:
    """Read all images of a folder, now, and split each class into support and query.

    A subfolder's name is matched to the run's classes by its letters and digits alone: folder
    ``ankle-boot`` is class ``Ankle boot``. An image goes to the support set if its hash, seen as
    a fraction of 1, is under support-fraction; of a class of under ``FEW`` images, those with the
    smallest hashes do, round(support-fraction * n), so that chance does not decide what a device
    adapts on. Each half has at least one image of each class. A second copy of an image is left
    out. With test-fraction, such images are set apart first, as many as leave two of a class.
    Images of any size are cut to their largest centred square and resized to image-size.

    Parameters
    ----------
    folder: one subfolder a class; not every class of the run has to be there.
    classes: the run's, in the order of its labels.
    only: hashes of the images that count; all without it. Others may be anything.

    Raises
    ------
    DataError: no such folder, a class that the run does not know, a class without images or with
        fewer than two different ones, one image in two classes, or a file that is no image.
    """
    files = _distinct(list_classes(folder))
    if only is not None:
        files = _kept(folder, files, frozenset(only))
    numbers = _numbers(folder, list(files), classes)
    hashes: list[str] = []
    labels: list[int] = []
    pixels: list[Pixels] = []
    test: list[int] = []
    support: list[int] = []
    query: list[int] = []
    for name in sorted(files, key=lambda name: numbers[name]):
        ordered = sorted(files[name], key=lambda item: _position(item, settings.seed))
        positions = [_position(item, settings.seed) for item in ordered]
        if len(ordered) < 2:
            raise DataError(
                f"{folder / name} holds {len(ordered)} image that is not a copy; at least 2 are "
                "needed, one to adapt on and one to measure: add some, or remove the subfolder"
            )
        start, share = len(hashes), settings.test_fraction
        tested = min(_below(positions, share), len(ordered) - 2)
        test += range(start, start + tested)
        rest = [(position - share) / (1 - share) for position in positions[tested:]]
        cut = min(max(_below(rest, settings.support_fraction), 1), len(rest) - 1)
        start += tested
        support += range(start, start + cut)
        query += range(start + cut, start + len(rest))
        hashes += ordered
        labels += [numbers[name]] * len(ordered)
        pixels += [
            decode(files[name][item], settings.image_size, settings.channels) for item in ordered
        ]
    stack = np.stack(pixels)
    mean, std = moments(settings.name, settings.channels)
    images = LabelledImages(
        name=settings.name,
        classes=tuple(classes),
        labels=np.asarray(labels, np.int64),
        channels=settings.channels,
        image_size=settings.image_size,
        mean=mean,
        std=std,
        found=f"in {folder}",
        read=lambda indices: stack[indices],
    )
    log.info("%s: %d images of %d classes", folder, len(stack), len(files))
    held = tuple(sorted(numbers.values()))
    parts = (_mixed(rows, hashes) for rows in (support, query, test))
    support_rows, query_rows, test_rows = parts
    return images, ClientSplit(support_rows, query_rows, held, test_rows)


def _kept(
    folder: Path, files: dict[str, dict[str, Path]], only: frozenset[str]
) -> dict[str, dict[str, Path]]:
    kept = {
        name: {item: path for item, path in paths.items() if item in only}
        for name, paths in files.items()
    }
    left = sum(map(len, kept.values()))
    if not left:
        raise DataError(
            f"{folder} holds none of the {len(only)} images that this device began the run with: "
            "put them back, or start another run"
        )
    if left < len(only):
        log.warning("%s: %d images of this run are gone", folder, len(only) - left)
    return {name: paths for name, paths in kept.items() if paths}


def _numbers(folder: Path, names: list[str], classes: Sequence[str]) -> dict[str, int]:
    """Subfolder to label."""
    known = {slug(name): number for number, name in enumerate(classes)}
    numbers: dict[str, int] = {}
    for name in names:
        number = known.get(slug(name))
        if number is None:
            raise DataError(f"{folder / name}: {_unknown(name, classes)}")
        if number in numbers.values():
            raise DataError(
                f"{folder}: two subfolders are class {classes[number]!r}; move their images "
                "into one"
            )
        numbers[name] = number
    return numbers


def _unknown(name: str, classes: Sequence[str]) -> str:
    near = difflib.get_close_matches(slug(name), [slug(known) for known in classes], n=3)
    names = [known for known in classes if slug(known) in near]
    shown = names or list(classes[:20])
    dots = "" if names or len(classes) <= 20 else ", ..."
    return (
        f"the run has no class {name!r}; {'near' if names else 'its classes'}: "
        f"{', '.join(shown)}{dots}. Rename the subfolder, or remove it"
    )


def _distinct(found: dict[str, list[Path]]) -> dict[str, dict[str, Path]]:
    """Class to content hash to file; of several copies in a class, the first by name."""
    seen: dict[str, Path] = {}
    distinct: dict[str, dict[str, Path]] = {}
    for name, paths in found.items():
        distinct[name] = {}
        for path in paths:
            digest = _digest(path)
            if digest in distinct[name]:
                log.warning("%s is a copy of %s and is left out", path, seen[digest])
            elif digest in seen:
                raise DataError(
                    f"{path} and {seen[digest]} are the same image in two classes; remove one"
                )
            else:
                seen[digest] = distinct[name][digest] = path
    return distinct


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its rights") from error


def _position(digest: str, seed: int) -> float:
    """A content hash as a number in [0, 1), spread anew by each seed."""
    salted = hashlib.sha256(f"{seed} {digest}".encode()).digest()
    return int.from_bytes(salted[:8], "big") / 2**64


def _below(positions: Sequence[float], fraction: float) -> int:
    """How many of a class's images, by ascending position, are the first ``fraction`` of them."""
    if len(positions) < FEW:
        return int(fraction * len(positions) + 0.5)
    return sum(position < fraction for position in positions)


def _mixed(rows: list[int], hashes: list[str]) -> Indices:
    """Rows in the order of their content hash, so that classes are mixed."""
    return np.asarray(sorted(rows, key=lambda row: hashes[row]), np.int64)
