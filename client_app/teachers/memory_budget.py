"""Whether a teacher fits into the memory that is free."""

from __future__ import annotations

import os

from common.errors import ModelError
from common.free_memory import free_memory

MIB = 2**20
RESERVE = 192 * MIB
"""For a batch on its way through the model, and for what else the process needs."""
BATCH = 8
"""Images at once: small, because a device's memory is."""


class NotEnoughMemory(ModelError):
    """A teacher is too large for the memory that is free; the device can train without it."""


def needed(parameters: int, tuned: int = 0, kept: int = 0) -> int:
    """Bytes to load and use a teacher in float32.

    While it loads, its weights are there twice: as read and in the model. Full fine-tuning adds a
    gradient and Adam's two averages of each parameter that it changes, and what a batch of images
    leaves behind for the backward pass.

    Parameters
    ----------
    parameters: of the model.
    tuned: of the part that is fine-tuned.
    kept: bytes for the backward pass of one image.
    """
    batch = BATCH * kept * 3 // 2  # on its way back, gradients take up to a half more, as measured
    return max(8 * parameters, 4 * parameters + 12 * tuned + batch) + RESERVE


def check_memory(name: str, bytes_needed: int, limit: int = 0) -> None:
    """Refuse a teacher that does not fit.

    Parameters
    ----------
    limit: bytes that the device grants; 0 for what is free. It never takes more than is free.

    Raises
    ------
    NotEnoughMemory: with both numbers, and which of the two bounds it.
    """
    free = free_memory()
    if free is None:  # not Linux: all that is installed
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    granted = bool(limit) and limit <= free
    there = limit if granted else free
    if bytes_needed > there:
        bound = "granted by memory in the teachers file" if granted else "free"
        raise NotEnoughMemory(
            f"teacher {name} needs {bytes_needed // MIB} MiB, and {there // MIB} MiB are {bound}: "
            "take a smaller one, or a cache written on a larger machine"
        )
