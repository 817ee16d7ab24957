"""On an accelerator every method does what it does on the CPU; what travels stays on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flwr.app import Context, Message

import client_app.app as shell
from client_app import device as devices
from client_app.settings import read_node_config
from common.accelerator import CPU, accelerator, computing
from common.errors import MemoryLackError, SettingsError
from common.models import FlatModel, build
from deploy.run_config import default_config
from deploy.simulate import node_configs, simulate
from server_app.app import read_settings
from server_app.transport.in_process import InProcessGrid
from tests.conftest import own_server
from tests.fake_accelerator import HERE, Far, fake_accelerator
from tests.test_golden import RUNS, SHARED, backbone, kept, models

ROOT = Path(__file__).parents[1]
# transfer has no devices; gpfl gives a layer a vector, which only real devices take.
METHODS = {name: run for name, run in RUNS.items() if run["method"] not in ("transfer", "gpfl")}
QUICK = ["fedavg", "augfl-alone", "fedrep", "fedkd", "feddbe"]
SHORT = {"rounds": 2, "data.sources": 3, "data.targets": 2, "round.deadline": 60.0}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in METHODS]
)
def test_a_method_gives_the_same_on_an_accelerator(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = SHARED | METHODS[name] | SHORT
    found = [play(config, tmp_path / "cpu", shell.app)]
    monkeypatch.setattr(shell, "accelerator", lambda _: HERE)

    def far_away(message: Message, context: Context) -> Message:
        with fake_accelerator():
            return shell.app(message, context)

    for known in (devices._DEVICES, devices._NARROW):
        known.clear()
    devices._model.cache_clear()
    try:
        found.append(play(config, tmp_path / "far", far_away))
        there = [device for key, device in devices._DEVICES.items() if key[1]]
        assert there
        assert all(isinstance(d.clients[0].support_images, Far) for d in there)
        assert all(isinstance(d.model.vector, Far) for d in there if d.role == "source")
    finally:
        devices._DEVICES.clear()
        devices._NARROW.clear()
        devices._model.cache_clear()
    assert found[0] == found[1]


def play(config: dict[str, Any], place: Path, app: Callable[..., Message]) -> tuple[Any, Any]:
    place.mkdir()
    if "+" in config["model"]:
        config = config | {"pretrained-weights": backbone(place)}
    full = default_config() | config
    nodes = node_configs(read_settings(full)[0].data)
    grid = InProcessGrid(app, nodes, full)  # type: ignore[arg-type]
    path = simulate(config, own_server(place), lambda _: None, grid=grid)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert not line.get("missing"), line["missing"]
        assert not line.get("evaluation_missing"), line["evaluation_missing"]
    return models(path), [kept(json.loads(line)) for line in lines]


def test_the_fake_accelerator_refuses_what_a_gpu_refuses():
    with fake_accelerator() as there:
        far, near = torch.ones(2, device=there), torch.ones(2)
        with pytest.raises(RuntimeError, match="same device"):
            far + near
        with pytest.raises(TypeError, match="can't convert"):
            far.numpy()
        assert (far + far).device == there
        assert far.cpu().device == near.device


def test_a_setting_names_what_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert accelerator("cpu") == accelerator("auto") == CPU
    with pytest.raises(SettingsError, match="device=cuda: PyTorch finds 0 CUDA devices"):
        accelerator("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert accelerator("auto") == accelerator("cuda") == torch.device("cuda:0")
    assert accelerator("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingsError, match="device=cuda:2: PyTorch finds 2"):
        accelerator("cuda:2")
    for wrong in ("gpu", "cuda:", "cuda:x", "mps"):
        with pytest.raises(SettingsError, match="device"):
            read_node_config({"device": wrong})


def test_too_little_memory_is_an_error_that_names_the_batch(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    """The round goes on without the device; the next message finds it well."""
    monkeypatch.setattr(shell, "accelerator", lambda _: HERE)
    full = []

    def gradient(self: devices.Device, vector: Any, batch: Any) -> Any:
        if not full:
            full.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. More words")
        return whole(self, vector, batch)

    whole = devices.Device.gradient
    monkeypatch.setattr(devices.Device, "gradient", gradient)
    config = default_config() | SHORT | {"method": "fedavg", "fedavg.sgd.batch-size": 7}

    def far_away(message: Message, context: Context) -> Message:
        with fake_accelerator():
            return shell.app(message, context)

    devices._DEVICES.clear()
    devices._model.cache_clear()
    nodes = node_configs(read_settings(config)[0].data)
    grid = InProcessGrid(far_away, nodes, config)  # type: ignore[arg-type]
    options = SHORT | {"fedavg.sgd.batch-size": 7, "round.return-timeout": 0.0}
    folder = small_run("fedavg", options, grid=grid)
    devices._DEVICES.clear()
    devices._model.cache_clear()
    first, second = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()[1:])
    [missing] = first["missing"]
    assert "lazy:0 has too little memory for cnn-tiny and batches of 7 images" in missing["reason"]
    assert (first["replies"], second["replies"]) == (2, 3)


def test_the_share_of_the_memory_is_set(monkeypatch: pytest.MonkeyPatch):
    calls = []
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *a: calls.append(a))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    with pytest.raises(MemoryLackError, match=r"cuda:0 .* for a batch"):  # noqa: SIM117
        with computing(gpu, "a batch", 0.25):
            raise torch.OutOfMemoryError("full")
    assert calls == [(0.25, gpu), "emptied"]


def test_the_cpu_is_left_as_it_was():
    with computing(CPU, "a batch"):
        assert torch.get_default_device() == CPU
    with pytest.raises(torch.OutOfMemoryError):  # noqa: SIM117
        with computing(CPU, "a batch"):
            raise torch.OutOfMemoryError("of the system")


def test_a_warm_parent_and_what_it_imports_leave_cuda_alone():
    """A process that has touched CUDA has forks that cannot use it."""
    code = """
import sys, torch
def touched(*_): raise SystemExit("CUDA was touched")
for name in ("init", "_lazy_init", "is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, touched)
torch._C._cuda_init = torch._C._cuda_getDeviceCount = touched
from deploy.warm import LIBRARIES, preload
preload(LIBRARIES)
import client_app.app, client_app.methods, deploy.node
from common import registry
for method in registry.names(client_app.methods):
    registry.load(client_app.methods, method)
print("well")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "well", done.stdout + done.stderr


@pytest.mark.gpu
def test_a_real_gpu_comes_near_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 10
    near = FlatModel(build("cnn-small", classes=10, channels=1, image_size=28))
    grad, loss = near.gradient(lambda: F.cross_entropy(near.module(images), labels))
    gpu = accelerator("cuda")
    with computing(gpu, "a batch"):
        far = FlatModel(build("cnn-small", classes=10, channels=1, image_size=28))
        assert far.parameters.vector.tobytes() == near.parameters.vector.tobytes()
        batch = images.to(gpu), labels.to(gpu)
        other, value = far.gradient(lambda: F.cross_entropy(far.module(batch[0]), batch[1]))
        assert other.device == gpu
    assert value == pytest.approx(loss, rel=1e-3)
    torch.testing.assert_close(other.cpu(), grad, rtol=1e-2, atol=1e-3)
