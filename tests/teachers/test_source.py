"""Names, tags and files of teachers, up to the weights."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from client_app.teachers import weights as module
from client_app.teachers.clip import Clip, preparation
from client_app.teachers.settings import TeacherSettings
from client_app.teachers.source import describe, doubt
from client_app.teachers.weights import check_file, find_weights, fingerprint
from common.errors import ModelError
from tests.tiny_teacher import tiny_teacher


def teacher(model: str, **settings: str) -> TeacherSettings:
    return TeacherSettings.model_validate({"model": model, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (teacher("ViT-B32", pretrained="openai"), "near: .*ViT-B-32"),
        (teacher("ViT-B-32", pretrained="laion2b"), "near: .*laion2b_e16"),
        (teacher("RN50"), "give checkpoint, a file, or pretrained, one of openai"),
        (teacher("RN50", checkpoint="/no/such.pt"), "/no/such.pt is not a file"),
        (teacher("local-dir:/no/such/folder"), "open_clip_config.json cannot be read"),
    ],
)
def test_wrong_names_say_what_is_near(settings: TeacherSettings, message: str):
    with pytest.raises(ModelError, match=message):
        describe(settings)


def test_without_network_it_says_which_file_to_bring(monkeypatch: pytest.MonkeyPatch):
    import open_clip

    def offline(*_: object, **__: object) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    with pytest.raises(ModelError) as caught:
        find_weights(describe(teacher("ViT-B-32", pretrained="openai")))
    message = str(caught.value)
    assert "Bring open_clip_model.safetensors" in message
    assert "huggingface.co/timm/vit_base_patch32_clip_224.openai" in message
    assert "name the file as checkpoint" in message


@pytest.mark.parametrize(
    ("name", "tag", "parameters", "image"),
    [
        ("ViT-B-32", "openai", 151_277_313, 87_849_216),
        ("ViT-B-32", "laion2b_s34b_b79k", 151_277_313, 87_849_216),
        ("RN50", "openai", 102_007_137, 38_316_896),
        ("RN50", "yfcc15m", 102_007_137, 38_316_896),
    ],
)
def test_public_models_are_known_without_their_weights(
    name: str, tag: str, parameters: int, image: int
):
    found = describe(teacher(name, pretrained=tag))
    assert found.skeleton() == (parameters, image)
    assert found.size == 224
    assert found.quick_gelu is (tag != "laion2b_s34b_b79k")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 28, 28), np.uint8)
    images = preparation(found)(pixels)
    assert images.shape == (2, 3, 224, 224)
    black = preparation(found)(np.zeros((1, 3, 28, 28), np.uint8))
    mean, std = (torch.tensor(found.preprocess[key]) for key in ("mean", "std"))
    torch.testing.assert_close(black[0, :, 5, 5], -mean / std)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_public_models_run_on_weights_from_a_file(name: str, tmp_path: Path):
    """All of the path but the numbers in the file, which are random."""
    path = tmp_path / "weights.safetensors"
    settings = teacher(name, pretrained="openai", checkpoint=str(path))
    path.touch()
    found = describe(settings)
    model = found.create()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    del model
    clip = Clip(found, find_weights(found))
    classifier = clip.classifier([["a photo of a cat.", "a cat"], ["a photo of a dog."]])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    embeddings = clip.embed(pixels)
    for rows in (classifier, embeddings):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert classifier.shape == embeddings.shape
    assert clip.scale == pytest.approx(1 / 0.07, rel=1e-4)


def test_slash_and_dash_name_the_same_model():
    assert describe(teacher("ViT-B/32", pretrained="openai")).model == "ViT-B-32"


def test_a_local_checkpoint_and_what_is_none(tmp_path: Path):
    folder = shutil.copytree(tiny_teacher(), tmp_path / "clip")
    found = describe(teacher(f"local-dir:{folder}"))
    weights = find_weights(found)
    assert weights.name == "open_clip_model.safetensors"
    assert len(load_file(weights)) == len(found.create().state_dict())
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not hold its weights"):
        Clip(found, weights)
    weights.unlink()
    with pytest.raises(ModelError, match="no weights in the folder"):
        find_weights(found)


def test_damaged_files_are_found_without_loading(tmp_path: Path):
    found = describe(teacher(f"local-dir:{tiny_teacher()}"))
    whole = find_weights(found)
    check_file(found, whole)
    torch.save(load_file(whole), tmp_path / "good.pt")
    check_file(found, tmp_path / "good.pt")
    for name, content in {
        "cut.safetensors": whole.read_bytes()[:-1],
        "stub.safetensors": b"version https://git-lfs.github.com/spec/v1",
        "empty.safetensors": b"",
        "cut.pt": (tmp_path / "good.pt").read_bytes()[:-30],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=f"{name} is damaged"):
            check_file(found, tmp_path / name)


def test_a_repository_without_network_says_what_to_bring(monkeypatch: pytest.MonkeyPatch):
    import open_clip

    def offline(*_: object, **__: object) -> str:
        raise FileNotFoundError("no network")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", offline)
    with pytest.raises(ModelError, match=r"bring the files of https://huggingface\.co/owner/name"):
        describe(teacher("hf-hub:owner/name"))


def test_weights_of_another_architecture(tmp_path: Path):
    vit = describe(teacher(f"local-dir:{tiny_teacher('vit')}"))
    resnet = describe(teacher(f"local-dir:{tiny_teacher()}"))
    with pytest.raises(ModelError, match="does not hold its weights"):
        Clip(vit, find_weights(resnet))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "old.pt"])
def test_a_foreign_checkpoint_is_found_without_loading(tmp_path: Path, suffix: str):
    vit = describe(teacher(f"local-dir:{tiny_teacher('vit')}"))
    resnet = describe(teacher(f"local-dir:{tiny_teacher()}"))
    tensors = load_file(find_weights(vit))
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(tensors, path)
    else:
        state = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}}
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pt")
    check_file(vit, path)
    with pytest.raises(ModelError, match=r"does not hold its weights .*visual\.bn1\.weight"):
        check_file(resnet, path)


def test_a_checkpoint_of_another_width_is_found_without_loading(tmp_path: Path):
    vit = describe(teacher(f"local-dir:{tiny_teacher('vit')}"))
    tensors = load_file(find_weights(vit))
    tensors["visual.proj"] = tensors["visual.proj"][:, :-1].contiguous()
    save_file(tensors, tmp_path / "narrow.safetensors")
    with pytest.raises(ModelError, match=r"size mismatch for visual\.proj"):
        check_file(vit, tmp_path / "narrow.safetensors")


def config_of(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    part = content
    *way, last = key.split(".")
    for step in way:
        part = part[step]
    part.pop(last) if value is None else part.update({last: value})
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_cfg", None, "open_clip_config.json lacks model_cfg,"),
        ("model_cfg.embed_dim", None, "lacks model_cfg.embed_dim"),
        ("model_cfg.text_cfg", None, "lacks model_cfg.text_cfg"),
        ("model_cfg.vision_cfg.image_size", None, "lacks model_cfg.vision_cfg.image_size"),
        ("model_cfg.vision_cfg.nonsense", 1, "cannot be built .*nonsense.*open_clip_config.json"),
        ("preprocess_cfg", [], "lacks preprocess_cfg"),
        ("preprocess_cfg.interpolation", "best", "cannot be built"),
    ],
)
def test_a_wrong_description_is_refused_by_its_key(
    tmp_path: Path, key: str, value: Any, message: str
):
    folder = shutil.copytree(tiny_teacher("vit"), tmp_path / "clip")
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps(config_of(json.loads(path.read_text()), key, value)))
    with pytest.raises(ModelError, match=message):
        describe(teacher(f"local-dir:{folder}"))


@pytest.mark.parametrize("text", ["[]", '"x"', "null"])
def test_a_description_that_is_no_table(tmp_path: Path, text: str):
    folder = shutil.copytree(tiny_teacher("vit"), tmp_path / "clip")
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"open_clip_config\.json lacks model_cfg"):
        describe(teacher(f"local-dir:{folder}"))


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "roberta-ViT-B-32"])
def test_a_model_that_needs_transformers_says_so(name: str, tmp_path: Path):
    if importlib.util.find_spec("transformers"):
        pytest.skip("transformers is installed")
    path = tmp_path / "weights.safetensors"
    path.touch()
    with pytest.raises(ModelError, match="needs transformers: pip install transformers"):
        describe(teacher(name, checkpoint=str(path)))


def test_a_checkpoint_whose_tags_disagree_is_doubted(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    path.touch()
    reason = doubt(describe(teacher("ViT-B-32", checkpoint=str(path))))
    assert "quick_gelu=false" in reason
    assert "openai" in reason
    assert not doubt(describe(teacher("ViT-B-32", pretrained="openai", checkpoint=str(path))))
    assert not doubt(describe(teacher(f"local-dir:{tiny_teacher()}")))


def test_a_fingerprint_is_read_again_only_when_the_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, notes = tmp_path / "weights", tmp_path / "notes.json"
    path.write_bytes(b"one")
    first = fingerprint(path, notes)
    with monkeypatch.context() as patched:
        patched.setattr(module.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert fingerprint(path, notes) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert fingerprint(path, notes) != first
    notes.write_text("torn {", encoding="utf-8")
    assert fingerprint(path, notes) != first


def test_without_open_clip(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelError, match=r"pip install 'augflower\[clip\]'"):
        describe(teacher("ViT-B-32", pretrained="openai"))
