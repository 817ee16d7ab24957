"""What is trained of a frozen backbone: sizes as published, the backbone at first, exact slices."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import ModelError
from common.models import FlatModel
from common.models.initial import weights_of
from common.models.light import frozen_digest, name_and_tuning, tune
from common.models.weights import weights_bytes
from common.task import Task, backbone_digest, hollow

VIT = "timm:test_vit/4"
TOWER = "open_clip:ViT-B-32"
MODES = ("head", "bias", "adapter-2", "prompt-3", "lora-2", "ffa-2")
PUBLISHED = {
    "head": 76_900, "bias": 179_812, "adapter-8": 233_668, "prompt-10": 169_060,
    "lora-8": 371_812, "ffa-8": 371_812 - 12 * 8 * 768,
}  # fmt: skip
"""Of a ViT-B/16 with 100 classes; FedPEFT's table has 0.08, 0.18, 0.23 and 0.17 million."""


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def weights(folder: Path, name: str = VIT, size: int = 8) -> Task:
    """A task whose backbone is in a file."""
    task = Task(name, 3, 1, size)
    path = folder / "backbone.safetensors"
    path.write_bytes(weights_bytes(task.build(seed=5)))
    return replace(task, backbone=str(path))


def light(task: Task, mode: str) -> Task:
    return replace(task, architecture=f"{task.architecture}+{mode}")


def moved(module: nn.Module, seed: int = 0) -> nn.Module:
    """All that is trained, at other values."""
    flat = FlatModel(module)
    flat.load(flat.vector + torch.randn(len(flat.vector), generator=torch.manual_seed(seed)) * 0.1)
    return module


@pytest.mark.parametrize("mode", PUBLISHED)
def test_sizes_are_those_of_the_paper(mode: str):
    assert size(hollow(Task(f"timm:vit_base_patch16_224+{mode}", 100, 3, 224))) == PUBLISHED[mode]


@pytest.mark.parametrize("mode", [mode for mode in MODES if not mode.startswith("prompt")])
def test_it_begins_as_the_backbone(mode: str, tmp_path: Path):
    task = weights(tmp_path)
    whole = task.build()
    whole.load_state_dict(weights_of(VIT, task.backbone))
    images = torch.randn(4, 1, 8, 8)
    part = light(task, mode).build(seed=1)
    torch.testing.assert_close(part.eval()(images), whole.eval()(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [VIT, "open_clip:small"])
def test_only_the_light_part_moves(mode: str, name: str, small_tower: None):
    module = Task(f"{name}+{mode}", 3, 1, 8).build()
    before = frozen_digest(module)
    images = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    labels = torch.arange(6) % 3
    steps = torch.optim.SGD(module.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(module.train()(images), labels)
        steps.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert frozen_digest(module) == before
    assert module.state_dict().keys() == dict(module.named_parameters()).keys()


@pytest.fixture
def small_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image tower of open_clip that is quickly made."""
    import open_clip

    config = {
        "embed_dim": 8, "vision_cfg": {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4},
        "text_cfg": {"context_length": 4, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1},
    }  # fmt: skip
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)


def test_tokens_are_gone_behind_their_block():
    """With tokens that nobody attends to, the output is that of the block without them."""
    block = Task(VIT, 3, 1, 8).build().eval().blocks[0]  # type: ignore[attr-defined]
    network = Task(f"{VIT}+prompt-3", 3, 1, 8).build().eval()
    prompted = network.blocks[0]  # type: ignore[attr-defined]
    x = torch.randn(2, 5, 64)
    assert prompted(x).shape == x.shape
    by_hand = prompted.block(torch.cat([x, prompted.prompt.expand(2, -1, -1)], 1))[:, :5]
    torch.testing.assert_close(prompted(x), by_hand)
    assert not torch.allclose(prompted(x), block(x))


def test_lora_is_a_change_of_the_weight():
    """W + 2 B A in the place of W gives what the changed network gives without LoRA."""
    module = moved(Task("timm:test_vit/4+lora-2", 3, 1, 8).build())
    plain = Task("timm:test_vit/4", 3, 1, 8).build()
    with torch.no_grad():
        for tuned, other in zip(module.blocks, plain.blocks, strict=True):  # type: ignore[call-overload]
            change = tuned.attn.qkv.parametrizations.weight[0]
            other.attn.qkv.weight.add_(2 * change.b @ change.a)
        plain.head.load_state_dict(module.head.state_dict())  # type: ignore[union-attr]
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(module.eval()(images), plain.eval()(images), rtol=1e-5, atol=1e-5)


def test_the_fixed_a_is_the_same_for_all_and_smaller_ranks_are_its_first_rows():
    def rows(rank: int, seed: int) -> Tensor:
        network = Task(f"{VIT}+ffa-{rank}", 3, 1, 8).build(seed=seed)
        found: Tensor = network.get_submodule("blocks.2.attn.qkv.parametrizations.weight.0").a
        return found

    torch.testing.assert_close(rows(4, 0), rows(4, 9), rtol=0, atol=0)
    torch.testing.assert_close(rows(4, 0)[:2], rows(2, 1), rtol=0, atol=0)
    assert float(rows(4, 0).abs().max()) <= 1 / 8  # 1 / sqrt(64 inputs)


@pytest.mark.parametrize("mode", ["head", "bias", "lora-2", "ffa-2"])
def test_frozen_batch_normalisation_keeps_its_statistics(mode: str):
    module = Task(f"resnet8x4+{mode}", 3, 1, 8).build()
    flat, images = FlatModel(module), torch.randn(5, 1, 8, 8)
    assert not flat.buffers.specs
    before = module.eval()(images)
    torch.testing.assert_close(module.train()(images), before, rtol=0, atol=0)
    torch.testing.assert_close(module.eval()(images), before, rtol=0, atol=0)


def test_a_copy_is_apart():
    module = Task(f"{VIT}+adapter-2", 3, 1, 8).build()
    other = moved(copy.deepcopy(module))
    images = torch.randn(2, 1, 8, 8)
    assert not torch.allclose(module.eval()(images), other.eval()(images))


def test_the_digest_is_of_the_frozen_part_alone(tmp_path: Path):
    task = light(weights(tmp_path), "bias")
    assert backbone_digest(task) == frozen_digest(moved(task.build(seed=3)))
    assert backbone_digest(task) != backbone_digest(replace(task, backbone=""))
    assert backbone_digest(replace(task, architecture=VIT)) == ""
    assert backbone_digest(replace(light(weights(tmp_path), "head"), features=True)) != ""


def test_the_head_alone_is_the_head_of_the_whole(tmp_path: Path):
    task = light(weights(tmp_path), "head")
    alone = FlatModel(replace(task, features=True).build())
    assert alone.specs == FlatModel(task.build()).specs
    assert alone.module(torch.zeros(2, 64)).shape == (2, 3)


def test_what_has_no_such_part_is_refused():
    for name, told in {
        "cnn-tiny+adapter-2": "no layers that adapters",
        "cnn-tiny+prompt-2": "no layers that tokens",
        "cnn-tiny+lora": "'lora' is nothing",
        "cnn-tiny+lora-0": "'lora-0' is nothing",
        "cnn-tiny+head-2": "'head-2' is nothing",
        "cnn-tiny+heads": "'heads' is nothing",
    }.items():
        with pytest.raises(ModelError, match=told):
            Task(name, 3, 1, 8).build()


def test_weights_that_lack_a_part_of_the_backbone_are_refused(tmp_path: Path):
    task = weights(tmp_path)
    whole, path = Task("resnet8x4", 3, 1, 8).build().state_dict(), tmp_path / "part.pt"
    torch.save({name: tensor for name, tensor in whole.items() if name != "0.weight"}, path)
    with pytest.raises(ModelError, match=r"no 0\.weight"):
        Task("resnet8x4+head", 3, 1, 8, str(path)).build()
    with pytest.raises(ModelError, match="not weights of this model"):
        Task("resnet8x4+head", 3, 1, 8, task.backbone).build()


def test_a_head_of_other_classes_is_no_part_of_the_backbone(tmp_path: Path):
    task = replace(light(weights(tmp_path), "head"), classes=7)
    assert np.prod(task.build()(torch.zeros(1, 1, 8, 8)).shape) == 7


def test_names():
    assert name_and_tuning("a+lora-8") == ("a", name_and_tuning("b+lora-8")[1])
    assert name_and_tuning("timm:x/4@0.5") == ("timm:x/4@0.5", None)
    assert size(hollow(Task("cnn-small@0.5+head", 3, 1, 8))) < size(
        hollow(Task("cnn-small+head", 3, 1, 8))
    )


def test_nothing_is_frozen_twice():
    module = Task("cnn-tiny+head", 3, 1, 8).build()
    with pytest.raises(ModelError):
        tune(nn.Identity(), name_and_tuning("x+head")[1])  # type: ignore[arg-type]
    assert size(module) == 3 * 128 + 3


def test_a_folder_of_open_clip_gives_its_image_tower(tmp_path: Path, small_tower: None):
    import open_clip

    both = open_clip.create_model("small", force_image_size=8)
    torch.save(both.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    task = Task("open_clip:small+head", 3, 3, 8, str(tmp_path))
    images = torch.randn(2, 3, 8, 8)
    found = task.build().get_submodule("tower").eval()(images)
    torch.testing.assert_close(found, both.visual.eval()(images), rtol=1e-5, atol=1e-6)


def test_a_folder_of_timm_gives_its_transformer(tmp_path: Path):
    import timm

    whole = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=9)
    (tmp_path / "model.safetensors").write_bytes(weights_bytes(whole))
    network = Task("timm:test_vit/8+lora-2", 3, 3, 32, str(tmp_path)).build().eval()
    images = torch.randn(2, 3, 32, 32)
    found = network.forward_head(network.forward_features(images), pre_logits=True)  # type: ignore[operator]
    expected = whole.eval().forward_head(whole.forward_features(images), pre_logits=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_folder_with_several_files_is_refused(tmp_path: Path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"has a\.safetensors, b\.safetensors: name the file"):
        Task("cnn-tiny+head", 3, 1, 8, str(tmp_path)).build()


@pytest.mark.parametrize("mode", ["bias", "adapter-2", "lora-2", "ffa-2"])
def test_bert_of_hugging_face_is_tuned_too(mode: str):
    from transformers import BertConfig, BertForSequenceClassification

    small = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    network = BertForSequenceClassification(small).eval()
    words = torch.arange(10).view(2, 5)
    before = network(words).logits
    tuning = name_and_tuning(f"bert+{mode}")[1]
    assert tuning is not None
    tune(network, tuning)
    torch.testing.assert_close(network(words).logits, before, rtol=1e-5, atol=1e-6)
    torch.autograd.backward(network(words).logits.square().sum())
    trained = dict(network.named_parameters())
    assert all(parameter.grad is not None for parameter in trained.values())
    if mode == "lora-2":
        assert size(network) == 2 * 2 * 2 * (2 * 8) + 2 * 8 + 2, "q and v of two layers; the head"
