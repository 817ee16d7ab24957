"""Server halves of a tiny model, and replies of random numbers that fit any method's contract."""

from __future__ import annotations

import types
from collections import OrderedDict
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import nn

import server_app.methods
from common import registry
from common.contract import Between
from common.models import FlatModel, register
from common.sketch import sketch
from common.task import Task
from common.tensors import Tensors
from server_app.aggregation.expected import Specs
from server_app.aggregation.replies import Replies
from server_app.method import Method, Setup, Source
from tests.conftest import PARTS

METHODS = registry.names(server_app.methods)
HALVES: dict[str, Any] = {name: registry.load(server_app.methods, name) for name in METHODS}
TRAINED = [name for name in METHODS if HALVES[name].Server.down is not None]


def _network(classes: int, channels: int, size: int) -> nn.Module:
    pixels = channels * size * size
    layers = OrderedDict(
        flat=nn.Flatten(), body=nn.Linear(pixels, 2), norm=nn.BatchNorm1d(2),
        head=nn.Linear(2, classes),
    )  # fmt: skip
    return nn.Sequential(layers)


register("made", _network)
TASK = Task("made", classes=3, channels=1, image_size=2)


def task_of(name: str) -> Task:
    """What a method learns."""
    return replace(TASK, architecture=TASK.architecture + PARTS.get(name, ""))


class Pull:
    """R_h = 1/2 ||theta - 1||^2."""

    distance_weight = 0.5

    def gradient(self, vector: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        off = vector - 1
        return off, {"loss": float(0.5 * off @ off)}

    def curvature(self, vector: torch.Tensor, gradient: torch.Tensor) -> float:
        return 1.0

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Any) -> None:
        """Nothing is kept."""


class Stretch:
    """A generator whose images are its latents, and these twice the noise."""

    noise = 4

    def latents(self, noise: torch.Tensor) -> torch.Tensor:
        return 2 * noise

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.view(-1, 1, 2, 2)


def server(name: str, clients: int, options: dict[str, Any] | None = None) -> Method:
    """A server half that knows its clients; client i has 10 + i images."""
    half = HALVES[name]
    task = task_of(name)
    made = FlatModel(task.build())
    setup = Setup(
        made.parameters,
        made.buffers,
        seed=3,
        task=task,
        knowledge=Pull(),
        generator=Stretch(),
        secret=b"secret",
    )
    # Of a width of 2, all ReLUs of a server's network may be dead from the start.
    short = {"server_steps": 2, "server_epochs": 2, "width": 8, "hidden": 2}
    known = {name: n for name, n in short.items() if name in half.Settings.model_fields}
    method: Method = half.Server(half.Settings.model_validate(known | (options or {})), setup)
    for client in range(clients):
        method.enrol(client, Source(10 + client, "made"))
    return method


def reply(method: Method, round: int, client: int, seed: int, scale: float = 0.01) -> Any:
    """An ``Up`` that fits: its tensors are what is expected, its numbers are within bounds."""
    dice = np.random.default_rng([seed, round, client])
    assert method.up is not None
    expected, hints = method.expects(client), get_type_hints(method.up, include_extras=True)
    values: dict[str, Any] = {}
    for field in fields(method.up):
        if field.name in expected:
            values[field.name] = tensors(expected[field.name].largest, dice, scale)
        else:
            values[field.name] = _value(hints[field.name], dice)
    values |= {"round": round, "examples": 10 + client}
    up = method.up(**values)
    if {"base", "dual"} <= values.keys():  # a dual must be what it was plus the increment
        down = method.broadcast(round, client)
        dual = np.array(down.dual) + sketch(up.increment.vector)
        up = replace(up, base=down.acknowledged, dual=dual.tolist())
    if {"teachers", "without"} <= values.keys():
        up = replace(up, without="" if up.teachers else "no teacher")
    return up


def tensors(specs: Specs, dice: np.random.Generator, scale: float) -> Tensors:
    """Random values, none below zero where that means something, and no count of nothing."""
    arrays: dict[str, Any] = {}
    for name, shape, kind in specs:
        if np.dtype(kind).kind == "f":
            values = scale * dice.normal(size=shape)
            arrays[name] = np.asarray(np.abs(values) if "var" in name else values, kind)
        else:
            arrays[name] = np.asarray(dice.integers(1, 5, shape), kind)
    return Tensors.pack(arrays)


def play(method: Method, rounds: range, clients: int, seed: int = 0) -> list[dict[str, float]]:
    """Rounds in which all reply."""
    metrics = []
    for round in rounds:
        method.begin(round, range(clients))
        replies = Replies(method)
        for client in range(clients):
            replies.accept(replies.offer(client, reply(method, round, client, seed)))
        metrics.append(method.step(round, replies))
    return metrics


def _value(hint: Any, dice: np.random.Generator) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        return get_args(hint)[int(dice.integers(len(get_args(hint))))]
    low, high = 0.0, 1.0
    if get_origin(hint) is Annotated:
        rules = [rule for rule in get_args(hint) if isinstance(rule, Between)]
        low, high = (max(rules[0].low, 0), min(rules[0].high, 3)) if rules else (low, high)
        hint = get_args(hint)[0]
    if hint is float:
        return float(dice.uniform(low, high))
    if hint is int:
        return int(dice.integers(low, high + 1))
    return {str: "", bool: True}.get(hint, [])
