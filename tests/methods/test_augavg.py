"""AugAvg: an average in which the server takes part, as far as clients trust it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import client_app.methods.fedavg
import server_app.methods.fedavg
from client_app.methods.augavg import train
from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from common.methods.augavg import Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.method import Setup
from server_app.methods.augavg import Server, Settings, trust
from server_app.settings import ServerSettings
from tests.quadratic import QuadraticDevice, QuadraticKnowledge, play

START = Tensors.pack({"theta": np.linspace(-1, 1, 5).astype(np.float32)})
SGD = LocalSgd(lr=0.2, epochs=4, batch_size=0)
LABELS = {"knowledge.crd": 0.0, "data.sources": 5}


def server(knowledge: QuadraticKnowledge | None, believed: float, **settings: float) -> Server:
    """A server half that has had its clients' verdict."""
    one = Server(Settings(sgd=SGD, **settings), Setup(START, knowledge=knowledge))
    one.trust = believed
    return one


def fedavg(rounds: int, devices: list[QuadraticDevice]) -> np.ndarray:
    settings = server_app.methods.fedavg.Settings(sgd=SGD)
    average = server_app.methods.fedavg.Server(settings, Setup(START))
    play(average, client_app.methods.fedavg.train, devices, range(1, rounds + 1))
    return average.model.vector


@pytest.mark.parametrize(("believed", "weight"), [(0.0, 1.0), (0.7, 0.0)])
def test_without_trust_or_lambda_it_is_fedavg(believed: float, weight: float):
    devices = [QuadraticDevice(i) for i in range(3)]
    one = server(QuadraticKnowledge(4), believed, **{"lambda": weight})
    play(one, train, devices, range(1, 4))
    np.testing.assert_array_equal(one.model.vector, fedavg(3, devices))


def test_one_round_is_the_weighted_average_of_clients_and_server():
    devices, knowledge = [QuadraticDevice(i) for i in range(3)], QuadraticKnowledge(4)
    one = server(knowledge, 0.5, **{"lambda": 0.8, "steps": 1})
    metrics = play(one, train, devices, [1])[0]
    start = START.vector.astype(float)
    moved = [fedavg(1, [device]) - start for device in devices]
    slope = knowledge.R @ (start - knowledge.c)
    own = -2 * np.median([np.linalg.norm(move) for move in moved]) * slope / np.linalg.norm(slope)
    expected = start + (fedavg(1, devices) - start + 0.4 * own) / 1.4
    np.testing.assert_allclose(one.model.vector, expected, rtol=1e-4, atol=1e-5)
    assert metrics["trust"] == 0.5


@pytest.mark.parametrize("strength", [1e-3, 1e3])
def test_the_server_never_goes_farther_than_twice_a_client_at_the_median(strength: float):
    """However steep R_h is: lambda means the same on every data set."""
    devices = [QuadraticDevice(i) for i in range(3)]
    one = server(QuadraticKnowledge(4, strength=strength), 1.0, **{"lambda": 100.0})
    play(one, train, devices, [1])
    moved = [np.linalg.norm(fedavg(1, [device]) - START.vector) for device in devices]
    length = np.linalg.norm(one.model.vector - START.vector)
    assert np.median(moved) < length < 2.02 * np.median(moved)


def up(right: float, rival: float) -> Up:
    return Up(1, 10, 1.0, START, Tensors((), {}), right, rival)


def test_trust_is_the_share_of_errors_that_the_server_saves_at_the_median():
    assert trust([up(0.5, 0.7), up(0.6, 0.9), up(0.7, 0.8)]) == pytest.approx(0.5)
    assert trust([up(0.6, 0.5), up(0.6, 0.6), up(0.6, 0.4)]) == 0
    assert trust([up(1.0, 1.0)]) == 0


@pytest.mark.parametrize("lie", [(0.0, 1.0), (1.0, 0.0)])
def test_a_lying_minority_says_no_more_than_honest_clients_could(lie: tuple[float, float]):
    honest = [up(0.5, 0.5 + gain) for gain in (0.05, 0.1, 0.15)]
    told = trust([*honest, up(*lie), up(*lie)])
    assert 0.1 - 1e-9 <= told <= 0.3 + 1e-9


def run(folder: Path, small_run: Callable[..., Path], turned: bool) -> list[dict[str, float]]:
    """Two rounds with D_s as it is, or turned by a quarter."""
    data = DataSettings(sources=5, targets=4)
    pool = load(data.name, image_size=data.image_size, channels=data.channels)
    own = folder / f"images-{turned}"
    for index in plan(pool.labels, data).server:
        picture = np.rot90(pool.pixels(np.array([index]))[0, 0], turned)
        path = own / pool.classes[int(pool.labels[index])] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(picture)).save(path)
    server = ServerSettings(runs=folder, cache=folder / "cache", server_data=own)
    path = small_run("augavg", {**LABELS, "run-name": f"run-{turned}"}, server=server)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line["method"] for line in lines[1:]]


def test_clients_tell_right_images_of_the_server_from_wrong_ones(
    tmp_path: Path, small_run: Callable[..., Path]
):
    right, wrong = (run(tmp_path, small_run, turned) for turned in (False, True))
    assert right[0]["trust"] == right[1]["trust"] > 0.3
    assert wrong[0]["trust"] == wrong[1]["trust"] < 0.2
