"""``import augflower``: a program's own modules and images go through the code of every run."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset, TensorDataset

import augflower
from augflower.clients import partitions, pool
from common.data.images import fit
from common.data.load import load
from common.data.own import SERVER
from common.errors import DataError, ModelError, RunError
from common.modelfile import load_model
from tests.conftest import SMALL

QUIET = {"show": None}


@pytest.fixture
def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load("digits")
    return data.pixels(np.arange(400)), data.labels[:400]


@pytest.fixture
def clients(digits) -> list[tuple[np.ndarray, np.ndarray]]:
    images, labels = digits
    return [(images[i::8], labels[i::8]) for i in range(8)]


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def test_a_named_run_is_that_of_the_command_line(tmp_path: Path, small_run):
    """Bit for bit: the package adds nothing of its own."""
    run = augflower.simulate(
        method="fedavg", name="a", runs=tmp_path / "python", settings=SMALL, **QUIET
    )
    other = small_run("fedavg", {"run-name": "a"})
    ours, theirs = (load_model(f / "models/last.safetensors")[0] for f in (run.folder, other))
    assert np.array_equal(ours.parameters.vector, theirs.parameters.vector)
    assert run.meta.status == "finished"
    assert repr(run) == f"Run({str(tmp_path / 'python/a')!r}, fedavg, finished)"


def test_own_clients_train_an_own_module(tmp_path: Path, clients):
    module = network()
    before = copy.deepcopy(module.state_dict())
    run = augflower.simulate(
        method="fedavg", model=module, clients=clients, rounds=3, name="own", runs=tmp_path,
        settings={"fedavg.sgd.epochs": 20, "fedavg.sgd.lr": 0.1, "evaluation.every": 1}, **QUIET,
    )  # fmt: skip
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert (run.settings["data.sources"], run.settings["data.targets"]) == (6, 2)
    trained = run.model()
    assert isinstance(trained, nn.Sequential)
    assert not torch.equal(trained[1].weight, module[1].weight)
    # What the model says of the targets' images is what the run says of them.
    figures = run.metrics
    assert figures.index.tolist() == [0, 1, 2, 3]
    assert figures["accuracy_before"][3] > figures["accuracy_before"][0] + 0.2
    assert figures["replies"].tolist() == [0, 6, 6, 6]
    card = run.card
    images = torch.from_numpy(clients[7][0]).float() / 255
    with torch.no_grad():
        said = trained((images - card.mean[0]) / card.std[0]).argmax(1).numpy()
    assert (said == clients[7][1]).mean() > 0.5


def test_the_parts_of_clients(tmp_path: Path, clients):
    run = augflower.simulate(
        method="fedavg", clients=clients, targets=3, rounds=2, name="own", runs=tmp_path,
        settings={"evaluation.every": 1}, **QUIET,
    )  # fmt: skip
    parts = run.clients
    assert (parts["part"] == "training").sum() == 2 * 5
    training = parts[parts["part"] == "training"]
    assert sorted(training[training["round"] == 1]["client"].astype(int)) == [0, 1, 2, 3, 4]
    # The only image of its class at a client cannot be in both of its halves.
    counts = [np.bincount(labels) for _, labels in clients[:5]]
    used = {str(i): int(n[n > 1].sum()) for i, n in enumerate(counts)}
    assert training.set_index("client")["examples"].to_dict() == used
    evaluated = parts[(parts["part"] == "evaluation") & (parts["round"] == 2)]
    assert sorted(evaluated["client"].astype(int)) == [5, 6, 7]
    share = np.average(evaluated["accuracy_after"], weights=evaluated["examples"])
    assert share == pytest.approx(run.metrics["accuracy_after"][2])


def test_a_list_keeps_each_client_its_own_images(clients):
    data = partitions(clients, server=clients[0])
    assert data.owners is not None
    for number, (images, labels) in enumerate(clients):
        held = data.owners == number
        assert np.array_equal(data.images[held], images)
        assert np.array_equal(data.labels[held], labels)
    assert (data.owners == SERVER).sum() == 50


def test_every_form_of_a_client_is_the_same(digits):
    images, labels = digits[0][:20], digits[1][:20]
    floats = torch.from_numpy(images).float() / 255
    forms = [
        (images, labels),
        (images[:, 0], labels.tolist()),
        (floats, torch.from_numpy(labels)),
        ([Image.fromarray(image[0]) for image in images], labels),
        TensorDataset(floats, torch.from_numpy(labels)),
        Subset(TensorDataset(floats, torch.from_numpy(labels)), range(20)),
    ]
    for name in ("image", "img"):
        forms.append(
            [
                {name: Image.fromarray(image[0]), "label": int(label)}
                for image, label in zip(images, labels, strict=True)
            ]
        )
    for form in forms:
        data = partitions([form, form])
        assert np.array_equal(data.images[:20], images)
        assert np.array_equal(data.labels[20:], labels)


def test_colour_images_with_the_channels_last():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    data = pool((pixels, [0, 1, 0, 1]))
    assert np.array_equal(data.images, pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (np.full((2, 4, 4), 3.0), [0, 1], r"values from 3 to 3: .* before any normalisation"),
        (np.full((2, 4, 4), -1), [0, 1], "values from -1 to -1"),
        (np.zeros((2, 4, 4)), [0], "client 1 has 2 images and 1 labels"),
        (np.zeros((0, 4, 4)), [], "client 1 has 0 images"),
        (np.zeros((2, 5, 5)), [0, 1], "several shapes"),
        (np.zeros((2, 4, 4)), [0, -1], "labels count from 0 to 1"),
    ],
)  # fmt: skip
def test_what_is_no_client_is_refused(images, labels, reason: str):
    good = (np.zeros((2, 4, 4)), [0, 1])
    with pytest.raises(DataError, match=reason):
        partitions([good, (images, labels)])


def test_images_of_two_channels_are_refused():
    with pytest.raises(DataError, match="1 or 3 channels"):
        pool((np.zeros((2, 2, 4, 4)), [0, 1]))


def test_what_no_run_can_be_made_of_is_refused(tmp_path: Path, clients):
    def simulate(**options):
        augflower.simulate(method="fedavg", runs=tmp_path, rounds=1, **options, **QUIET)

    with pytest.raises(DataError, match="at least two clients"):
        simulate(clients=clients[:1])
    with pytest.raises(DataError, match="targets=8: of 8 clients at least one must train"):
        simulate(clients=clients, targets=8)
    with pytest.raises(DataError, match="int is no client"):
        simulate(clients=[1, 2])
    with pytest.raises(DataError, match=r"8 clients of its own: lower sources=9"):
        simulate(clients=clients, settings={"data.sources": 9})
    with pytest.raises(DataError, match="has 0 images for the server"):
        simulate(clients=clients, settings={"data.server-images": 5})
    with pytest.raises(DataError, match="names no clients"):
        simulate(clients="digits", settings={"data.partition": "natural"})
    with pytest.raises(ModelError, match="cannot take images"):
        simulate(clients=clients, model=nn.Linear(3, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_dealt(tmp_path: Path, digits):
    run = augflower.simulate(
        method="fedavg", clients=digits, targets=2, rounds=1, name="assigned", runs=tmp_path,
        settings={"data.sources": 3, "data.server-images": 0, "data.pretrain-images": 0}, **QUIET,
    )  # fmt: skip
    assert run.settings["data.partition"] == "random-pairs"
    assert (run.settings["data.image-size"], run.settings["data.channels"]) == (8, 1)
    assert run.metrics["replies"][1] == 3


def test_the_server_s_own_images_reach_the_regularizer(tmp_path: Path, clients):
    said: list[str] = []
    augflower.simulate(
        method="augfl", clients=clients[1:], server=clients[0], rounds=1, runs=tmp_path, name="k",
        settings={"knowledge.crd": 0.0}, show=said.append,
    )  # fmt: skip
    assert "R_h on 50 images of the server" in said


def test_a_larger_size_is_made_of_the_same_images(tmp_path: Path, clients):
    run = augflower.simulate(
        method="fedavg", clients=clients, rounds=1, runs=tmp_path, name="large",
        settings={"data.image-size": 16}, **QUIET,
    )  # fmt: skip
    assert run.card.image_size == 16
    assert fit(clients[0][0], 16, 1).shape == (50, 1, 16, 16)


def test_a_run_goes_on(tmp_path: Path, clients):
    options = {"method": "fedavg", "clients": clients, "runs": tmp_path, "name": "r", **QUIET}
    augflower.simulate(rounds=1, **options)
    run = augflower.simulate(rounds=3, settings={"resume": True}, **options)
    whole = augflower.simulate(rounds=3, **options | {"runs": tmp_path / "whole"})
    ours, theirs = (one.model().state_dict() for one in (run, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_module_of_another_process_is_asked_for(tmp_path: Path, clients, monkeypatch):
    run = augflower.simulate(
        method="fedavg", model=network(), clients=clients, rounds=1, runs=tmp_path, name="m",
        **QUIET,
    )  # fmt: skip
    expected = run.model().state_dict()
    monkeypatch.delitem(sys.modules["common.models.zoo"]._REGISTERED, run.settings["model"])
    again = augflower.open(run.folder)
    with pytest.raises(ModelError, match="no model is named"):
        again.model()
    found = again.model(like=network()).state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_tables_and_figures_of_old_runs(tmp_path: Path, small_run):
    for seed in (0, 1):
        small_run("fedavg", {"run-name": f"s{seed}", "seed": seed})
    found = augflower.runs(tmp_path)
    assert isinstance(found, pd.DataFrame)
    assert found["seed"].to_dict() == {"s0": 0, "s1": 1}
    run = augflower.open(tmp_path / "s1")
    assert found["accuracy_after"]["s1"] == run.metrics["accuracy_after"].iloc[-1]
    axes = run.plot()
    assert [line.get_label() for line in axes.lines] == ["s1 accuracy_before", "s1 accuracy_after"]
    line = run.plot("loss", axes=axes).lines[-1]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == run.metrics["loss"].dropna().tolist()
    assert run.report().stat().st_size > 1000
    with pytest.raises(RunError, match="holds no run"):
        augflower.open(tmp_path)
