"""Memory and disk that are free, against what a run needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from common.free_memory import free_memory, meminfo
from deploy.doctor.finding import Finding, error, ok, skipped, warning
from deploy.doctor.folders import nearest

MIB = 2**20
# Measured with flwr 1.39 and torch, resident: a SuperNode, and the process of one message.
NODE, MESSAGE = 135 * MIB, 390 * MIB
# Flower's process of a message peaks at 5.5 times the payload, float32.
PAYLOADS = 5.5
# Free disk without any model: apps and logs of a device, runs and the database of the server.
DEVICE_DISK, SERVER_DISK = 500 * MIB, 2000 * MIB
# A node remembers up to two vectors of a model's size (AugFL's duals), old and new while the file
# is replaced.
VECTORS = 4


def memory_needed(parameters: int = 0, private: int = 0) -> int:
    """Bytes that a node needs while it trains, or a server while it loads its private model.

    A teacher is weighed apart, by ``check_teachers``: a node goes on without one that is too large.

    Parameters
    ----------
    parameters: of the client models.
    private: bytes of the private model's weights, which are there twice while they are loaded: as
        read and in the model.
    """
    return int(NODE + MESSAGE + 4 * PAYLOADS * parameters + 2 * private)


def disk_needed(parameters: int = 0) -> int:
    """Bytes that a node needs on disk for client models of so many parameters."""
    return DEVICE_DISK + 4 * VECTORS * parameters


def check_memory(needed: int, root: Path = Path("/")) -> Finding:
    """Free memory, within the container's limit if there is one, against ``needed`` bytes."""
    free = free_memory(root)
    if free is None:
        return skipped("memory", "this system does not say how much memory is free")
    text = f"{free / MIB:.0f} MiB free, {needed / MIB:.0f} MiB needed"
    if free >= needed:
        return ok("memory", text)
    swap = meminfo(root).get("SwapFree", 0)
    remedy = "stop other programs, choose a smaller model, or raise the container's memory limit"
    if free + swap >= needed:
        return warning("memory", f"{text}; the rest would be swapped, which is slow", remedy)
    return error("memory", text, f"{remedy}; swap keeps a small board from failing")


def check_disk(folder: Path, needed: int = DEVICE_DISK) -> Finding:
    """Free disk space under ``folder``, or its nearest existing parent, against ``needed``."""
    place = nearest(folder)
    free = shutil.disk_usage(place).free
    text = f"{free / MIB:.0f} MiB free at {place}, {needed / MIB:.0f} MiB needed"
    if free >= needed:
        return ok("disk", text)
    return error(
        "disk", text, "delete old runs, and old apps in $FLWR_HOME/apps, which Flower never cleans"
    )
