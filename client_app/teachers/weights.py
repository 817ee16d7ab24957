"""The weights of a teacher: where their file is, whether it is whole, and what it was last time."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from client_app.teachers.settings import HUB, LOCAL, TeacherSettings
from client_app.teachers.source import CONFIG, Source, describe
from common.errors import ModelError
from common.files import write_json
from common.models import clip

log = logging.getLogger(__name__)

BIG_VISION = (".npz", ".npy")
"""Suffixes of JAX checkpoints, which open_clip copies tensor by tensor."""


def find_weights(source: Source) -> Path:
    """The file of the weights; those of a public tag are fetched once.

    Raises
    ------
    ModelError: they are not here and cannot be fetched; the message says what to bring.
    """
    settings, model = source.settings, source.model
    otherwise = "name the file as checkpoint of this teacher"
    if settings.checkpoint:
        return Path(settings.checkpoint)
    if model.startswith(LOCAL):
        return _in_folder(Path(model.removeprefix(LOCAL)))
    if model.startswith(HUB):
        return clip.repository_weights(model.removeprefix(HUB), otherwise)
    return clip.public_weights(model, settings.pretrained, otherwise)


def check_file(source: Source, weights: Path) -> None:
    """Refuse a file that is cut off, or whose tensors are not this model's, without reading them.

    Raises
    ------
    ModelError: the message names the file and says what is wrong with it.
    """
    if damage := _damage(weights):
        raise ModelError(
            f"teacher {source.model}: {weights} is damaged ({damage}); copy the file again"
        )
    if weights.suffix in BIG_VISION:
        return
    import open_clip

    # open_clip knows many layouts of checkpoints: let it load one that has names and shapes alone.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="for .*: copying from a non-meta parameter")
        outline = Path(folder) / "outline.pt"
        try:
            torch.save(_outline(weights), outline)
            open_clip.load_checkpoint(source.outline(), str(outline), device="meta")
        except Exception as error:  # as in Clip
            raise foreign(source, weights, error) from error


def foreign(source: Source, weights: Path, error: Exception) -> ModelError:
    """The error to raise where a file's tensors are not those of the model."""
    reason = " ".join(str(error).split())[:300]
    return ModelError(
        f"teacher {source.model}: {weights} does not hold its weights "
        f"({type(error).__name__}: {reason}); name the model that they belong to, or bring "
        "open_clip's own open_clip_model.safetensors of this one"
    )


def _damage(weights: Path) -> str:
    from safetensors import SafetensorError, safe_open

    if weights.suffix == ".safetensors":
        try:
            with safe_open(weights, "pt") as tensors:  # compares its header with its length
                return "" if tensors.keys() else "it holds no tensors"
        except (SafetensorError, OSError) as error:
            return str(error)
    # PyTorch's own: a ZIP archive, whose end is its directory, or once a bare pickle.
    try:
        with weights.open("rb") as file:
            pickled = file.read(1) == b"\x80"
    except OSError as error:
        return str(error)
    return "" if pickled or zipfile.is_zipfile(weights) else "it is no checkpoint of PyTorch"


def _outline(weights: Path) -> Any:
    """A checkpoint's content with tensors that have shapes and no numbers."""
    from safetensors import safe_open

    if weights.suffix == ".safetensors":
        with safe_open(weights, "pt") as tensors:
            names = tensors.keys()
            shapes = {name: tensors.get_slice(name).get_shape() for name in names}
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    mapped = zipfile.is_zipfile(weights)  # the old format cannot be
    return torch.load(weights, map_location="meta", mmap=mapped, weights_only=True)


def resolve(settings: TeacherSettings, notes: Path) -> tuple[Source, Path]:
    """A teacher and the file of its weights; remembered in ``notes`` while nothing changes.

    So a device whose answers are all cached need not even import open_clip, which takes long and
    much memory on a small one.

    Raises
    ------
    ModelError: see ``describe`` and ``find_weights``.
    """
    config = Path(settings.model.removeprefix(LOCAL)) / CONFIG
    state = [settings.model_dump(), _release(), _stamp(config)]
    name = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    known = _recall(notes)
    try:
        found = known[name]
        weights = Path(found["weights"])
        if weights.is_file():
            return Source(**found["source"], settings=settings), weights
    except (KeyError, TypeError):
        pass
    source = describe(settings)
    weights = find_weights(source)
    parts = ("model", "config", "preprocess", "quick_gelu")
    described = {part: getattr(source, part) for part in parts}
    _note(notes, {**known, name: {"source": described, "weights": str(weights)}})
    return source, weights


def fingerprint(path: Path, notes: Path) -> str:
    """SHA-256 of a file; remembered in ``notes`` for as long as its size and time stay."""
    state, known = _stamp(path), _recall(notes)
    entry = known.get(str(path))
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == state:
        return str(entry[1])
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    _note(notes, {**known, str(path): [state, value]})
    return value


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; empty if there is none."""
    if not path.is_file():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _recall(notes: Path) -> dict[str, Any]:
    """What was noted; nothing if the file is absent or damaged."""
    try:
        known = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _note(notes: Path, value: dict[str, Any]) -> None:
    """Write notes down; without them the next process finds out again."""
    try:
        write_json(notes, value)
    except OSError as error:
        log.warning("%s cannot be written (%s)", notes, error.strerror)


def _release() -> str:
    try:
        return version("open_clip_torch")
    except PackageNotFoundError:
        return ""


def _in_folder(folder: Path) -> Path:
    import open_clip

    found = open_clip.factory._find_checkpoint_in_dir(folder)
    if found is None:
        raise ModelError(
            f"teacher {LOCAL}{folder}: no weights in the folder; bring open_clip_model.safetensors"
        )
    return Path(found)
