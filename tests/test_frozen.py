"""Runs that train a small part of a backbone that every device has: what travels, and what is
refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from client_app import frozen
from client_app.app import app
from client_app.frozen import on_features
from common import wire
from common.config import DataSettings
from common.data.client import ClientData
from common.errors import FleetError, ModelError, SettingsError
from common.modelfile import load_model
from common.models.weights import weights_bytes
from common.task import Task, backbone_digest
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.transport.in_process import InProcessGrid
from tests.conftest import SMALL, backbone
from tests.test_conformance import METHODS, PLAIN, lines, losses, model

Run = Callable[..., Path]
TASK = Task("cnn-tiny", 10, 1, 8)


def test_a_run_serves_the_backbone_with_the_head_that_it_trained(
    tmp_path: Path, small_run: Run, monkeypatch: pytest.MonkeyPatch
):
    path = backbone(tmp_path)
    monkeypatch.chdir(tmp_path)
    overrides = {"model": "cnn-tiny+head", "pretrained-weights": f"./{Path(path).name}"}
    folder = small_run("fedavg", overrides)
    monkeypatch.chdir("/")
    file = folder / "models" / "last.safetensors"
    found, _, card = load_model(file)
    whole = TASK.build(seed=7)
    for name, tensor in found.module.state_dict().items():
        assert name in ("7.weight", "7.bias")
        assert not torch.equal(tensor, whole.state_dict()[name])
    for name, tensor in found.module.named_buffers():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=0, atol=0)
    assert file.stat().st_size < 12_000 < len(weights_bytes(whole))
    Path(path).write_bytes(weights_bytes(TASK.build(seed=8)))
    backbone_digest.cache_clear()
    with pytest.raises(ModelError, match="trained on other weights"):
        load_model(file)
    assert card.architecture == "cnn-tiny+head"


@pytest.mark.parametrize("mode", ["head", "bias", "lora-2", "ffa-2"])
def test_only_what_is_trained_travels(mode: str, tmp_path: Path, small_run: Run):
    name = f"cnn-tiny+{mode}"
    sent = []

    def note(message: Message, reply: Message) -> Message:
        sent.extend(wire.size(part.content) for part in (message, reply))
        return reply

    overrides = {"model": name, "pretrained-weights": backbone(tmp_path)}
    folder = small_run("fedavg", overrides, interfere=note)
    size = sum(p.numel() for p in replace(TASK, architecture=name).build().parameters())
    assert max(sent) == 4 * size
    assert lines(folder)[-1]["replies"] == 3


def test_head_on_features_is_head_on_images(
    tmp_path: Path, small_run: Run, monkeypatch: pytest.MonkeyPatch
):
    config = {"model": "cnn-tiny+head", "pretrained-weights": backbone(tmp_path)}
    one = small_run("fedavg", config | {"run-name": "features"})
    monkeypatch.setattr(
        "client_app.device.on_features", lambda clients, task, folder: (clients, task)
    )
    other = small_run("fedavg", config | {"run-name": "images"})
    found = [load_model(path / "models" / "last.safetensors")[0].vector for path in (one, other)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_fedavg_on_fixed_a_averages_exactly_what_it_means(tmp_path: Path):
    """The mean of B with one A is the mean of B A; with two As it is not (FFA-LoRA, FedIT)."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 2, 5))
    b = rng.normal(size=(2, 4, 2))
    mean = np.mean(b @ a, 0)
    assert np.abs(mean - b.mean(0) @ a.mean(0)).max() > 0.1
    covariance = np.mean((b - b.mean(0)) @ (a - a.mean(0)), 0)
    np.testing.assert_allclose(mean - b.mean(0) @ a.mean(0), covariance)
    np.testing.assert_allclose(np.mean(b @ a[0], 0), b.mean(0) @ a[0])


def test_a_device_with_another_backbone_is_refused(tmp_path: Path, small_run: Run):
    data = DataSettings(sources=3, targets=4)
    nodes = [{**config, "backbone": backbone(tmp_path, 8)} for config in node_configs(data)]
    overrides = {"model": "cnn-tiny+bias", "pretrained-weights": backbone(tmp_path)}
    config = default_config() | SMALL | overrides
    notices: list[str] = []
    with pytest.raises(FleetError):
        small_run(
            "fedavg", overrides | {"round.wait": 0.5}, notice=notices.append,
            grid=InProcessGrid(app, nodes, config),
        )  # fmt: skip
    assert any("is not what the server has" in line for line in notices)


def test_a_part_of_nothing_is_refused(small_run: Run):
    with pytest.raises(SettingsError, match="give pretrained-weights"):
        small_run("fedavg", {"model": "cnn-tiny+head"})


def data(images: int) -> ClientData:
    generator = torch.manual_seed(0)
    first, second = (torch.rand(images, 1, 8, 8, generator=generator) for _ in range(2))
    labels = torch.zeros(images, dtype=torch.int64)
    return ClientData(first, labels, second, labels, (0,), 0)


def test_the_backbone_sees_each_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = replace(TASK, architecture="cnn-tiny+head", backbone=backbone(tmp_path))
    seen = []
    real = frozen._computed

    def count(images: torch.Tensor, own: Task) -> torch.Tensor:
        seen.append(len(images))
        return real(images, own)

    monkeypatch.setattr(frozen, "_computed", count)
    (plain,), _ = on_features([data(4)], task, None)
    seen.clear()
    (first,), head = on_features([data(4)], task, tmp_path / "cache")
    (again,), _ = on_features([data(4)], task, tmp_path / "cache")
    assert seen == [4, 4], "support and query, once"
    for one in (first, again):
        torch.testing.assert_close(one.support_images, plain.support_images, rtol=0, atol=0)
        torch.testing.assert_close(one.query_images, plain.query_images, rtol=0, atol=0)
    assert head.features
    on_features([data(4)], replace(task, backbone=backbone(tmp_path, 8)), tmp_path / "cache")
    assert seen == [4, 4, 4, 4], "other weights, other features"


def test_units_of_a_part_cannot_be_left_out(tmp_path: Path, small_run: Run):
    overrides = {"model": "cnn-tiny+head", "pretrained-weights": backbone(tmp_path)}
    with pytest.raises(ModelError, match="trained in part"):
        small_run("raffm", overrides)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("raffm", "lora")])
@pytest.mark.parametrize("mode", ["head", "bias", "lora-2"])
def test_every_method_trains_a_part(mode: str, method: str, tmp_path: Path, small_run: Run):
    overrides = {**PLAIN, "model": f"cnn-tiny+{mode}", "pretrained-weights": backbone(tmp_path)}
    folder = small_run(method, overrides)
    assert np.isfinite(model(folder)).all()
    assert losses(lines(folder)[0]) != losses(lines(folder)[2])
