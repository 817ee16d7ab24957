"""Images that the model was unsure of, put aside for their owner to label."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from common.data.image_files import SUFFIXES, list_images
from common.files import OWN, write_atomic


@dataclass(frozen=True)
class Aside:
    """A folder for such images; nothing is kept without one.

    Attributes
    ----------
    below: probability of the likeliest class under which an image is put aside.
    most: images that the folder may hold.
    """

    folder: Path
    below: float = 0.6
    most: int = 500

    def put(self, image: bytes, probability: float) -> bool:
        """Keep an image that was answered with this probability, if it is to be kept."""
        if probability >= self.below:
            return False
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / f"{hashlib.sha256(image).hexdigest()[:16]}{_suffix(image)}"
        if path.exists() or len(list_images(self.folder)) >= self.most:
            return False
        write_atomic(path, image, OWN)
        return True


def _suffix(image: bytes) -> str:
    from PIL import Image

    with Image.open(BytesIO(image)) as opened:
        kind = f".{(opened.format or 'png').lower()}"
    return kind if kind in SUFFIXES else ".png"
