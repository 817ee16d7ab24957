"""The local foundation model of a device that distils: its library and its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from deploy.doctor.finding import Finding, error, ok, skipped

SMALLEST = 2**20  # weights under a mebibyte are a failed download or a pointer file


def check_teacher(name: str, weights: Path | None) -> Finding:
    """Whether a configured teacher could be loaded, without loading it.

    Parameters
    ----------
    name: architecture in open_clip; empty when the device has no teacher.
    weights: file of its weights.
    """
    if not name:
        return skipped("teacher", "no teacher is configured")
    library = importlib.util.find_spec("open_clip")
    if library is None or library.origin is None:
        return error("teacher", "open_clip is not installed", "pip install open_clip_torch")
    configs = Path(library.origin).parent / "model_configs"
    known = {path.stem for path in configs.glob("*.json")}
    if known and name.replace("/", "-") not in known:
        return error(
            "teacher",
            f"open_clip has no architecture {name!r}",
            "choose one of open_clip.list_models(), such as ViT-B-32",
        )
    if weights is None:
        return error(
            "teacher",
            f"{name} has no weights file: the device would download it in the middle of a run",
            "copy the weights to the device and name the file",
        )
    if not weights.is_file():
        return error("teacher", f"{weights} does not exist", "copy the weights there")
    size = weights.stat().st_size
    if size < SMALLEST:
        return error(
            "teacher",
            f"{weights} holds {size} bytes, too few for weights",
            "copy the file again: it is a stub or a broken download",
        )
    return ok("teacher", f"{name}, {size / 2**20:.0f} MiB of weights")
