"""Methods of other shapes than a shared vector, dropped in by a test and run by the real shells."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from typer.testing import CliRunner

import augflower
import client_app.app
import client_app.methods
import common.methods
import server_app.methods
from common.config import DataSettings
from common.data.load import load
from common.errors import ModelError, RunError
from common.newcomer import load_newcomer
from common.tensorfile import parse
from deploy.cli import app as cli
from deploy.export import export_model
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import contract
from server_app.transport.in_process import InProcessGrid

Run = Callable[..., Path]
BIG = 2**19
"""Entries of a vector of 2 MiB; the digits' model has a hundredth of it."""

CONTRACT = '''
from dataclasses import dataclass
from typing import Annotated, Literal
from common.contract import Between, Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors

@dataclass(frozen=True)
class Down(Work):
    """No model: what a client gets are the prototypes of its classes."""

    prototypes: Tensors
    sgd: LocalSgd
    kind: Literal["mean", "last"]

@dataclass(frozen=True)
class Up(Result):
    prototypes: Tensors
    one: Tensors
    two: Tensors
    kind: Literal["mean", "last"]
    sgd: LocalSgd
'''

DEVICE = f"""
import numpy as np
import torch
from torch import nn
from common.tensors import Tensors
from common.methods.NAME import Down, Up

LONG = {BIG}

def train(down, device):
    images, labels = device.images
    mine = {{
        str(int(k)): images[labels == k].mean(0).flatten().numpy() for k in labels.unique()
    }}
    big = Tensors.pack({{"v": np.full(LONG, float(down.round), np.float32)}})
    return Up(
        down.round, device.examples, 0.5, Tensors.pack(mine), big, big, down.kind, down.sgd
    )

class Nearest(nn.Module):
    def __init__(self, prototypes, classes):
        super().__init__()
        self.centres = torch.zeros(classes, 64)
        for name, array in prototypes.unpack().items():
            self.centres[int(name)] = torch.tensor(array)

    def forward(self, images):
        return -torch.cdist(images.flatten(1), self.centres)

def personal(down, device, data, steps):
    return Nearest(down.prototypes, len(device.classes))
"""

SERVER = f"""
from common.methods.NAME import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import AnyOf, Exactly, Vector
from server_app.aggregation.replies import EMPTY
from server_app.method import Method, MethodSettings, Saved

CLASSES = tuple((str(k), (64,), "float32") for k in range(10))
WHOLE = (("v", ({BIG},), "float32"),)

class Settings(MethodSettings):
    kind: str = "mean"
    sgd: LocalSgd = LocalSgd()

class Server(Method):
    down, up, personal = Down, Up, True
    prototypes: Saved[Tensors]
    seen: Saved[dict[int, Tensors]]
    notes: Saved[Tensors]
    ground: Saved[Tensors]

    def __init__(self, settings, setup):
        super().__init__(settings, setup)
        self.model, self.prototypes, self.seen = None, EMPTY, {{}}
        self.notes = self.ground = EMPTY

    def expects(self, client):
        return {{"prototypes": AnyOf(CLASSES), "one": Vector(WHOLE), "two": Exactly(WHOLE)}}

    def step(self, round, replies):
        self.prototypes = replies.averaged("prototypes", self.prototypes)
        sums = {{"one": replies.average("one"), "two": replies.averaged("two", EMPTY)}}
        self.notes = self.ground = sums["two"]
        return {{name: float(each.vector.mean()) for name, each in sums.items()}}
"""

SIDES = {
    "common": common.methods,
    "client_app": client_app.methods,
    "server_app": server_app.methods,
}
NUMBERS = itertools.count()


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Add a method to the running project; gives its name. Texts are exchanged in all its files."""

    def add(**changes: str) -> str:
        name = f"thrown_away_{next(NUMBERS)}"
        for side, source in zip(SIDES, (CONTRACT, DEVICE, SERVER), strict=True):
            folder = tmp_path / "dropped" / side
            folder.mkdir(parents=True, exist_ok=True)
            text = source
            for old, new in changes.items():
                text = text.replace(OLD[old], new)
            (folder / f"{name}.py").write_text(text.replace("NAME", name))
            package = SIDES[side]
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
            monkeypatch.setitem(sys.modules, f"{side}.methods.{name}", None)
            del sys.modules[f"{side}.methods.{name}"]
        client_app.app._register(name)
        return name

    return add


OLD = {
    "down": "    prototypes: Tensors\n    sgd: LocalSgd\n",
    "contract": "    two: Tensors\n",
    "sent": "big, big, down.kind",
    "expected": ', "two": Exactly(WHOLE)',
    "long": f"LONG = {BIG}",
    "kind": "down.kind, down.sgd",
    "personal": "down, up, personal = Down, Up, True",
}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def prototypes(folder: Path) -> dict[str, np.ndarray]:
    path = sorted((folder / "checkpoints").glob("*.safetensors"))[-1]
    groups, _ = parse(path.read_bytes(), str(path))
    # Names that the shell might have taken for groups of its own.
    assert len(groups["notes"]) == len(groups["ground"]) == BIG
    return groups["prototypes"].unpack()


def test_prototypes_and_two_large_vectors_without_a_global_model(drop: Any, small_run: Run):
    name, said = drop(), list[str]()
    folder = small_run(name, {"run-name": "whole", "rounds": 3}, notice=said.append)
    record = lines(folder)
    for line in record[1:]:
        assert (line["replies"], line["rejected"]) == (3, [])
        assert line["method"] == {"one": line["round"], "two": line["round"]}
        assert line["bytes_up"] > 3 * 2 * 4 * BIG
    first, last = (record[i]["evaluation"] for i in (0, 3))
    assert first["loss_after"] != last["loss_after"], "personal models, of what came up"
    assert [*folder.glob("models/*")] == []
    assert any("no model is written" in text for text in said)
    # A class is the mean over those that have it; with three clients, not all classes are there.
    assert 2 <= len(prototypes(folder)) < 10


def test_it_goes_on_from_a_checkpoint_without_a_model(drop: Any, small_run: Run):
    name = drop()
    whole = small_run(name, {"run-name": "whole", "rounds": 3})
    small_run(name, {"run-name": "cut", "rounds": 1})
    cut = small_run(name, {"run-name": "cut", "rounds": 3, "resume": True})
    one, other = prototypes(whole), prototypes(cut)
    assert one.keys() == other.keys()
    assert all(one[k].tobytes() == other[k].tobytes() for k in one)
    assert [line["round"] for line in lines(cut)] == [0, 1, 2, 3]


def told_before(drop: Any, small_run: Run, match: str, **changes: str) -> None:
    """Refused, and no client has been asked to train."""
    name, kinds = drop(**changes), set[str]()

    def note(message: Message, reply: Message) -> Message:
        kinds.add(message.metadata.message_type)
        return reply

    with pytest.raises(RunError, match=match):
        small_run(name, interfere=note)
    assert not {kind for kind in kinds if kind.startswith("train")}


def test_a_field_that_nobody_expects_is_told_before_round_1(drop: Any, small_run: Run):
    told_before(
        drop, small_run, "two of its Up is not in what its server half expects", expected=""
    )


def test_what_is_expected_of_no_field_is_told_before_round_1(drop: Any, small_run: Run):
    told_before(
        drop, small_run, "expects two, which is no field of tensors of its Up",
        contract="    two: float\n", sent="big, 2.0, down.kind",
    )  # fmt: skip


def test_a_field_of_down_that_nobody_fills_is_told_before_anything(drop: Any, small_run: Run):
    told_before(
        drop, small_run, "centre of its Down is neither a setting nor an attribute",
        down="    prototypes: Tensors\n    sgd: LocalSgd\n    centre: float\n",
    )  # fmt: skip


def test_a_method_with_no_model_at_all_is_told_before_anything(drop: Any, small_run: Run):
    told_before(
        drop, small_run, "has neither a global model nor personal ones",
        personal="down, up = Down, Up",
    )  # fmt: skip


def rejections(folder: Path) -> set[tuple[str, str]]:
    return {(entry["field"], entry["reason"]) for entry in lines(folder)[1]["rejected"]}


def test_more_than_is_expected_is_refused(drop: Any, small_run: Run):
    short = {"rounds": 1, "evaluation.every": 0}
    much = small_run(drop(long=f"LONG = {BIG + 2**18}"), {**short, "run-name": "much"})
    assert [field for field, _ in rejections(much)] == ["size"]
    assert lines(much)[1]["replies"] == 0
    # Within the size that other fields may take, the pattern finds it.
    little = small_run(drop(long=f"LONG = {BIG + 1}"), {**short, "run-name": "little"})
    wanted = f"has v float32 ({BIG + 1},), expected v float32 ({BIG},)"
    assert rejections(little) == {("one", wanted)}


def test_a_run_without_a_global_model_says_so(drop: Any, small_run: Run, tmp_path: Path):
    """In run.json, and where its model is asked for; models come off the devices instead."""
    name = drop()
    config = {"data.sources": 3, "data.targets": 4, "run-name": "own", "method": name}
    nodes = [
        node | {"state-folder": str(tmp_path / "state")}
        for node in node_configs(DataSettings(sources=3, targets=4))
    ]
    grid = InProcessGrid(client_app.app.app, nodes, default_config() | config)
    folder = small_run(name, config, grid=grid)
    assert json.loads((folder / "run.json").read_text())["global_model"] is False
    assert [*folder.glob("models/*")] == []
    told = f"has no global model, for in {name} each client has its own: take one off a device"
    for command in (["export"], ["predict", str(tmp_path)]):
        done = CliRunner().invoke(cli, [command[0], str(folder), *command[1:]])
        assert isinstance(done.exception, ModelError)
        assert told in str(done.exception)
    for which in ("last", "best"):
        with pytest.raises(ModelError, match="has no global model"):
            augflower.open(folder).model(which)
    device = tmp_path / "state" / "own" / "client-0"
    with pytest.raises(ModelError, match=r"what the server sends \(prototypes\): name the folder"):
        export_model(None, device=device)
    written = export_model(folder, "torchscript", tmp_path / "own.pt", device)
    pixels = load("digits").pixels(np.arange(50))
    card = load_newcomer(folder / "newcomer.safetensors", contract(name).Down)[1]
    scaled = (pixels / 255 - card.mean[0]) / card.std[0]
    kept = prototypes(folder)
    centres = np.stack([kept.get(str(k), np.zeros(64)) for k in range(10)])
    distances = np.linalg.norm(scaled.reshape(50, 1, 64) - centres, axis=2)
    answers = torch.jit.load(str(written))(torch.tensor(pixels)).numpy()
    assert np.array_equal(answers.argmax(1), distances.argmin(1))
    with pytest.raises(ModelError, match="is no cnn-tiny alone"):
        export_model(folder, "safetensors", tmp_path / "own.safetensors", device)
