"""The private model, planted with a recognisable value, is in nothing that leaves the server."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import message_to_proto

import server_app.methods
from client_app.app import app
from common import registry
from common.models.preprocessing import Preprocessing
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import read_settings
from server_app.private.pretrained import PretrainedModel, build_architecture
from server_app.transport.in_process import InProcessGrid
from tests.conftest import SMALL, drop_the_allow_list, needed, own_server

VALUE = 1234.5678
# A run of three: one value alone may come up by chance in a half-width format.
MARKS = [
    np.full(3, VALUE, dtype).tobytes() for dtype in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")
] + [torch.full((3,), VALUE, dtype=torch.bfloat16).view(torch.int16).numpy().tobytes()]
PLACE = "the-private-folder"


class Listening(InProcessGrid):
    """Keeps the bytes of every message that the server sends."""

    sent: list[bytes]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.sent += [message_to_proto(message).SerializeToString() for message in messages]
        return super().push_messages(messages)


def leaks(sent: Iterable[bytes]) -> bool:
    return any(mark in data for data in sent for mark in [*MARKS, PLACE.encode()])


@pytest.fixture
def private_model(tmp_path: Path) -> Path:
    """A model for the digits whose every weight but the last layer's is the canary's."""
    preprocessing = Preprocessing(1, 8, (0.3053,), (0.3759,))
    module = build_architecture("cnn-tiny", 10, preprocessing)
    with torch.no_grad():
        for parameter in list(module.parameters())[:-2]:
            parameter.fill_(VALUE)
    model = PretrainedModel(
        module=module, architecture="cnn-tiny", classes=tuple("0123456789"),
        preprocessing=preprocessing,
    )  # fmt: skip
    model.save(tmp_path / PLACE)
    return tmp_path / PLACE


BARELY = {"augfl.lambda": 1e-9, "transfer.rate": 1e-9, "fed_lpfm.lambda": 0.0}
"""A model of such weights teaches nothing: it must take part, and not spoil the run."""


def listen(method: str, private_model: Path, small_run: Callable[..., Path]) -> list[bytes]:
    overrides = {**SMALL, "method": method, "knowledge.kl": 1.0, **BARELY}
    overrides |= needed(method, private_model.parent)
    config = default_config() | overrides
    grid = Listening(app, node_configs(read_settings(config)[0].data), config)
    grid.sent = []
    folder = private_model.parent
    server = replace(own_server(folder), private_model=str(private_model), runs=folder / "runs")
    small_run(method, overrides, server=server, grid=grid)
    return grid.sent


@pytest.mark.parametrize("method", registry.names(server_app.methods))
def test_no_message_holds_it(method: str, private_model: Path, small_run: Callable[..., Path]):
    assert leaks(path.read_bytes() for path in private_model.iterdir())
    sent = listen(method, private_model, small_run)
    assert len(sent) >= 4
    assert not leaks(sent)


def test_a_leaking_server_is_caught(
    private_model: Path, small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    half = registry.load(server_app.methods, "augfl")
    honest = half.Server.broadcast

    def broadcast(self: object, round: int, node: int) -> object:
        down = honest(self, round, node)
        leaked = down.model.vector.copy()
        leaked[:100] = VALUE
        object.__setattr__(down, "model", down.model.with_vector(leaked))
        return down

    monkeypatch.setattr(half.Server, "broadcast", broadcast)
    assert leaks(listen("augfl", private_model, small_run))


def bundled(root: Path) -> list[bytes]:
    """Names and contents of all that a device is sent before a run."""
    with zipfile.ZipFile(BytesIO(build_fab_from_disk(root))) as bundle:
        names = bundle.namelist()
        return [name.encode() for name in names] + [bundle.read(name) for name in names]


@pytest.fixture
def careless(project: Path, private_model: Path) -> Path:
    """A project in which the model's folder lies about, and its bytes in a file of the server's."""
    for place in (project / PLACE, project / "client_app" / PLACE):
        shutil.copytree(private_model, place)
    plant(private_model, project / "server_app/private/stray.py")
    return project


def plant(private_model: Path, target: Path) -> None:
    (weights,) = private_model.glob("*.safetensors")
    target.write_bytes(weights.read_bytes())


def test_no_bundle_holds_it(careless: Path):
    contents = bundled(careless)
    assert b"client_app/app.py" in contents
    assert not leaks(contents)


def test_a_bundle_without_the_allow_list_is_caught(careless: Path):
    assert MARKS[2] in (careless / "server_app/private/stray.py").read_bytes()
    drop_the_allow_list(careless)
    assert leaks(bundled(careless))


def test_a_bundle_with_its_bytes_in_device_code_is_caught(careless: Path, private_model: Path):
    plant(private_model, careless / "client_app/stray.py")
    assert leaks(bundled(careless))
