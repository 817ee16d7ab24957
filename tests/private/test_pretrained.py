"""The private model's folder, and models by name or from files."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from common.errors import ModelError
from common.models import build
from common.models.preprocessing import Preprocessing
from server_app.private.pretrained import CARD, PretrainedModel, build_architecture
from server_app.private.sources import load_pretrained
from tests.private.small import CLASSES, GREY8, pixels, teacher


def load(source: object) -> PretrainedModel:
    return load_pretrained(str(source), CLASSES, GREY8)


@pytest.mark.parametrize("name", ["cnn-small", "resnet8x4", "torchvision:resnet18"])
def test_folder_round_trip(tmp_path: Path, name: str) -> None:
    module = build(name, classes=3, channels=1, image_size=8)
    module.train()
    module(GREY8(pixels()))  # fills BatchNorm's buffers
    model = PretrainedModel(name, module, CLASSES, GREY8, accuracy=0.75)
    model.save(tmp_path / "pm")
    back = load(tmp_path / "pm")
    assert (back.architecture, back.classes, back.preprocessing) == (name, CLASSES, GREY8)
    assert back.accuracy == 0.75
    assert back.fingerprint == model.fingerprint
    for one, two in zip(model(pixels()), back(pixels()), strict=True):
        assert torch.equal(one, two)
    assert not any(p.requires_grad for p in back.module.parameters())


def test_saving_again_leaves_one_whole_model(tmp_path: Path) -> None:
    teacher(seed=1).save(tmp_path)
    teacher(seed=2).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert load(tmp_path).fingerprint == teacher(seed=2).fingerprint


def test_a_crash_between_weights_and_card_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher(seed=1).save(tmp_path)

    def crash(path: Path, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server_app.private.pretrained.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        teacher(seed=2).save(tmp_path)
    assert load(tmp_path).fingerprint == teacher(seed=1).fingerprint


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a folder nor a name"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"card\.json is missing; `augflower pretrain`"):
        load(tmp_path)
    teacher().save(tmp_path)
    (weights,) = tmp_path.glob("weights-*")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(ModelError, match=r"not the file that card\.json describes"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match="which are not there"):
        load(tmp_path)
    weights.write_bytes(whole)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps(card | {"architecture": "cnn-wide"}))
    with pytest.raises(ModelError, match="do not fit its architecture: missing"):
        load(tmp_path)
    del card["classes"]
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(ModelError, match="'classes' is missing"):
        load(tmp_path)
    (tmp_path / CARD).write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        load(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_checkpoint_of_a_named_architecture(tmp_path: Path, suffix: str) -> None:
    weights = teacher().module.state_dict()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pt":
        renamed = {f"module.{name}": tensor for name, tensor in weights.items()}
        torch.save({"epoch": 3, "state_dict": renamed}, path)
    else:
        safetensors.torch.save_file(weights, path)
    back = load(f"cnn-small@{path}")
    assert back.classes == CLASSES
    assert back.fingerprint == teacher().fingerprint


def test_a_checkpoint_with_other_outputs_has_classes_without_names(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    module = build("cnn-small", classes=7, channels=1, image_size=8)
    safetensors.torch.save_file(module.state_dict(), path)
    back = load(f"cnn-small@{path}")
    assert back.classes == ()
    assert back(pixels())[1].shape == (24, 7)
    # As a folder, it keeps its seven outputs.
    back.save(tmp_path / "pm")
    assert load(tmp_path / "pm").fingerprint == back.fingerprint


def test_a_torchvision_checkpoint_brings_its_preprocessing_and_names(tmp_path: Path) -> None:
    imagenet = Preprocessing(3, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    path = tmp_path / "weights.pt"
    name = "torchvision:mobilenet_v3_small"
    torch.save(build_architecture(name, 1000, imagenet).state_dict(), path)
    back = load(f"{name}@{path}")
    assert len(back.classes) == 1000
    assert back.classes[0] == "tench"
    assert back.preprocessing == imagenet
    features, logits = back(pixels(2))
    assert features.shape == (2, 1024)
    assert logits.shape == (2, 1000)


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(ModelError, match="not a file"):
        load(f"cnn-small@{path}")
    path.write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be read"):
        load(f"cnn-small@{path}")
    with pytest.raises(ModelError, match="does not say its architecture"):
        load(path)
    torch.save({"lr": 0.1}, path)
    with pytest.raises(ModelError, match="no state_dict"):
        load(f"cnn-small@{path}")
    torch.save(build("cnn-tiny", classes=3, channels=1, image_size=8).state_dict(), path)
    with pytest.raises(ModelError, match=r"of another shape: 0\.weight"):
        load(f"cnn-small@{path}")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="is missing"):
        load(f"cnn-small@{path}")


_TRAP = Path(tempfile.gettempdir()) / "augflower-trap"


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (_TRAP,))  # type: ignore[return-value]


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    _TRAP.unlink(missing_ok=True)
    path = tmp_path / "weights.pt"
    torch.save({"w": _Trap()}, path)
    with pytest.raises(ModelError, match="cannot be read"):
        load(f"cnn-small@{path}")
    path.write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(ModelError, match="cannot be read"):
        load(f"cnn-small@{path}")
    assert not _TRAP.exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cnn-wide", "without published weights.*augflower pretrain"),
        ("resnet99", "neither a folder nor a name"),
        ("torchvision:resnet81", "torchvision has no model 'resnet81'; near: resnet1"),
        ("torchvision:resnet18/IMAGENET", "no weights 'IMAGENET'; it has IMAGENET1K_V1"),
        ("timm:resnet1x", "timm has no model 'resnet1x'; near: resnet"),
        ("timm:resnet18.a9_in1k", "no weights 'a9_in1k'; near: a3_in1k"),
        ("open_clip:ViT-B-31/openai", "open_clip has no model 'ViT-B-31'; near: ViT-B-3"),
        ("open_clip:ViT-B-32/laion2b_s34b", "no weights 'laion2b_s34b'; near: laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32", "names no weights: give open_clip:ViT-B-32/TAG, one of openai"),
    ],
)
def test_unknown_names_and_tags_name_near_ones(source: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(source)
