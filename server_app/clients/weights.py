"""What a client's images count for where nobody but the client knows how many they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import median_low

from common.config import DataSettings


def counted(
    images: Mapping[int, int], data: DataSettings, vouched: Collection[int] = ()
) -> dict[int, int]:
    """Images that each client counts for: at most ``data.weight-limit`` medians of all clients.

    Parameters
    ----------
    images: client -> number of images that it says it has.
    vouched: clients whose number of images the operator has bounded; they count as they say.
    """
    if data.name != "folder" or not data.weight_limit or not images:
        return dict(images)
    most = math.ceil(data.weight_limit * median_low(images.values()))
    return {c: n if c in vouched else min(n, most) for c, n in images.items()}
