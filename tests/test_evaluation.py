"""Evaluation by targets, sources or both, of the global model or of personal ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from client_app.adapt import evaluate_personal
from client_app.app import app
from client_app.device import open_device
from client_app.methods import fml
from client_app.own_model import new_model, recall
from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from common.errors import SettingsError
from common.modelfile import load_model
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import read_settings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid

BOTH = {
    "evaluation.who": "both", "data.test-fraction": 0.3, "data.sources": 3, "data.targets": 4,
    "data.samples-min": 12, "evaluation.every": 2, "rounds": 2,
}  # fmt: skip
Run = Callable[..., Path]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def grid_for(config: dict[str, Any]) -> InProcessGrid:
    full = default_config() | config
    return InProcessGrid(app, node_configs(read_settings(full)[0].data), full)


def test_test_images_are_nobody_elses_and_none_are_by_default():
    labels = load("digits", image_size=8, channels=1).labels
    plain = plan(labels, DataSettings())
    assert not any(len(client.test) for client in plain.clients)
    cut = plan(labels, DataSettings(test_fraction=0.3))
    seen: list[int] = [*cut.pretrain, *cut.server]
    for client in cut.clients:
        parts = (client.support, client.query, client.test)
        seen += [index for part in parts for index in part]
        held = sum(map(len, parts))
        assert len(client.test) == pytest.approx(0.3 * held, abs=len(client.classes))
        for part in parts:
            assert set(labels[part]) == set(client.classes)
    assert len(seen) == len(set(seen))


def test_the_digest_knows_of_test_images():
    labels = load("digits", image_size=8, channels=1).labels
    digests = {plan(labels, DataSettings(test_fraction=f)).digest() for f in (0.0, 0.2, 0.3)}
    assert len(digests) == 3


def test_sources_need_test_images():
    with pytest.raises(SettingsError, match=r"set data\.test-fraction"):
        read_settings(default_config() | {"evaluation.who": "sources"})


@pytest.mark.parametrize("who", ["targets", "sources", "both"])
def test_who_evaluates(who: str, small_run: Run):
    record = lines(small_run("fedavg", {**BOTH, "evaluation.who": who}))
    for line in (record[0], record[2]):
        found = {
            name: [entry["client"] for entry in (line.get(name) or {"clients": []})["clients"]]
            for name in ("evaluation", "evaluation_sources")
        }
        assert found == {
            "evaluation": [] if who == "sources" else ["3", "4", "5", "6"],
            "evaluation_sources": [] if who == "targets" else ["0", "1", "2"],
        }


def test_sources_do_on_images_that_they_never_trained_on_what_a_stranger_computes(small_run: Run):
    grid = grid_for(BOTH)
    folder = small_run("fedavg", BOTH, grid=grid)
    model, buffers, _ = load_model(folder / "models" / "last.safetensors")
    settings = read_settings(default_config() | BOTH)[0]
    for entry in lines(folder)[-1]["evaluation_sources"]["clients"]:
        device = open_device(grid.contexts[FIRST_NODE + int(entry["client"])], settings)
        data = device.client
        images, labels = data.evaluation
        assert images is data.test_images
        trained = device.images[0]
        assert not any((image == trained).all((1, 2, 3)).any() for image in images)
        device.model.load_tensors(model.parameters)
        device.model.load_buffers(buffers)
        with torch.no_grad():
            right = (device.model.module.eval()(images).argmax(1) == labels).float().mean()
        assert entry["accuracy_before"] == pytest.approx(float(right))
        common = np.bincount(device.images[1].numpy()).argmax()
        assert entry["accuracy_commonest"] == pytest.approx(
            float((labels == common).float().mean())
        )


def test_means_spread_and_the_worst_client(small_run: Run):
    found = lines(small_run("fedavg", BOTH))[-1]["evaluation_sources"]
    after, n = (
        np.array([c[key] for c in found["clients"]]) for key in ("accuracy_after", "examples")
    )
    assert found["accuracy_after"] == pytest.approx((after * n).sum() / n.sum())
    assert found["over_clients"]["accuracy_after"] == pytest.approx(after.mean())
    assert found["std_after"] == pytest.approx(after.std())
    assert found["worst_after"] == after.min()


def test_a_client_that_was_not_sampled_evaluates_as_well(small_run: Run):
    record = lines(small_run("fedavg", {**BOTH, "round.fraction": 0.3}))
    assert record[2]["asked"] == 1
    assert len(record[2]["evaluation_sources"]["clients"]) == 3


def test_a_wrong_evaluation_is_rejected_and_the_round_goes_on(small_run: Run):
    def lie(message: Message, reply: Message) -> Message:
        at = message.metadata
        if at.message_type.startswith("evaluate") and at.dst_node_id == FIRST_NODE:
            reply.content.config_records["fields"]["commonest"] = [10_000]
        return reply

    record = lines(small_run("fedavg", BOTH, interfere=lie))
    assert [entry["field"] for entry in record[2]["rejected"]] == ["commonest"]
    assert len(record[2]["evaluation_sources"]["clients"]) == 2


OWN = {**BOTH, "own-models": "cnn-tiny,resnet8x4-gn", "fml.sgd.epochs": 2, "fml.sgd.batch-size": 8}


def test_fml_evaluates_the_clients_own_models(small_run: Run):
    """A source answers with the model in its memory, of its own architecture."""
    grid = grid_for(OWN)
    folder = small_run("fml", OWN, grid=grid)
    settings = read_settings(default_config() | OWN | {"method": "fml"})[0]
    sizes = []
    for entry in lines(folder)[-1]["evaluation_sources"]["clients"]:
        device = open_device(grid.contexts[FIRST_NODE + int(entry["client"])], settings)
        own = new_model(device, 0)
        assert recall(device, "fml", own)
        images, labels = device.client.evaluation
        with torch.no_grad():
            right = (own.module.eval()(images).argmax(1) == labels).float().mean()
        assert entry["accuracy_after"] == entry["accuracy_before"] == pytest.approx(float(right))
        sizes.append(len(own.vector))
    assert sizes[0] == sizes[2] != sizes[1]


def test_a_new_client_of_fml_learns_its_own_model_from_the_shared_one(small_run: Run):
    config = {**OWN, "rounds": 4, "fml.sgd.lr": 0.1, "evaluation.steps": 20}
    record = lines(small_run("fml", config))
    targets = record[-1]["evaluation"]
    assert targets["loss_after"] < targets["loss_before"]
    assert targets["accuracy_before"] < targets["accuracy_after"]


def test_evaluating_learns_nothing(small_run: Run):
    grid = grid_for(OWN)
    often = small_run("fml", {**OWN, "evaluation.every": 1, "run-name": "often"})
    never = small_run("fml", {**OWN, "evaluation.every": 0, "run-name": "never"}, grid=grid)
    last = "models/last.safetensors"
    np.testing.assert_array_equal(
        *(load_model(folder / last)[0].vector.numpy() for folder in (often, never))
    )


def test_personal_models_are_asked_for_with_and_without_steps():
    taken: list[int] = []

    def personal(down: Any, device: Any, data: Any, steps: int) -> torch.nn.Module:
        taken.append(steps)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    grid = grid_for(BOTH)
    settings = read_settings(default_config() | BOTH)[0]
    device = open_device(grid.contexts[FIRST_NODE + 3], settings)
    up = evaluate_personal(personal, None, device, 5)
    assert taken == [0, 5] * 4
    assert up.clients == [3, 4, 5, 6]
    assert fml.personal.__module__ == "client_app.methods.fml"
