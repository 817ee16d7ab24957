"""The model that a path means: a run's folder stands for its last model."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import client_app.methods
import common.methods
from common import registry
from common.errors import ModelError
from common.modelfile import Card
from common.newcomer import NEWCOMER, load_newcomer
from server_app.runs.record import META, read_meta


def model_file(source: Path, which: str = "last") -> Path:
    """``source`` itself, or of the folder of a run its last or best model.

    Raises
    ------
    ModelError: it is a folder without a run's models, or does not exist.
    """
    path = source / "models" / f"{which}.safetensors" if source.is_dir() else source
    if path.is_file():
        return path
    if (source / META).is_file() and not (meta := read_meta(source)).global_model:
        raise ModelError(
            f"{source} has no global model, for in {meta.method} each client has its own: take one "
            "off a device with 'augflower export --from-device FOLDER', or make one for a new "
            f"device with 'augflower adapt {source} IMAGES'"
        )
    if source.is_dir():
        raise ModelError(
            f"{source} holds no models/{which}.safetensors, which a run writes at its end: name "
            "the folder of a finished run, or a model file such as "
            "runs/NAME/models/best.safetensors"
        )
    raise ModelError(
        f"{source} is not a file: name the folder of a run, a model such as "
        "runs/NAME/models/last.safetensors, or what 'augflower export' wrote"
    )


def newcomer(run: Path) -> tuple[object, Card, ModuleType] | None:
    """What a run sends a new client to make a model of its own, and the method's device half.

    Nothing for anything but the folder of a finished run whose clients have such models.

    Raises
    ------
    ModelError: it is damaged, or is of another release.
    """
    path = run / NEWCOMER
    if not path.is_file():
        return None
    method = read_meta(run).method
    down, card = load_newcomer(path, registry.load(common.methods, method).Down)
    return down, card, registry.load(client_app.methods, method)
