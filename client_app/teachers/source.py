"""Where a teacher comes from: its architecture, preprocessing and weights, nothing loaded yet."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from client_app.teachers.settings import TeacherSettings
from common.errors import ModelError
from common.files import write_json

LOCAL, HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class Source:
    """One teacher, as far as it is known without its weights.

    Attributes
    ----------
    model: name for open_clip.
    config: its architecture, as open_clip's JSON.
    preprocess: open_clip's preprocessing settings; ``size`` is the height and width, pixels.
    quick_gelu: whether its weights were trained with that activation.
    settings: what the device's file says.
    """

    model: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    quick_gelu: bool
    settings: TeacherSettings

    @property
    def size(self) -> int:
        """Height and width of the images that it sees, pixels."""
        return int(self.preprocess["size"])

    def identity(self, weights: str) -> dict[str, Any]:
        """All that its embeddings depend on, beside the image."""
        return {
            "weights": weights,
            "config": self.config,
            "preprocess": self.preprocess,
            "quick_gelu": self.quick_gelu,
        }

    def skeleton(self) -> tuple[int, int]:
        """Parameters of the model and of its image tower, without taking memory for them."""
        with torch.device("meta"):
            model = create(self, "meta")
        return _count(model), _count(model.visual)


def describe(settings: TeacherSettings) -> Source:
    """Check a teacher's names and files.

    Raises
    ------
    ModelError: open_clip is not installed, the model or tag is unknown, or a file is not there.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ModelError(
            "a teacher needs open_clip: pip install 'augflower[clip]', or leave 'teachers' out "
            "of the node config"
        ) from error
    model = settings.model
    if not model.startswith((LOCAL, HUB)):
        model = model.replace("/", "-")
        _check_name(model, settings)
    if settings.checkpoint and not Path(settings.checkpoint).is_file():
        raise ModelError(f"teacher {model}: checkpoint {settings.checkpoint} is not a file")
    own, config = _read_config(model)
    tag = open_clip.get_pretrained_cfg(model, settings.pretrained) if settings.pretrained else {}
    preprocess = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), own)
    preprocess = open_clip.transform.merge_preprocess_dict(preprocess, dict(tag))
    size = config["vision_cfg"]["image_size"]
    preprocess["size"] = max(size) if isinstance(size, list | tuple) else int(size)
    quick = bool(tag.get("quick_gelu") or config.get("quick_gelu"))
    return Source(model, config, json.loads(json.dumps(preprocess)), quick, settings)


def find_weights(source: Source) -> Path:
    """The file of the weights; those of a public tag are fetched once.

    Raises
    ------
    ModelError: they are not here and cannot be fetched; the message says what to bring.
    """
    import open_clip

    settings, model = source.settings, source.model
    if settings.checkpoint:
        return Path(settings.checkpoint)
    if model.startswith(LOCAL):
        return _in_folder(Path(model.removeprefix(LOCAL)))
    tag = open_clip.get_pretrained_cfg(model, settings.pretrained)
    where = f"https://huggingface.co/{tag['hf_hub']}" if tag.get("hf_hub") else tag.get("url", "")
    try:
        if model.startswith(HUB):
            where = f"https://huggingface.co/{model.removeprefix(HUB)}"
            found = open_clip.pretrained.download_pretrained_from_hf(model.removeprefix(HUB))
        else:
            found = open_clip.download_pretrained(tag)
    except Exception as error:  # no network, no such repo, no room on disk: no common parent
        raise ModelError(
            f"the weights of teacher {model} {settings.pretrained} cannot be fetched "
            f"({str(error)[:200]}); bring open_clip_model.safetensors or "
            f"open_clip_pytorch_model.bin from {where} to this device and name the file as "
            "checkpoint of this teacher"
        ) from error
    return Path(found)


def check_file(source: Source, weights: Path) -> None:
    """Refuse a file that is cut off or no file of weights, without reading it to its end.

    Raises
    ------
    ModelError: it is damaged; the message says which.
    """
    from safetensors import SafetensorError, safe_open

    if weights.suffix == ".safetensors":
        try:
            with safe_open(weights, "pt") as tensors:  # compares its header with its length
                damage = "" if tensors.keys() else "it holds no tensors"
        except (SafetensorError, OSError) as error:
            damage = str(error)
    else:  # PyTorch's own: a ZIP archive, whose end is its directory, or once a bare pickle
        with weights.open("rb") as file:
            pickled = file.read(1) == b"\x80"
        known = pickled or zipfile.is_zipfile(weights)
        damage = "" if known else "it is no checkpoint of PyTorch"
    if damage:
        raise ModelError(
            f"teacher {source.model}: {weights} is damaged ({damage}); copy the file again"
        )


def resolve(settings: TeacherSettings, notes: Path) -> tuple[Source, Path]:
    """A teacher and the file of its weights; remembered in ``notes`` while nothing changes.

    So a device whose answers are all cached need not even import open_clip, which takes long and
    much memory on a small one.

    Raises
    ------
    ModelError: see ``describe`` and ``find_weights``.
    """
    config = Path(settings.model.removeprefix(LOCAL)) / "open_clip_config.json"
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
    write_json(notes, {**known, name: {"source": described, "weights": str(weights)}})
    return source, weights


def fingerprint(path: Path, notes: Path) -> str:
    """SHA-256 of a file; remembered in ``notes`` for as long as its size and time stay."""
    state, known = _stamp(path), _recall(notes)
    entry = known.get(str(path))
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == state:
        return str(entry[1])
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    write_json(notes, {**known, str(path): [state, value]})
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


def _release() -> str:
    try:
        return version("open_clip_torch")
    except PackageNotFoundError:
        return ""


def create(source: Source, device: str = "cpu") -> Any:
    """The model without weights."""
    import open_clip

    # open_clip warns that the model is random; its weights come next.
    root = logging.getLogger()
    root.addFilter(_is_no_warning)
    try:
        return open_clip.create_model(
            source.model,
            load_weights=False,
            device=device,
            force_quick_gelu=source.quick_gelu,
            pretrained_text=False,
        )
    finally:
        root.removeFilter(_is_no_warning)


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING


def _check_name(model: str, settings: TeacherSettings) -> None:
    import open_clip

    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=4) or known[:8]
        raise ModelError(f"open_clip has no model {model!r}; near: {', '.join(near)}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    wanted = settings.pretrained
    if wanted and not open_clip.pretrained.is_pretrained_cfg(model, wanted):
        near = difflib.get_close_matches(wanted, tags, n=4) or tags[:8]
        raise ModelError(
            f"teacher {model} has no public weights {wanted!r}; near: {', '.join(near) or 'none'}"
        )
    if not wanted and not settings.checkpoint:
        raise ModelError(
            f"teacher {model} has no weights: give checkpoint, a file, or pretrained, one of "
            f"{', '.join(tags[:8]) or '(none are public)'}"
        )


def _read_config(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Preprocessing, as a folder or repository says it, and architecture."""
    import open_clip

    if not model.startswith((LOCAL, HUB)):
        return {}, open_clip.get_model_config(model)
    if model.startswith(HUB):
        try:
            content = open_clip.factory._get_hf_config(model.removeprefix(HUB))
        except Exception as error:  # as in find_weights
            raise ModelError(
                f"teacher {model} cannot be fetched ({str(error)[:200]}); bring the files of "
                f"https://huggingface.co/{model.removeprefix(HUB)} into a folder of this device "
                f"and name it as model = '{LOCAL}FOLDER'"
            ) from error
    else:
        path = Path(model.removeprefix(LOCAL)) / "open_clip_config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"teacher {model}: {path} cannot be read ({error}); the folder must hold "
                "open_clip_config.json and the weights"
            ) from error
    if "vision_cfg" not in content.get("model_cfg", {}):
        raise ModelError(f"teacher {model}: its open_clip_config.json describes no CLIP model")
    return content.get("preprocess_cfg", {}), content["model_cfg"]


def _in_folder(folder: Path) -> Path:
    import open_clip

    found = open_clip.factory._find_checkpoint_in_dir(folder)
    if found is None:
        raise ModelError(
            f"teacher {LOCAL}{folder}: no weights in the folder; bring open_clip_model.safetensors"
        )
    return Path(found)


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
