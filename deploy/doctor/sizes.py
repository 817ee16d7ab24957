"""Models against the machine: how large the models of a run are, without taking memory for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from common.errors import ModelError
from deploy.doctor.finding import Finding, error, ok, skipped

VARIABLE = "AUGFLOWER_PRIVATE_MODEL"
# Sizes of some models depend on these; the larger end of what runs on small devices.
CLASSES, CHANNELS, SMALL, LARGE = 10, 3, 64, 224


def parameters_of(model: str) -> int:
    """Number of a client model's parameters.

    Parameters
    ----------
    model: its name, as a run has it, or the number itself.

    Raises
    ------
    ModelError: no such model, or its library is not here.
    """
    if model.isdecimal():
        return int(model)
    # Imported late: the doctor examines machines without torch as well.
    try:
        import torch

        from common.task import Task

        with torch.device("meta"):
            size = LARGE if ":" in model else SMALL
            built = Task(model, CLASSES, CHANNELS, size).build()
    except ImportError as problem:
        raise ModelError(f"{model} cannot be built here ({problem}): give its size") from None
    return sum(parameter.numel() for parameter in built.parameters())


def weigh_models(model: str, own: str = "") -> tuple[Finding, int]:
    """What the client models are and how many parameters they have together.

    Parameters
    ----------
    model: of the run, which a node does not know by itself; empty if nobody said.
    own: the device's own model, as method fml has; empty for none.
    """
    named = [name for name in (model, own) if name]
    if not named:
        return skipped("model", "not known here; --model NAME says what it needs"), 0
    try:
        counts = [(name, parameters_of(name)) for name in named]
    except ModelError as problem:
        return error("model", str(problem), "correct --model, or own-model in node.toml"), 0
    text = ", ".join(f"{name}: {count:,} parameters" for name, count in counts)
    return ok("model", text), sum(count for _, count in counts)


def weigh_private_model(environment: Mapping[str, str] = os.environ) -> tuple[Finding, int]:
    """Where the server's private model is, and the bytes of its weights; 0 where unknown."""
    check = "private model"
    place = environment.get(VARIABLE, "")
    if not place:
        return skipped(check, f"{VARIABLE} is not set for this call"), 0
    path = Path(place.rpartition("@")[2]).expanduser()
    if path.is_dir():
        files = [file for file in path.glob("*.safetensors") if os.access(file, os.R_OK)]
        if not files or not os.access(path / "card.json", os.R_OK):
            return error(
                check,
                f"{path} holds no model that uid {os.getuid()} can read",
                "augflower pretrain makes one; give the executor's user the right to read it",
            ), 0
    elif path.is_file():
        files = [path]
    elif ":" in place:
        return skipped(check, f"{place}: its size is known when its library has fetched it"), 0
    else:
        return error(check, f"{VARIABLE}={place}: no such folder or file", "correct it"), 0
    size = sum(file.stat().st_size for file in files)
    return ok(check, f"{path}, {size / 2**20:.1f} MiB of weights"), size
