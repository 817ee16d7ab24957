"""AugFL on quadratics, where everything has a closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor

from client_app.methods.augfl import train
from common.errors import RunError
from common.tensors import Tensors
from server_app.admm.safeguard import INNER
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods.augfl import Server, Settings
from server_app.saved import load, save
from tests.quadratic import QuadraticDevice, QuadraticKnowledge, enrol, optimum, play, take

ALPHA = 0.3


def vector(values: np.ndarray) -> Tensors:
    return Tensors.pack({"theta": values.astype(np.float32)})


def make(n: int = 4, knowledge: object = None, strength: float = 1.0, **settings: object):
    devices = [QuadraticDevice(seed, strength=strength) for seed in range(n)]
    published = {"adaptive-rho": False, "server-steps": 1}
    options = {"alpha": ALPHA, "lambda": 0.0, "rho": 1.0} | published | settings
    start = np.random.default_rng(99).normal(size=5)
    server = Server(Settings.model_validate(options), Setup(vector(start), knowledge=knowledge))
    enrol(server, devices)
    return server, devices


def weights(devices: list[QuadraticDevice]) -> np.ndarray:
    examples = np.array([device.examples for device in devices], float)
    return examples / examples.sum()


def meta_gradients(devices: list[QuadraticDevice], theta: np.ndarray) -> np.ndarray:
    return np.array([h @ theta - c for h, c in (d.affine(ALPHA) for d in devices)])


def dual(device: QuadraticDevice) -> np.ndarray:
    return device.memory.read("augfl")[0]["sent"].vector


def test_dual_is_the_weighted_meta_gradient_and_the_step_is_extrapolated():
    knowledge = QuadraticKnowledge(7)
    server, devices = make(knowledge=knowledge, **{"lambda": 0.5})
    w, before = weights(devices), np.zeros(5)
    for round in range(1, 8):
        theta = server.model.vector.astype(float)
        g = w @ meta_gradients(devices, theta)
        play(server, train, devices, [round])
        for i, device in enumerate(devices):
            expected = -w[i] * meta_gradients([device], theta)[0]
            np.testing.assert_allclose(dual(device), expected, atol=2e-5)
        slope = knowledge.R @ (theta - knowledge.c)
        np.testing.assert_allclose(
            server.model.vector, theta - (2 * g - before + 0.5 * slope) / 4.0, atol=5e-5
        )
        before = g


class Distance(QuadraticKnowledge):
    """R_h = w ||theta - c||^2, for which the exact form holds."""

    def __init__(self, seed: int, w: float) -> None:
        super().__init__(seed)
        self.R, self.distance_weight = 2 * w * np.eye(5), w


@pytest.mark.parametrize("w", [1.0, 2.5])
@pytest.mark.parametrize("update", ["linearised", "exact"])
def test_one_vector_equals_the_published_two(update: str, w: float):
    """The published update, written down with theta_i and y_i of every client."""
    knowledge = Distance(3, w)
    lambda_, rho = 0.4, 1.3
    server, devices = make(knowledge=knowledge, rho=rho, **{"lambda": lambda_, "update": update})
    share, n = weights(devices), len(devices)
    theta, y = server.model.vector.astype(float), np.zeros((n, 5))
    for round in range(1, 10):
        g = meta_gradients(devices, theta)
        local = theta - (y + share[:, None] * g) / rho  # (11)
        y = y + rho * (local - theta)  # (12)
        total = (y + rho * local).sum(0)
        if update == "exact":
            theta = (2 * lambda_ * w * knowledge.c + total) / (2 * lambda_ * w + n * rho)
        else:
            theta = (total - lambda_ * 2 * w * (theta - knowledge.c)) / (n * rho)  # (13)
        play(server, train, devices, [round])
        np.testing.assert_allclose(server.model.vector, theta, atol=1e-4)


@pytest.mark.parametrize("lambda_", [0.0, 0.7])
def test_reaches_the_optimum(lambda_: float):
    knowledge = QuadraticKnowledge(5)
    server, devices = make(knowledge=knowledge, **{"lambda": lambda_})
    play(server, train, devices, range(1, 200))
    best = optimum(devices, ALPHA, lambda_, knowledge)
    np.testing.assert_allclose(server.model.vector, best, atol=2e-3)


def test_reaches_the_optimum_although_clients_are_absent():
    knowledge = QuadraticKnowledge(5)
    server, devices = make(8, knowledge=knowledge, **{"lambda": 0.3})
    chosen = np.random.default_rng(1)
    play(
        server,
        train,
        devices,
        range(1, 1500),
        asked=lambda _: sorted(chosen.choice(8, size=3, replace=False).tolist()),
    )
    best = optimum(devices, ALPHA, 0.3, knowledge)
    np.testing.assert_allclose(server.model.vector, best, atol=5e-3)


def test_lost_replies_leave_no_trace():
    server, devices = make(6)
    dice = np.random.default_rng(2)
    play(server, train, devices, range(1, 600), lost=lambda *_: dice.random() < 0.3)
    np.testing.assert_allclose(server.model.vector, optimum(devices, ALPHA, 0, None), atol=3e-3)
    play(server, train, devices, [600])  # everyone gets through once more
    total = sum(dual(device) for device in devices)
    np.testing.assert_allclose(server.duals.total, total, atol=1e-4)


def test_a_lost_reply_is_as_if_never_computed():
    server, devices = make(3)
    other, twins = make(3)
    play(server, train, devices, range(1, 6), lost=lambda round, node: (round, node) == (3, 1))
    play(other, train, twins, range(1, 6), asked=lambda r: [0, 2] if r == 3 else [0, 1, 2])
    np.testing.assert_array_equal(server.model.vector, other.model.vector)


def test_a_client_without_its_memory_restarts_the_duals():
    server, devices = make(4)
    play(server, train, devices, range(1, 5))
    devices[2].memory.kept.clear()
    (metrics,) = play(server, train, devices, [5])
    assert metrics["restarted_duals"] == 1
    play(server, train, devices, range(6, 200))
    np.testing.assert_allclose(server.duals.total, sum(map(dual, devices)), atol=1e-5)
    np.testing.assert_allclose(server.model.vector, optimum(devices, ALPHA, 0, None), atol=2e-3)


def test_a_late_client_joins():
    server, devices = make(4)
    late = QuadraticDevice(11)
    play(server, train, devices, range(1, 20))
    server.enrol(4, Source(late.examples))
    devices.append(late)
    play(server, train, devices, range(20, 250))
    np.testing.assert_allclose(server.model.vector, optimum(devices, ALPHA, 0, None), atol=2e-3)


def test_a_client_that_has_left_has_no_say():
    """Neither its weight nor its last dual, however wrong that was."""
    server, devices = make(6)
    play(server, train, devices, range(1, 20))
    devices[5].b = devices[5].b + 1e3  # its last word
    play(server, train, devices, [20])
    play(server, train, devices, range(21, 31), asked=lambda _: list(range(4)))
    server.leave([4, 5])
    play(server, train, devices, range(31, 300), asked=lambda _: list(range(4)))
    np.testing.assert_allclose(server.model.vector, optimum(devices[:4], ALPHA, 0, None), atol=2e-3)


def test_a_client_that_comes_back_counts_again():
    server, devices = make(6)
    play(server, train, devices, range(1, 10))
    server.leave([5])
    play(server, train, devices, range(10, 20), asked=lambda _: list(range(5)))
    play(server, train, devices, range(20, 300))
    np.testing.assert_allclose(server.model.vector, optimum(devices, ALPHA, 0, None), atol=2e-3)
    assert sum(server.share(node) for node in range(6)) == pytest.approx(1)


def test_weights_are_shares_of_those_that_have_not_left():
    server, devices = make(6)
    server.enrol(2, Source(devices[2].examples + 5))  # it introduces itself anew
    server.leave([5])
    other, _ = make(6)
    other.enrol(2, Source(devices[2].examples + 5))
    load(other, save(server))
    for one in (server, other):
        assert sum(one.share(node) for node in range(5)) == pytest.approx(1)


def test_a_weight_takes_no_walk_through_all_clients():
    class Table(dict[int, int]):
        def walk(self, *_: object) -> None:
            raise AssertionError("all clients are walked through")

        __iter__ = values = items = keys = walk  # type: ignore[assignment]

    server, _ = make(3)
    server.share._examples = Table(server.share._examples)
    server.broadcast(1, 2)


def test_the_secant_needs_only_those_who_answered_twice_in_a_row():
    """Else rho would follow the far larger bound as soon as one client is away."""
    found = []
    for away in ([], [7]):
        server, devices = make(8, rho=0.3, **{"adaptive-rho": True})
        here = [node for node in range(8) if node not in away]
        play(server, train, devices, range(1, 6))
        metrics = play(server, train, devices, range(6, 10), asked=lambda _, here=here: here)
        found.append([line["curvature"] for line in metrics])
    np.testing.assert_allclose(found[1], found[0], rtol=0.25)


def test_a_void_round_changes_nothing():
    server, devices = make(3)
    play(server, train, devices, range(1, 4))
    theta, duals = server.model.vector.copy(), server.duals.total.copy()
    replies = Replies(server)
    for node in range(3):
        take(replies, node, train(server.broadcast(4, node), devices[node]))
    np.testing.assert_array_equal(server.model.vector, theta)
    np.testing.assert_array_equal(server.duals.total, duals)
    play(server, train, devices, range(5, 200))
    np.testing.assert_allclose(server.model.vector, optimum(devices, ALPHA, 0, None), atol=2e-3)


def curvatures(devices: list[QuadraticDevice]) -> float:
    h = sum(w * d.affine(ALPHA)[0] for w, d in zip(weights(devices), devices, strict=True))
    return float(np.linalg.eigvalsh(h).max())


@pytest.mark.parametrize(("factor", "stable"), [(1.03, True), (0.97, False)])
def test_stability_bound(factor: float, stable: bool):
    """Stable if and only if sum rho_i > 1.5 L (lambda = 0)."""
    devices = make(4)[1]
    rho = factor * 1.5 * curvatures(devices) / 4
    server, devices = make(4, rho=rho)
    assert settles(server, devices, range(1, 600), optimum(devices, ALPHA, 0, None)) is stable


def settles(server: Server, devices: list[QuadraticDevice], rounds: range, at: np.ndarray) -> bool:
    try:
        play(server, train, devices, rounds)
    except RunError as error:
        if "diverged, the loss is" not in str(error):
            raise
        return False
    return bool(np.abs(server.model.vector - at).max() < 0.05)


@pytest.mark.parametrize("lambda_", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")
def test_adaptive_penalty_stabilises_what_would_diverge(lambda_: float, steps: int):
    knowledge = QuadraticKnowledge(5, strength=4.0)
    for adaptive in (False, True):
        settings = {"lambda": lambda_, "adaptive-rho": adaptive, "server-steps": steps}
        server, devices = make(knowledge=knowledge, rho=0.01, strength=5.0, **settings)
        best = optimum(devices, ALPHA, lambda_, knowledge)
        # A strong R_h that enters implicitly steadies even a rho that is far too small.
        steady = adaptive or (steps > 1 and lambda_ > 0)
        assert settles(server, devices, range(1, 200), best) is steady


@pytest.mark.parametrize("lambda_", [0.3, 30.0])
def test_several_server_steps_reach_the_same_optimum(lambda_: float):
    """With a rho that answers the clients' curvature alone, whatever lambda is."""
    knowledge = QuadraticKnowledge(5, strength=4.0)
    devices = make(4)[1]
    rho = 1.1 * 1.5 * curvatures(devices) / 4
    server, devices = make(knowledge=knowledge, rho=rho, **{"lambda": lambda_, "server-steps": 10})
    play(server, train, devices, range(1, 500))
    best = optimum(devices, ALPHA, lambda_, knowledge)
    np.testing.assert_allclose(server.model.vector, best, atol=3e-3)


def test_many_server_steps_solve_the_proximal_problem():
    """One round from theta: argmin lambda R_h + P/2 ||theta - z||^2, with z from the clients."""
    knowledge, lambda_, rho = QuadraticKnowledge(2), 3.0, 0.5
    server, devices = make(knowledge=knowledge, rho=rho, **{"lambda": lambda_, "server-steps": 400})
    theta = server.model.vector.astype(float)
    g = weights(devices) @ meta_gradients(devices, theta)
    penalty = 4 * rho
    z = theta - 2 * g / penalty  # the duals start at zero: a double step
    matrix = lambda_ * knowledge.R + penalty * np.eye(5)
    expected = np.linalg.solve(matrix, lambda_ * knowledge.R @ knowledge.c + penalty * z)
    play(server, train, devices, [1])
    np.testing.assert_allclose(server.model.vector, expected, atol=1e-4)


class Flat(QuadraticKnowledge):
    """Its secant tells nothing of its curvature, as a first mini-batch may."""

    def curvature(self, vector: Tensor, gradient: Tensor) -> float:
        return 0.0


def test_the_servers_steps_do_not_trust_a_flat_secant():
    """Five steps of 30 times too long would end anywhere; here, within five strides."""
    strong = {"lambda": 30.0, "server-steps": 5, "adaptive-rho": True}
    server, devices = make(knowledge=Flat(5, strength=4.0), **strong)
    start = server.model.vector.copy()
    play(server, train, devices, [1])
    moved = np.linalg.norm(server.model.vector - start)
    assert 0 < moved < 1.001 * 5 * INNER * np.linalg.norm(start)


def test_exact_update_is_for_one_step_alone():
    with pytest.raises(ValueError, match="server-steps=1"):
        Settings.model_validate({"update": "exact", "server-steps": 5})


def test_state_continues_bit_for_bit():
    both = {"adaptive-rho": True, "server-steps": 3, "lambda": 0.7}
    one, devices = make(3, knowledge=QuadraticKnowledge(1), **both)
    two, twins = make(3, knowledge=QuadraticKnowledge(1), **both)
    play(one, train, devices, range(1, 11))
    play(two, train, twins, range(1, 6))
    resumed, _ = make(3, knowledge=QuadraticKnowledge(1), **both)
    load(resumed, save(two))
    play(resumed, train, twins, range(6, 11))
    np.testing.assert_array_equal(one.model.vector, resumed.model.vector)


def test_clipping_ends_near_the_optimum_without_liars():
    """It has a bias, as has each rule that does not count all alike."""
    server, devices = make(20, clipping=True)
    play(server, train, devices, range(1, 200))
    best = optimum(devices, ALPHA, 0, None)
    assert np.linalg.norm(server.model.vector - best) < 0.3 * np.linalg.norm(best)


@pytest.mark.parametrize("asked", [None, lambda round: [round % 20, (3 * round) % 20, 18, 19]])
def test_clipping_holds_against_reversed_duals(asked: Callable[[int], list[int]] | None):
    """Of two clients of twenty, three times as long and with the other sign."""
    ends = {}
    for clipping in (False, True):
        server, devices = make(20, clipping=clipping)
        for device in devices[18:]:
            device.gradient = lambda vector, batch, honest=device.gradient: (
                -3 * honest(vector, batch)[0], honest(vector, batch)[1]
            )  # fmt: skip
        play(server, train, devices, range(1, 200), asked=asked)
        best = optimum(devices[:18], ALPHA, 0, None)
        ends[clipping] = np.linalg.norm(server.model.vector - best) / np.linalg.norm(best)
    assert ends[True] < 1 < 3 < ends[False]


def test_with_clipping_a_client_that_has_left_takes_its_dual_with_it():
    server, devices = make(8, clipping=True)
    play(server, train, devices, range(1, 20))
    server.leave([7])
    assert sorted(server.duals.each) == sorted(server.duals.entered) == list(range(7))
    assert server.broadcast(20, 7).acknowledged == 0
    metrics = play(server, train, devices, range(20, 40))
    assert not any("restarted_duals" in line for line in metrics)
    assert sorted(server.duals.each) == list(range(8))


def test_with_clipping_state_continues_bit_for_bit():
    (one, devices), (two, twins) = make(5, clipping=True), make(5, clipping=True)
    play(one, train, devices, range(1, 11))
    play(two, train, twins, range(1, 6))
    resumed, _ = make(5, clipping=True)
    load(resumed, save(two))
    play(resumed, train, twins, range(6, 11))
    np.testing.assert_array_equal(one.model.vector, resumed.model.vector)


def test_what_is_kept_of_each_dual_is_what_its_client_has():
    server, devices = make(4, clipping=True)
    play(server, train, devices, range(1, 12), lost=lambda round, node: (round + node) % 3 == 0)
    for client, kept in server.duals.each.items():
        groups, notes = devices[client].memory.read("augfl")
        name = "sent" if notes["sent"] == server.duals.entered[client] else "acknowledged"
        np.testing.assert_array_equal(groups[name].vector, kept)
