"""Devices with quadratic losses, whose federated optimum is a linear system.

Client i has support loss 1/2 (theta - a_i)' S_i (theta - a_i) and query loss
1/2 (theta - b_i)' Q_i (theta - b_i). With phi = theta - alpha S_i (theta - a_i) the meta-gradient
is affine: G_i(theta) = M_i Q_i (M_i theta + alpha S_i a_i - b_i), M_i = I - alpha S_i.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client_app.memory import Memory
from common.tensors import Tensors
from server_app.aggregation.replies import Replies
from server_app.method import Source
from server_app.validation.errors import Rejected


class DictMemory(Memory):
    """A device's memory in a dictionary, name -> content of the file."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def _read_bytes(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def _write_bytes(self, name: str, content: bytes) -> None:
        self.kept[name] = content


class QuadraticDevice:
    """Looks like a ``Device`` to a method."""

    def __init__(self, seed: int, d: int = 5, strength: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.S, self.Q = (strength * _spd(rng, d) for _ in range(2))
        self.a, self.b = rng.normal(size=(2, d))
        half = SimpleNamespace(
            support_images=torch.zeros(1, 1),
            support_labels=torch.zeros(3),
            query_images=torch.ones(1, 1),
            query_labels=torch.zeros(7 + seed % 4),
        )
        self.client = half
        self.model = SimpleNamespace(
            module=SimpleNamespace(train=lambda *_: None), buffers=Tensors((), {})
        )
        self.memory, self.role = DictMemory(), "source"

    def start(self, buffers: Tensors) -> None:
        """Nothing to make ready."""

    @property
    def images(self) -> tuple[Tensor, Tensor]:
        """What methods without adaptation train on: the support loss."""
        return torch.zeros(1, 1), torch.zeros(self.examples)

    @property
    def examples(self) -> int:
        return len(self.client.support_labels) + len(self.client.query_labels)

    def gradient(self, vector: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
        matrix, centre = (self.Q, self.b) if float(batch[0].sum()) else (self.S, self.a)
        offset = vector.double().numpy() - centre
        value = 0.5 * offset @ matrix @ offset
        return torch.from_numpy(matrix @ offset).float(), float(value)

    def affine(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(H, h) with G(theta) = H theta - h."""
        m = np.eye(len(self.a)) - alpha * self.S
        return m @ self.Q @ m, m @ self.Q @ (self.b - alpha * self.S @ self.a)


class QuadraticKnowledge:
    """R_h = 1/2 (theta - c)' R (theta - c)."""

    def __init__(self, seed: int, d: int = 5, strength: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.R, self.c = strength * _spd(rng, d), rng.normal(size=d)

    def gradient(self, vector: Tensor) -> tuple[Tensor, dict[str, float]]:
        off = vector.double().numpy() - self.c
        value = float(0.5 * off @ self.R @ off)
        return torch.from_numpy(self.R @ off).float(), {"distance": value, "loss": value}

    def curvature(self, vector: Tensor, gradient: Tensor) -> float:
        g = gradient.double().numpy()
        return float(np.linalg.norm(self.R @ g) / max(np.linalg.norm(g), 1e-30))


def optimum(
    devices: list[QuadraticDevice], alpha: float, lambda_: float, knowledge: Any
) -> np.ndarray:
    """Where sum_i w_i G_i + lambda grad R_h = 0."""
    total = sum(d.examples for d in devices)
    matrix, vector = np.zeros((5, 5)), np.zeros(5)
    for device in devices:
        h_matrix, h = device.affine(alpha)
        matrix += device.examples / total * h_matrix
        vector += device.examples / total * h
    if lambda_:
        matrix += lambda_ * knowledge.R
        vector += lambda_ * knowledge.R @ knowledge.c
    return np.linalg.solve(matrix, vector)


def play(
    server: Any,
    train: Callable[..., Any],
    devices: list[Any],
    rounds: Iterable[int],
    asked: Callable[[int], list[int]] | None = None,
    lost: Callable[[int, int], bool] = lambda round, node: False,
) -> list[dict[str, float]]:
    """Rounds without a wire; ``lost(round, node)`` drops a reply after it was computed."""
    metrics = []
    for round in rounds:
        replies = Replies(server)
        for node in asked(round) if asked else range(len(devices)):
            up = train(server.broadcast(round, node), devices[node])
            if not lost(round, node):
                with suppress(Rejected):  # as the gate does when a run diverges
                    take(replies, node, up)
        metrics.append(step(server, round, replies))
    return metrics


def take(replies: Replies, client: int, up: Any) -> dict[str, float]:
    """Let a reply count, as the shell does; gives its sizes."""
    offer = replies.offer(client, up)
    if not all(map(math.isfinite, offer.compared.values())):
        raise Rejected("size", "is not finite")
    replies.accept(offer)
    return offer.compared


def step(server: Any, round: int, replies: Replies) -> dict[str, float]:
    """The global update, as the shell makes it."""
    return {"loss": replies.loss} | server.step(round, replies)


def enrol(server: Any, devices: list[QuadraticDevice]) -> None:
    """Introduce all devices."""
    for client, device in enumerate(devices):
        server.enrol(client, Source(device.examples))


def _spd(rng: np.random.Generator, d: int) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return basis @ np.diag(rng.uniform(0.3, 1.0, d)) @ basis.T
