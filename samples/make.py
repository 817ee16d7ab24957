"""Write the sample images: handwritten digits that no client of the default settings holds.

``python -m samples.make`` writes ``samples/digits``; the folder has one subfolder a class, as a
device's own images do. Neither the server nor the private model has seen these images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.config import DataSettings
from common.data.images import LabelledImages
from common.data.load import load
from common.data.plan import plan

CLASSES = (3, 7)
EACH = 8


def unheld(pool: LabelledImages, settings: DataSettings) -> np.ndarray:
    """Indices of the images that neither the server nor a client holds, shape (n,), ascending."""
    parts = plan(pool.labels, settings)
    held = [parts.pretrain, parts.server]
    held += [half for client in parts.clients for half in (client.support, client.query)]
    return np.setdiff1d(np.arange(len(pool)), np.concatenate(held))


def main(folder: Path) -> None:
    """Write the first ``EACH`` such images of each of ``CLASSES``, 8 x 8 pixels, grey."""
    settings = DataSettings()
    pool = load(settings.name)
    free = unheld(pool, settings)
    for label in CLASSES:
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        chosen = free[pool.labels[free] == label][:EACH]
        for number, pixels in enumerate(pool.pixels(chosen)):
            Image.fromarray(pixels[0]).save(place / f"{number}.png")


if __name__ == "__main__":
    main(Path(__file__).parent / "digits")
