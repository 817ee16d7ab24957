"""Where a teacher comes from: its architecture and preprocessing, no weights loaded yet."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from client_app.teachers.memory_budget import needed
from client_app.teachers.settings import HUB, LOCAL, TeacherSettings
from common.errors import ModelError
from common.models import clip

CONFIG = "open_clip_config.json"


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
        model = self.outline()
        return _count(model), _count(model.visual)

    def bytes_needed(self) -> int:
        """Memory that it takes to load and use, and to tune as the settings say."""
        model = self.outline()
        if self.settings.tuning != "full":
            return needed(_count(model))
        return needed(_count(model), _count(model.visual), _kept(model, self.size))

    def outline(self) -> Any:
        """The model with shapes and no numbers, which takes no memory."""
        with torch.device("meta"):
            return self.create("meta")

    def create(self, device: str = "cpu") -> Any:
        """The model without its weights."""
        return clip.create(self.model, device=device, quick_gelu=self.quick_gelu)


def describe(settings: TeacherSettings) -> Source:
    """Check a teacher's names and files, and that the model and its tokenizer can be built here.

    Raises
    ------
    ModelError: something is not installed, the model or tag is unknown, or a file is not there or
        not what it must be.
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
        clip.check_names(model, settings.pretrained)
        if not settings.pretrained and not settings.checkpoint:
            tags = open_clip.list_pretrained_tags_by_model(model)
            raise ModelError(
                f"teacher {model} has no weights: give checkpoint, a file, or pretrained, one of "
                f"{', '.join(tags[:8]) or '(none are public)'}"
            )
    if settings.checkpoint and not Path(settings.checkpoint).is_file():
        raise ModelError(f"teacher {model}: checkpoint {settings.checkpoint} is not a file")
    own, config = _read_config(model)
    tag = open_clip.get_pretrained_cfg(model, settings.pretrained) if settings.pretrained else {}
    quick = bool(tag.get("quick_gelu") or config.get("quick_gelu"))
    source = Source(model, config, clip.preprocessing(config, tag, own), quick, settings)
    _build(source)
    return source


def doubt(source: Source) -> str:
    """What may be wrong without an error; empty if nothing is.

    A checkpoint alone does not say how its images were prepared, nor which activation it has.
    """
    import open_clip

    settings, model = source.settings, source.model
    if settings.pretrained or model.startswith((LOCAL, HUB)):
        return ""
    others = []
    for tag in open_clip.list_pretrained_tags_by_model(model):
        public = open_clip.get_pretrained_cfg(model, tag)
        same = clip.preprocessing(source.config, public, source.preprocess) == source.preprocess
        if not same or bool(public.get("quick_gelu")) != source.quick_gelu:
            others.append(tag)
    if not others:
        return ""
    return (
        f"teacher {model}: checkpoint without pretrained is used with open_clip's default "
        f"preprocessing and quick_gelu={str(source.quick_gelu).lower()}, and the weights of "
        f"{', '.join(others[:6])} need other ones; if it holds such weights, give pretrained too"
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
        path = Path(model.removeprefix(LOCAL)) / CONFIG
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"teacher {model}: {path} cannot be read ({error}); the folder must hold "
                f"{CONFIG} and the weights"
            ) from error
    _check_config(model, content)
    return content.get("preprocess_cfg", {}), content["model_cfg"]


def _check_config(model: str, content: Any) -> None:
    """Refuse a description that lacks what every CLIP model has, by the name of the key."""
    needed: dict[str, type | tuple[type, ...]] = {
        "model_cfg": dict,
        "model_cfg.embed_dim": int,
        "model_cfg.vision_cfg": dict,
        "model_cfg.vision_cfg.image_size": (int, list),
        "model_cfg.text_cfg": dict,
    }
    if isinstance(content, dict) and "preprocess_cfg" in content:
        needed["preprocess_cfg"] = dict
    for path, kind in needed.items():
        value = content
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not isinstance(value, kind) or not value:
            raise ModelError(
                f"teacher {model}: {CONFIG} lacks {path}, or it is not what it must be; copy the "
                "file again from where the weights come from"
            )


def _build(source: Source) -> None:
    """Try everything that needs no weights: the model, its tokenizer and its preprocessing."""
    import open_clip

    text = source.config["text_cfg"]
    foreign = text.get("hf_tokenizer_name") or text.get("hf_model_name") or ""
    if foreign and importlib.util.find_spec("transformers") is None:
        raise ModelError(
            f"teacher {source.model}: its text tower or tokenizer ({foreign}) needs transformers: "
            "pip install transformers, or take a model with CLIP's own tokenizer, such as ViT-B-32"
        )
    try:
        source.outline()
        open_clip.get_tokenizer(source.model)
        open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**source.preprocess), is_train=False
        )
    except Exception as error:  # the libraries' errors have no common parent
        way_out = f"correct its {CONFIG}"
        if foreign:
            way_out = (
                f"bring {CONFIG}, the weights and the tokenizer's files of "
                f"https://huggingface.co/{foreign} into a folder of this device and name it as "
                f"model = '{LOCAL}FOLDER'"
            )
        raise ModelError(
            f"teacher {source.model} cannot be built ({type(error).__name__}: "
            f"{str(error)[:200]}); {way_out}"
        ) from error


def _kept(model: Any, size: int) -> int:
    """Bytes that one image of ``size`` pixels leaves in a model for the backward pass."""
    own = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    model.eval()
    image = torch.empty(1, 3, size, size, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.encode_image(image, normalize=True)
    return sum(storage.nbytes() for storage in kept.values())


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
