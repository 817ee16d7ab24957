"""A folder of labelled images: one subfolder a class, images of any size in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.images import Indices, Pixels, Raw, Reader
from common.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted by name.

    Hidden files and files that are not images by their suffix do not count.

    Raises
    ------
    DataError: no such folder, no subfolder in it, or one without an image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name one that has a subfolder for each class")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = {path.name: list_images(path) for path in inside if path.is_dir()}
    if not classes:
        raise DataError(
            f"{folder} has no subfolders; make one for each class, named after it, and put the "
            "images of the class into it"
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise DataError(
            f"{folder}: no images in {', '.join(empty)}; put images "
            f"({', '.join(SUFFIXES)}) there, or remove the subfolder"
        )
    return classes


def list_images(folder: Path) -> list[Path]:
    """The images in ``folder``, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def list_all_images(folder: Path) -> list[Path]:
    """The images in ``folder`` and in the folders within, in the order of those folders."""
    folders = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]
    return [path for place in folders for path in list_images(place)]


def decode(path: Path, size: int, channels: int) -> Pixels:
    """One image, uint8, shape (channels, size, size).

    It is turned as its camera says, its largest centred square is cut out, and that is resized.

    Raises
    ------
    DataError: the file is not a readable image of 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path} has more than 8 bits a channel; save it as 8 bits")
            turned = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error}); replace or remove it"
        ) from error
    square = ImageOps.fit(turned, (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(square, np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def reader(files: Sequence[Path], size: int, channels: int) -> Reader:
    """Pixels of files by index, decoded when they are asked for."""

    def pixels_of(indices: Indices) -> Pixels:
        pixels = np.empty((len(indices), channels, size, size), np.uint8)
        for row, index in enumerate(indices):
            pixels[row] = decode(files[index], size, channels)
        return pixels

    return pixels_of


def read(folder: Path, size: int, channels: int) -> Raw:
    """All images of a folder as one pool; the subfolders' names are the classes.

    Raises
    ------
    DataError: see ``list_classes``; a file that is no image is found when it is asked for.
    """
    classes = list_classes(folder)
    files = [path for paths in classes.values() for path in paths]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])
    return Raw(tuple(classes), labels.astype(np.int64), reader(files, size, channels), str(folder))
