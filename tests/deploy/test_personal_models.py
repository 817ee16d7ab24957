"""Every method with personal models: one leaves a device, and a new device gets one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import client_app.methods
import server_app.methods
from client_app.app import app as devices
from client_app.device import open_device
from client_app.kept import own_model
from common import registry
from common.data.load import load
from common.modelfile import load_model
from common.newcomer import NEWCOMER, load_newcomer
from deploy.adapt import adapt_model
from deploy.export import export_model
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import contract, read_settings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.own_images import write_digits

Run = Callable[..., Path]
QUICK = ("ditto", "gpfl")
WHOLE = ("ditto", "fedala", "local", "pfedme")  # need nothing but the device's memory
COMPOSED = ("gpfl", "fedcp")  # are more than a network of the run's architecture
METHODS = ("fedbn", "feddbe", "fedper", "fedrep", *WHOLE, *COMPOSED)
SMALL = {
    "data.sources": 2, "data.targets": 1, "rounds": 2, "evaluation.every": 0, "run-name": "own",
}  # fmt: skip


@pytest.mark.parametrize(
    "method",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_it_leaves_a_device_and_a_new_device_gets_one(method: str, small_run: Run, tmp_path: Path):
    assert registry.load(server_app.methods, method).Server.personal
    config = default_config() | SMALL | {"method": method}
    nodes = node_configs(read_settings(config)[0].data)
    state = tmp_path / "state"
    grid = InProcessGrid(devices, [n | {"state-folder": str(state)} for n in nodes], config)
    run, place = small_run(method, SMALL, grid=grid), state / "own" / "client-0"

    # What a device that trained would use now, on its own images and in a file.
    device = open_device(grid.contexts[FIRST_NODE], read_settings(config)[0])
    half = registry.load(client_app.methods, method)
    down, _ = load_newcomer(run / NEWCOMER, contract(method).Down)
    digits = load("digits")
    pixels = digits.pixels(np.arange(25))
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (digits.mean, digits.std))
    scaled = (torch.tensor(pixels).float() / 255 - mean) / std
    with torch.no_grad():
        expected = half.personal(down, device, device.client, 0).eval()(scaled).softmax(1).numpy()
        mine = own_model(place, None if method in WHOLE else down)[0](scaled).softmax(1).numpy()
    np.testing.assert_allclose(mine, expected, atol=1e-6)
    source = None if method in WHOLE else run
    path = export_model(source, "torchscript", tmp_path / "own.pt", place)
    with torch.no_grad():
        answers = torch.jit.load(str(path))(torch.tensor(pixels)).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-5)

    # A new device: it learns from its support images and predicts, as a file where it can be one.
    if method not in COMPOSED:
        found = adapt_model(
            run, write_digits(tmp_path / "images", 20), tmp_path / "new.safetensors", steps=30
        )
        assert found.after >= found.before
        model: Any = load_model(found.path)[0]
        with torch.no_grad():
            assert model.module.eval()(scaled).shape == (25, 10)
