"""The model file that a path means: a run's folder stands for its last model."""

from __future__ import annotations

from pathlib import Path

from common.errors import ModelError


def model_file(source: Path) -> Path:
    """``source`` itself, or of the folder of a run its last model.

    Raises
    ------
    ModelError: it is a folder without a run's models, or does not exist.
    """
    path = source / "models" / "last.safetensors" if source.is_dir() else source
    if path.is_file():
        return path
    if source.is_dir():
        raise ModelError(
            f"{source} holds no models/last.safetensors, which a run writes at its end: name the "
            "folder of a finished run, or a model file such as runs/NAME/models/best.safetensors"
        )
    raise ModelError(
        f"{source} is not a file: name the folder of a run, a model such as "
        "runs/NAME/models/last.safetensors, or what 'augflower export' wrote"
    )
