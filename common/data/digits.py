"""Digits: 1,797 hand-written digits of 8x8 pixels, embedded in scikit-learn.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (test part).
"""

from __future__ import annotations

import numpy as np

from common.data.images import Raw


def read(classes: tuple[str, ...]) -> Raw:
    """The data set; its 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return Raw(
        classes, bunch.target.astype(np.int64), lambda indices: pixels[indices], "scikit-learn"
    )
