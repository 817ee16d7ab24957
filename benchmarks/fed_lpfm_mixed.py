"""AugFL's updates and distillation in one fleet: what may the server do with both?

    python -m benchmarks.fed_lpfm_mixed [--seeds 0 1 2] [--rounds 30]

Ten clients with two classes each on Fashion-MNIST. AugFL seeks a model that is good *after* one
step on two classes; Fed-LPFM seeks one that is good as it is, on all ten. Evaluated are both: the
model as it is on a balanced test set, and after one step on each of 20 clients that never train.

- "dual": in AugFL's sum of duals, a distilling client's mean step stands for its meta-gradient.
- "average": both kinds send changes, AugFL's after one meta-step; the server averages them.
- "guided": every client does AugFL's update, and those with a teacher add the distillation loss to
  the loss that they adapt for. The server does not know the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flwr.app import Context, RecordDict

from benchmarks.fed_lpfm_runs import TAUGHT, Options, closing, options, print_table, table, teacher
from client_app.adapt import adapt, measure
from client_app.batches import Batch
from client_app.device import Device
from client_app.distillation import mixture
from client_app.memory import Memory
from client_app.methods import augfl, fed_lpfm, per_fedavg
from client_app.pictures import pictures_of_set
from client_app.teachers.answers import Teachers
from common.config import DataSettings
from common.data.client import ClientData, client_data
from common.data.images import LabelledImages
from common.data.load import load
from common.data.plan import Plan, plan
from common.divergence import kl
from common.files import write_atomic
from common.methods import fedavg
from common.methods.augfl import Up
from common.models import FlatModel, build
from common.sgd import LocalSgd
from common.sketch import sketch
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods import augfl as augfl_server
from server_app.methods import fed_lpfm as fed_lpfm_server
from server_app.methods import fedavg as fedavg_server
from server_app.methods import per_fedavg as per_fedavg_server

SOURCES, TARGETS, ALPHA, LAMBDA, TAU = 10, 20, 0.05, 0.5, 2.0
SGD = LocalSgd(lr=0.05, momentum=0.0, weight_decay=0.0, epochs=2, batch_size=32)
DISTILL = {"sgd": SGD}
META = {"alpha": ALPHA, "beta": 0.3}
DUAL = {"alpha": ALPHA, "lambda": 0.0, "rho": 0.3}


class Guided(Device):
    """A device whose loss on its query images holds its teachers' answers as well."""

    def gradient(self, vector: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, float]:
        """As ``Device.gradient``, with distillation where the batch is the query set."""
        data, images = self.client, batch[0]
        if images is not data.query_images or self.teachers is None:
            return super().gradient(vector, batch)
        answers = self.teachers.answers()
        goal = mixture(answers.logits, answers.weights, TAU)[len(data.support_labels) :]
        self.model.load(vector)

        def loss() -> torch.Tensor:
            logits = self.model.module(images)
            hard = F.cross_entropy(logits, batch[1])
            return (1 - LAMBDA) * hard + LAMBDA * kl(logits, goal, TAU)

        return self.model.gradient(loss)


class World:
    """Clients, test sets and teachers of one seed."""

    def __init__(self, asked: Options, seed: int) -> None:
        settings = DataSettings.model_validate(
            {
                "name": "fashion-mnist", "image-size": asked.image_size,
                "sources": SOURCES, "targets": TARGETS,
                "samples-min": 40, "samples-max": 60, "server-images": 2000,
                "pretrain-images": TAUGHT, "seed": seed,
            }
        )  # fmt: skip
        self.images: LabelledImages = load("fashion-mnist", image_size=asked.image_size, channels=1)
        self.plan: Plan = plan(self.images.labels, settings)
        size = asked.image_size
        model = build("cnn-small", classes=10, channels=1, image_size=size, seed=seed)
        self.model = FlatModel(model)
        self.start = self.model.parameters
        self.seed = seed
        self.targets = [client_data(self.images, self.plan.clients[n]) for n in self.plan.targets]
        self.tested = self.images.tensors(self.plan.server)
        folder, _ = teacher(asked, "resnet", seed)
        self._teachers = asked.folder / "teachers" / f"mixed-{seed}.toml"
        cache = f'cache = "{(asked.folder / "cache").absolute()}"\n'
        write_atomic(self._teachers, cache + table(folder))

    def device(self, number: int, kind: type[Device], taught: bool) -> Device:
        """A source, with a teacher or without."""
        split = self.plan.clients[number]
        data = client_data(self.images, split, number)
        memory = Memory(Context(1, number, {}, RecordDict(), {}, 0), None)
        device = kind("source", [data], self.images.classes, "", self.model, memory)
        if taught:
            pictures = pictures_of_set(self.images, split)
            labels = device.images[1]
            classes = self.images.classes
            device.teachers = Teachers(self._teachers, "fashion-mnist", classes, labels, pictures)
        return device

    def evaluate(self, vector: np.ndarray) -> tuple[float, float]:
        """Accuracy as it is on the balanced set, and after one step on the targets."""
        theta = torch.tensor(vector)
        images, labels = self.tested
        balanced = ClientData(images[:1], labels[:1], images, labels, tuple(range(10)), -1)
        right, _ = measure(self.model, theta, balanced, "running")
        after = total = 0
        for data in self.targets:
            support = (data.support_images, data.support_labels)
            adapted = adapt(self.model, theta, support, ALPHA, 1)
            after += measure(self.model, adapted, data, "running")[0]
            total += len(data.query_labels)
        return right / len(labels), after / total


def alone(
    half: Any, server_half: Any, settings: dict[str, Any], kind: type[Device] = Device
) -> Any:
    """A fleet of one method; the second argument says how many clients have a teacher."""

    def play(world: World, rounds: int, taught: int) -> np.ndarray:
        options = server_half.Settings.model_validate(settings)
        server = server_half.Server(options, Setup(world.start, seed=world.seed))
        devices = [world.device(n, kind, n < taught) for n in range(SOURCES)]
        for node, device in enumerate(devices):
            server.enrol(node, Source(device.examples))
        for round in range(1, rounds + 1):
            replies = Replies(server)
            for node, device in enumerate(devices):
                up = half.train(server.broadcast(round, node), device)
                replies.accept(replies.offer(node, up))
            server.step(round, replies)
        return server.model.vector

    return play


def average(world: World, rounds: int, taught: int) -> np.ndarray:
    """Distilling clients send changes of local SGD, the others of one meta-step."""
    setup = Setup(world.start, seed=world.seed)
    distill = fed_lpfm_server.Server(fed_lpfm_server.Settings.model_validate(DISTILL), setup)
    meta = per_fedavg_server.Server(per_fedavg_server.Settings.model_validate(META), setup)
    both = fedavg_server.Server(fedavg_server.Settings(), setup)
    devices = [world.device(n, Device, n < taught) for n in range(SOURCES)]
    for round in range(1, rounds + 1):
        distill.model = meta.model = both.model
        replies = Replies(both)
        for node, device in enumerate(devices):
            server, half = (distill, fed_lpfm) if node < taught else (meta, per_fedavg)
            up = half.train(server.broadcast(round, node), device)
            change = fedavg.Up(round, up.examples, up.loss, up.change, both.buffers)
            replies.accept(replies.offer(node, change))
        both.step(round, replies)
    return both.model.vector


def dual(world: World, rounds: int, taught: int) -> np.ndarray:
    """AugFL's server; a distilling client's mean step, over the rate, stands for G."""
    setup = Setup(world.start, seed=world.seed)
    distill = fed_lpfm_server.Server(fed_lpfm_server.Settings.model_validate(DISTILL), setup)
    server = augfl_server.Server(augfl_server.Settings.model_validate(DUAL), setup)
    devices = [world.device(n, Device, n < taught) for n in range(SOURCES)]
    last: dict[int, np.ndarray] = {}
    for node, device in enumerate(devices):
        server.enrol(node, Source(device.examples))
    for round in range(1, rounds + 1):
        distill.model = server.model
        replies = Replies(server)
        for node, device in enumerate(devices):
            down = server.broadcast(round, node)
            if node >= taught:
                replies.accept(replies.offer(node, augfl.train(down, device)))
                continue
            up = fed_lpfm.train(distill.broadcast(round, node), device)
            steps = SGD.epochs * -(-up.examples // SGD.batch_size)
            mean = up.change.vector / (steps * SGD.lr)  # -G
            y = (down.weight * mean).astype(np.float32)
            increment = up.change.with_vector(y - last.get(node, np.float32(0)))
            last[node] = y
            answer = Up(
                round=round,
                base=down.acknowledged,
                increment=increment,
                dual=sketch(y).tolist(),
                examples=up.examples,
                loss=up.loss,
                curvature=0.0,  # not known
            )
            replies.accept(replies.offer(node, answer))
        server.step(round, replies)
    return server.model.vector


ROWS: dict[str, tuple[Callable[[World, int, int], np.ndarray], int]] = {
    "AugFL alone": (alone(augfl, augfl_server, DUAL), 0),
    "Fed-LPFM alone": (alone(fed_lpfm, fed_lpfm_server, DISTILL), SOURCES),
    "Fed-LPFM, half without a teacher": (alone(fed_lpfm, fed_lpfm_server, DISTILL), SOURCES // 2),
    "half and half, dual": (dual, SOURCES // 2),
    "half and half, average": (average, SOURCES // 2),
    "AugFL, half guided": (alone(augfl, augfl_server, DUAL, Guided), SOURCES // 2),
    "AugFL, all guided": (alone(augfl, augfl_server, DUAL, Guided), SOURCES),
}


def main() -> None:
    """Print the table."""
    asked = options(str(__doc__), rounds=30)
    worlds = [World(asked, seed) for seed in asked.seeds]
    rows = {}
    for name, (play, taught) in ROWS.items():
        pairs = np.array([w.evaluate(play(w, asked.rounds, taught)) for w in worlds]) * 100
        spread = pairs.std(0, ddof=1) if len(pairs) > 1 else np.zeros(2)
        cells = zip(pairs.mean(0), spread, strict=True)
        rows[name] = [f"{mean:.1f} ± {std:.1f}" for mean, std in cells]
    print_table(["fleet", "as it is, balanced", "after one step, two classes"], rows)
    print("\n" + closing(asked, "fed_lpfm_mixed"))


if __name__ == "__main__":
    main()
