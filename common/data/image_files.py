"""Image files, as pixels: Pillow and NumPy alone, for processes that have no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def slug(text: str) -> str:
    """A name reduced to lower-case letters and digits, to compare names of folders and classes."""
    return re.sub(r"[\W_]+", "", text.casefold())


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


def decode(
    path: Path, size: int, channels: int, content: IO[bytes] | None = None
) -> NDArray[np.uint8]:
    """One image, uint8, shape (channels, size, size).

    It is turned as its camera says, its largest centred square is cut out, and that is resized.

    Parameters
    ----------
    content: of the file, where it is not on disk; ``path`` then only names it in errors.

    Raises
    ------
    DataError: the file is not a readable image of 8 bits a channel.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(content or path) as image:
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
