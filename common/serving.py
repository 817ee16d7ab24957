"""What a device keeps for ``augflower serve``: names of files, and images to evaluate models by."""

from __future__ import annotations

import io
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from common.files import OWN, write_atomic

CARD = "augflower"
"""Entry of an exported file's metadata that holds the card."""
FOLDER, MODEL, IMAGES = "serving", "model.safetensors", "images.npz"
"""In a device's state folder; in it the newest model, and images that it never trained on."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels, shape (n, c, h, w), and classes, shape (n,)."""


def save_images(path: Path, images: Labelled) -> None:
    """Write labelled images, for their owner alone; the same content leaves the file as it is."""
    file = io.BytesIO()
    np.savez_compressed(file, pixels=images[0], labels=images[1])
    old = load_images(path)
    if old is None or not (np.array_equal(old[0], images[0]) and np.array_equal(old[1], images[1])):
        write_atomic(path, file.getvalue(), OWN)


def load_images(path: Path) -> Labelled | None:
    """What ``save_images`` wrote; nothing where there is no such file, or a damaged one."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return found["pixels"], found["labels"]
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
