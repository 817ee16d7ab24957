"""LoRA with ranks by device: what averages of factors mean, by hand, and FedAvg as the limit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SettingsError
from common.methods import fedavg as fedavg_contract
from common.methods.lora import Up
from common.task import Task
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods import fedavg
from server_app.methods.lora import Server, Settings
from tests.conftest import backbone

Run = Callable[..., Path]
Client = tuple[int, Any, Any]
"""Images, A and B after training."""

A, B, NONE = np.ones((2, 5)), np.ones((4, 2)), Tensors((), {})


def server(average: str, a: Any, b: Any, ranks: str = "") -> Server:
    arrays = {"w.a": np.array(a, np.float32), "w.b": np.array(b, np.float32)}
    model = Tensors.pack({**arrays, "head": np.ones(2, np.float32)})
    task = Task(f"cnn-tiny+lora-{len(a)}", 10, 1, 8)
    settings = Settings.model_validate({"average": average, "ranks": ranks})
    return Server(settings, Setup(model, task=task))


def play(method: Server, clients: Sequence[Client]) -> tuple[np.ndarray, np.ndarray, float]:
    """A round in which clients send these factors, and a head moved by their number; new A and B,
    and the error."""
    replies = Replies(method)
    for client, (images, a, b) in enumerate(clients):
        sent = method.broadcast(1, client).model
        arrays = {"w.a": np.array(a, np.float32), "w.b": np.array(b, np.float32)}
        after = Tensors.pack({**arrays, "head": np.full(2, 1.0 + client, np.float32)})
        change = after.with_vector(after.vector - sent.vector)
        replies.accept(replies.offer(client, Up(1, images, 0.5, change)))
    error = method.step(1, replies)["aggregation_error"]
    found = method.model.unpack()
    images = [client[0] for client in clients]
    np.testing.assert_allclose(found["head"], 1 + np.average(range(len(images)), weights=images))
    return np.array(found["w.a"]), np.array(found["w.b"]), error


SCALARS: list[Client] = [(10, [[2.0]], [[1.0]]), (10, [[4.0]], [[3.0]])]


def test_the_mean_of_products_is_seven_and_the_product_of_means_six():
    a, b, error = play(server("coverage", [[0.0]], [[0.0]]), SCALARS)
    assert b @ a == pytest.approx(6)
    assert error == pytest.approx(1 / 7)
    a, b, error = play(server("product", [[0.0]], [[0.0]]), SCALARS)
    assert b @ a == pytest.approx(7)
    assert error == pytest.approx(0, abs=1e-6)


def some(seed: int, ranks: Sequence[int]) -> list[Client]:
    dice = np.random.default_rng(seed)
    return [
        (10 * (n + 1), dice.normal(size=(rank, 5)), dice.normal(size=(4, rank)))
        for n, rank in enumerate(ranks)
    ]


def meant(clients: Sequence[Client]) -> np.ndarray:
    total = sum(images for images, _, _ in clients)
    return np.array(sum(images / total * b @ a for images, a, b in clients))


def test_the_product_is_exact_while_ranks_suffice_and_else_the_nearest():
    zeros = np.zeros((4, 5)), np.zeros((4, 4))
    clients = some(0, [2, 1])
    a, b, error = play(server("product", *zeros, ranks="2,1"), clients)
    np.testing.assert_allclose(b @ a, meant(clients), rtol=1e-4, atol=1e-6)
    assert error < 1e-6
    assert np.abs(b[:, 3:]).max() < 1e-6, "of rank 3"

    clients = some(1, [2, 2])
    a, b, error = play(server("product", zeros[0][:2], zeros[1][:, :2]), clients)
    u, s, v = np.linalg.svd(meant(clients))
    np.testing.assert_allclose(b @ a, u[:, :2] * s[:2] @ v[:2], rtol=1e-4, atol=1e-5)
    assert error == pytest.approx(np.linalg.norm(s[2:]) / np.linalg.norm(s), rel=1e-4)


def test_the_first_ranks_of_the_product_are_the_best_for_who_has_less():
    clients = some(1, [2, 2])
    method = server("product", np.zeros((2, 5)), np.zeros((4, 2)), ranks="2,2,1")
    play(method, clients)
    sent = method.broadcast(2, 2).model.unpack()
    u, s, v = np.linalg.svd(meant(clients))
    best = s[0] * np.outer(u[:, 0], v[0])
    np.testing.assert_allclose(sent["w.b"] @ sent["w.a"], best, rtol=1e-4, atol=1e-5)


def test_ranks_that_few_have_are_averaged_over_these_or_shrink():
    a, b = np.full((3, 2), 9.0), np.full((2, 3), 9.0)
    clients: list[Client] = [
        (10, np.full((1, 2), 1.0), np.full((2, 1), 3.0)),
        (30, np.full((2, 2), 5.0), np.full((2, 2), 7.0)),
    ]
    new_a, new_b, _ = play(server("coverage", a, b, ranks="1,2"), clients)
    np.testing.assert_allclose(new_a, [[4, 4], [5, 5], [9, 9]])
    np.testing.assert_allclose(new_b, [[6, 7, 9], [6, 7, 9]])
    new_a, new_b, _ = play(server("zeros", a, b, ranks="1,2"), clients)
    np.testing.assert_allclose(new_a, [[4, 4], [3.75, 3.75], [0, 0]])
    np.testing.assert_allclose(new_b, [[6, 5.25, 0], [6, 5.25, 0]])


def test_of_one_rank_coverage_is_fedavg_and_the_zeros_are_none():
    clients = some(3, [2, 2, 2])
    one, other = (server(average, A, B) for average in ("coverage", "zeros"))
    plain = fedavg.Server(fedavg.Settings(), Setup(one.model))
    replies = Replies(plain)
    for client, (images, a, b) in enumerate(clients):
        after = np.concatenate([np.ravel(a), np.ravel(b), np.full(2, 1.0 + client)])
        change = one.model.with_vector((after - one.model.vector).astype(np.float32))
        replies.accept(replies.offer(client, fedavg_contract.Up(1, images, 0.5, change, NONE)))
    plain.step(1, replies)
    for method in (one, other):
        play(method, clients)
        np.testing.assert_allclose(method.model.vector, plain.model.vector, rtol=1e-5, atol=1e-6)


def test_fewer_ranks_than_there_may_be_leave_the_rest():
    old = np.arange(15.0).reshape(3, 5)
    a, b, _ = play(server("product", old, np.zeros((4, 3)), ranks="1"), some(4, [1]))
    np.testing.assert_allclose(a[1:], old[1:])
    np.testing.assert_array_equal(b[:, 1:], 0)


def test_an_operator_bounds_the_rank():
    method = server("product", np.zeros((4, 5)), np.zeros((4, 4)), ranks="4,2")
    method.enrol(0, Source(10, width=0.3))
    assert [method.rank_of(client) for client in range(3)] == [1, 2, 4]
    assert method.broadcast(1, 0).model.unpack()["w.b"].shape == (4, 1)


def test_ranks_run_over_the_wire(tmp_path: Path, small_run: Run):
    overrides = {
        "model": "cnn-tiny+lora-4", "pretrained-weights": backbone(tmp_path), "lora.ranks": "4,2,1",
    }  # fmt: skip
    found = {}
    for average in ("product", "coverage"):
        folder = small_run("lora", overrides | {"lora.average": average, "run-name": average})
        line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert [entry["rank"] for entry in line["clients"]] == [4, 2, 1]
        found[average] = line["method"]["aggregation_error"]
    assert found["product"] < found["coverage"]


@pytest.mark.parametrize(
    ("model", "ranks", "told"),
    [
        ("cnn-tiny", "", "NAME.lora-N"),
        ("cnn-tiny+bias", "", "NAME.lora-N"),
        ("cnn-tiny+lora-4", "4,8", "from 1 to that of the model, 4"),
        ("cnn-tiny+lora-4", "0", "from 1"),
    ],
)
def test_what_has_no_such_ranks_is_refused(model: str, ranks: str, told: str):
    made = Tensors.pack({"w": np.zeros(2, np.float32)})
    with pytest.raises(SettingsError, match=told):
        Server(Settings(ranks=ranks), Setup(made, task=Task(model, 10, 1, 8)))
