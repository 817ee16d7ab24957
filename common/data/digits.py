"""Digits: 1,797 hand-written digits of 8x8 pixels, embedded in scikit-learn.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (test part).
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from common.data.images import Raw
from common.errors import DataError


def read(classes: tuple[str, ...]) -> Raw:
    """The data set; its 17 grey levels are spread over 0 to 255.

    The file is read without importing scikit-learn, which would cost a second in every process of
    a fleet, and a device starts one for each message.
    """
    spec = find_spec("sklearn")
    path = Path(spec.origin or "").parent / "datasets/data/digits.csv.gz" if spec else None
    if path is None or not path.is_file():
        raise DataError("the digits come with scikit-learn: pip install scikit-learn")
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",")
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    return Raw(classes, labels, lambda indices: pixels[indices], "scikit-learn")
