"""Published models of torchvision, timm and open_clip without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from common.errors import ModelError
from common.models import clip
from common.models.preprocessing import Preprocessing
from server_app.private.pretrained import PretrainedModel, build_architecture
from server_app.private.sources import load_pretrained
from tests.private.small import CLASSES, GREY8, pixels

CLIP = "tiny-for-tests"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty caches, and no way out."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))


@pytest.fixture
def tiny_clip(tmp_path: Path) -> Iterator[Path]:
    """A small CLIP that open_clip knows, and a file with its weights."""
    import open_clip
    from open_clip import factory

    (tmp_path / f"{CLIP}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / f"{CLIP}.json")
    path = tmp_path / "clip.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_file(clip.create(CLIP).state_dict(), path)
    yield path
    factory._MODEL_CONFIG_PATHS.remove(tmp_path / f"{CLIP}.json")
    factory._MODEL_CONFIGS.pop(CLIP)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "torchvision:resnet18",
            r"Bring https://.*resnet18-f37072fd\.pth to .*/checkpoints/resnet18-f37072fd\.pth",
        ),
        (
            "timm:resnet18.a1_in1k",
            r"Bring model\.safetensors from https://huggingface\.co/timm/resnet18\.a1_in1k",
        ),
        (
            "open_clip:RN50/yfcc15m",
            r"Bring open_clip_model\.safetensors or .* and give open_clip:RN50@FILE",
        ),
    ],
)
def test_without_network_the_message_says_which_file_to_bring(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_pretrained(source, CLASSES, GREY8)


def test_torchvision_weights_from_the_cache(tmp_path: Path, monkeypatch: Any) -> None:
    """What a machine without network does with the file that was brought to it."""
    imagenet = Preprocessing(3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    name = "torchvision:squeezenet1_1"
    with pytest.raises(ModelError, match="no linear layer"):
        PretrainedModel(name, build_architecture(name, 9, imagenet), (), imagenet).save(tmp_path)
    name = "torchvision:mobilenet_v3_small"
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    module = build_architecture(name, 1000, imagenet)
    file = tmp_path / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    file.parent.mkdir()
    torch.save(module.state_dict(), file)
    model = load_pretrained(name, CLASSES, GREY8)
    assert model.fingerprint == PretrainedModel(name, module, (), imagenet).fingerprint
    assert model.classes[0] == "tench"


def test_open_clip_from_a_file_is_a_zero_shot_classifier(tiny_clip: Path) -> None:
    import open_clip

    model = load_pretrained(f"open_clip:{CLIP}@{tiny_clip}", CLASSES, GREY8)
    assert model.classes == CLASSES
    assert (model.preprocessing.channels, model.preprocessing.image_size) == (3, 16)
    features, logits = model(pixels())
    towers = clip.create(CLIP)
    clip.load(towers, tiny_clip)
    with torch.no_grad():
        image = functional.normalize(towers.encode_image(model.preprocessing(pixels())), dim=1)
        tokens = open_clip.get_tokenizer(CLIP)
        prompts = (
            "a photo of a {}.",
            "a low resolution photo of a {}.",
            "a grayscale photo of a {}.",
        )
        texts = []
        for name in CLASSES:
            rows = towers.encode_text(tokens([prompt.format(name) for prompt in prompts]))
            mean = functional.normalize(rows, dim=1).mean(0)
            texts.append(functional.normalize(mean, dim=0))
        expected = towers.logit_scale.exp() * image @ torch.stack(texts).T
    torch.testing.assert_close(features, image)
    torch.testing.assert_close(logits, expected)


def test_a_clip_classifier_goes_into_a_folder_and_back(tiny_clip: Path, tmp_path: Path) -> None:
    model = load_pretrained(f"open_clip:{CLIP}@{tiny_clip}", CLASSES, GREY8)
    model.save(tmp_path / "pm")
    back = load_pretrained(tmp_path / "pm", CLASSES, GREY8)
    assert back.fingerprint == model.fingerprint


def test_a_clip_checkpoint_that_does_not_fit(tiny_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"logit_scale": torch.zeros(())}, path)
    with pytest.raises(ModelError, match=f"holds no weights of open_clip:{CLIP}"):
        load_pretrained(f"open_clip:{CLIP}@{path}", CLASSES, GREY8)
