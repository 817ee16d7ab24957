"""Fed-LPFM: closed forms, limit cases, what the server averages, and fleets of all kinds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from client_app.device import Device
from client_app.methods import fed_lpfm, fedavg, fedprox
from client_app.teachers.answers import Answers
from client_app.teachers.memory_budget import NotEnoughMemory
from common.data.client import ClientData
from common.errors import ModelError, SettingsError, WireError
from common.methods.fed_lpfm import Up
from common.models import FlatModel, build
from common.tensors import Tensors
from common.wire import pack
from server_app.aggregation.replies import Replies
from server_app.method import Setup
from server_app.methods import fedavg as fedavg_server
from server_app.methods import fedprox as fedprox_server
from server_app.methods.fed_lpfm import Server, Settings
from server_app.validation.errors import Rejected
from tests.quadratic import DictMemory, take

SGD = {"lr", "momentum", "weight-decay", "epochs", "batch-size"}
CLASSES, PLAIN = 3, {"lr": 0.1, "momentum": 0.0, "weight-decay": 0.0, "batch-size": 0}


class Told:
    """Teachers whose answers are given."""

    def __init__(self, logits: torch.Tensor, embeddings: torch.Tensor | None = None) -> None:
        weights = torch.full((len(logits),), 1 / len(logits))
        kept = () if embeddings is None else (embeddings,)
        self._answers = Answers(logits, kept, weights)

    def answers(self, embeddings: bool = False) -> Answers:
        return self._answers

    def check(self) -> None:
        raise SettingsError("a prompt has no placeholder")


class Cramped(Told):
    def answers(self, embeddings: bool = False) -> Answers:
        raise NotEnoughMemory("teacher needs 9 MiB to load, and 1 MiB are free")


class Broken(Told):
    def answers(self, embeddings: bool = False) -> Answers:
        raise ModelError("teacher ViT-B-32 cannot be built")


class Lost(Told):
    def answers(self, embeddings: bool = False) -> Answers:
        raise OSError(5, "Input/output error")


def device(module: nn.Module, teachers: Any = None, n: int = 12, seed: int = 0) -> Device:
    dice = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 4, 4, generator=dice)
    labels = torch.arange(n) % CLASSES
    data = ClientData(images[:4], labels[:4], images[4:], labels[4:], (0, 1, 2), 0)
    return Device(
        "source", [data], ("a", "b", "c"), "", FlatModel(module), DictMemory(),  # type: ignore[arg-type]
        teachers=teachers,
    )  # fmt: skip


def linear() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))


def told(seed: int = 5, k: int = 1, n: int = 12) -> Told:
    dice = torch.Generator().manual_seed(seed)
    return Told(3 * torch.randn(k, n, CLASSES, generator=dice), torch.randn(n, 7, generator=dice))


def server(model: FlatModel, **settings: Any) -> Server:
    own = {name: settings.pop(name) for name in list(settings) if name not in SGD}
    options = Settings.model_validate({**own, "sgd": {**PLAIN, **settings}})
    return Server(options, Setup(model.parameters, model.buffers))


def change(own: Device, **settings: Any) -> np.ndarray:
    start = server(own.model, **settings)
    return fed_lpfm.train(start.broadcast(1, 0), own).change.vector


def gradients(own: Device, answer: torch.Tensor) -> torch.Tensor:
    """Of mean cross-entropy to ``answer``, shape (n, c), for softmax regression: (p - a) x'."""
    images, _ = own.images
    x = images.flatten(1)
    weight, bias = own.model.vector[:48].view(3, 16), own.model.vector[48:]
    off = (F.softmax(x @ weight.T + bias, 1) - answer) / len(x)
    return torch.cat([(off.T @ x).reshape(-1), off.sum(0)])


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_one_step_of_softmax_regression_by_hand(lambda_: float):
    """At tau = 1 the KL pulls towards the teacher just as cross-entropy pulls to the labels."""
    own = device(linear(), told())
    start = own.model.vector.clone()
    hard = gradients(own, F.one_hot(own.images[1], CLASSES).float())
    soft = gradients(own, F.softmax(told().answers().logits[0], 1))
    got = change(own, **{"lambda": lambda_, "temperature": 1.0, "weight-decay": 0.01})
    expected = -0.1 * ((1 - lambda_) * hard + lambda_ * soft + 0.01 * start)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("loss", ["kl", "mse", "features", "decoupled"])
def test_every_loss_falls_when_it_is_all_there_is(loss: str):
    own = device(build("cnn-tiny", classes=3, channels=1, image_size=4), told())
    start = server(own.model, **{"loss": loss, "lambda": 1.0, "epochs": 1, "lr": 0.02})
    losses = []
    for round in range(1, 30):
        up = fed_lpfm.train(start.broadcast(round, 0), own)
        losses.append(up.distillation_loss)
        replies = Replies(start)
        take(replies, 0, up)
        start.step(round, replies)
    assert losses[-1] < 0.9 * losses[0]


def test_a_proxy_that_answers_like_its_teacher_learns_nothing_from_it():
    own = device(linear())
    images, _ = own.images
    own.teachers = Told(own.model.module(images).detach()[None] + 5)  # type: ignore[assignment]
    for loss in ("kl", "mse", "decoupled"):
        np.testing.assert_allclose(change(own, loss=loss, **{"lambda": 1.0}), 0, atol=1e-6)


def test_several_teachers_pull_to_their_mean():
    own = device(linear(), told(k=2))
    both = F.softmax(told(k=2).answers().logits, 2).mean(0)
    got = change(own, **{"lambda": 1.0, "temperature": 1.0})
    np.testing.assert_allclose(got, -0.1 * gradients(own, both).numpy(), atol=1e-6)


@pytest.mark.parametrize("teachers", [None, Cramped(torch.zeros(1, 12, 3)), told()])
def test_without_a_teacher_or_weight_it_is_fedavg(teachers: Any):
    options = {"lr": 0.05, "momentum": 0.9, "epochs": 3, "batch-size": 4}
    own, other = (device(linear(), t) for t in (teachers, None))
    lambda_ = 0.0 if isinstance(teachers, Told) and not isinstance(teachers, Cramped) else 0.7
    mine = server(own.model, **options, **{"lambda": lambda_})
    theirs = fedavg_server.Server(
        fedavg_server.Settings.model_validate({"sgd": options}), Setup(other.model.parameters)
    )
    up = fed_lpfm.train(mine.broadcast(4, 1), own)
    plain = fedavg.train(theirs.broadcast(4, 1), other)
    np.testing.assert_array_equal(up.change.vector, plain.change.vector)
    assert up.loss == plain.loss


def test_the_reply_says_why_it_learned_from_no_teacher():
    model = linear()
    ups = [
        fed_lpfm.train(server(own.model).broadcast(1, 0), own)
        for own in (
            device(model, told(k=2)),
            device(model),
            device(model, Cramped(torch.zeros(1, 12, 3))),
            device(model, Broken(torch.zeros(1, 12, 3))),
            device(model, Lost(torch.zeros(1, 12, 3))),
        )
    ]
    assert [(up.teachers, up.without) for up in ups] == [
        (2, ""),
        (0, "no teacher"),
        (0, "no room"),
        (0, "teacher failed"),
        (0, "teacher failed"),
    ]
    assert ups[0].distillation_loss > 0 == sum(up.distillation_loss for up in ups[1:])
    start = server(device(model).model)
    replies = Replies(start)
    for node, up in enumerate(ups):
        take(replies, node, up)
    metrics = start.step(1, replies)
    assert metrics["distilled"] == metrics["without_teacher"] == 1
    assert metrics["without_room_for_teacher"] == 1
    assert metrics["teacher_failed"] == 2
    assert metrics["teachers"] == 2
    assert metrics["distillation_loss"] == pytest.approx(ups[0].distillation_loss)
    for up in ups:
        assert Replies(start).offer(0, up).compared.keys() == {"change", "buffers"}
    with pytest.raises(WireError, match="without: is 'no Teacher', must be one of"):
        pack(replace(ups[0], teachers=0, without="no Teacher"))
    for number, word in ((0, ""), (2, "no room")):
        with pytest.raises(Rejected) as refusal:
            Replies(start).offer(0, replace(ups[0], teachers=number, without=word))
        assert refusal.value.field == "without"


def test_the_rate_falls_at_the_published_epoch():
    start = server(FlatModel(linear()), lr=0.01, epochs=5)
    rates = [start.broadcast(round, 0).sgd.lr for round in (1, 40, 41, 100)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])
    never = server(FlatModel(linear()), lr=0.01, **{"decay-epoch": 0})
    assert never.broadcast(10_000, 0).sgd.lr == 0.01


def test_published_defaults():
    settings = Settings()
    assert (settings.sgd.lr, settings.sgd.weight_decay, settings.decay_epoch) == (0.01, 5e-4, 200)
    assert (settings.decay, settings.loss) == (0.1, "kl")


def test_weights_and_batchnorm_are_averaged_by_data_size():
    model = FlatModel(build("resnet8x4", classes=3, channels=1, image_size=4))
    start = server(model)
    before, ups, replies = start.model.vector.copy(), [], Replies(start)
    for node, n in enumerate((6, 18)):
        own = device(build("resnet8x4", classes=3, channels=1, image_size=4), told(n=n), n, node)
        ups.append(fed_lpfm.train(start.broadcast(1, node), own))
        take(replies, node, ups[-1])
    start.step(1, replies)
    mean = (6 * ups[0].change.vector + 18 * ups[1].change.vector) / 24
    np.testing.assert_allclose(start.model.vector, before + mean, atol=1e-6)
    one, other = (up.buffers.unpack() for up in ups)
    for name, array in start.buffers.unpack().items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, (one[name] + 3 * other[name]) / 4, rtol=1e-5)
        else:
            assert array == 1
    again = start.broadcast(2, 0)
    assert again.buffers is start.buffers


def test_batchnorm_and_single_images_are_refused_before_the_run():
    model = FlatModel(build("resnet8x4", classes=3, channels=1, image_size=4))
    with pytest.raises(SettingsError, match=r"fed_lpfm\.sgd\.batch-size=1: the model"):
        server(model, **{"batch-size": 1})
    server(model, **{"batch-size": 2})
    server(FlatModel(linear()), **{"batch-size": 1})


def test_augmentation_changes_what_the_proxy_sees_and_not_what_it_is_told():
    """The teacher's answer to the image as it is belongs to every changed view of it."""
    seen: list[torch.Tensor] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, CLASSES)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return self.head(images.flatten(1))

    teacher = told()
    own = device(Watched(), teacher)
    images, _ = own.images
    options = {"lambda": 1.0, "temperature": 1.0, "epochs": 1}
    plain = change(own, **options)
    torch.testing.assert_close(seen[0], images)
    changed = change(own, augmentation="crop-flip", **options)
    assert not torch.equal(seen[1], images)
    assert not np.allclose(plain, changed)
    views = device(Watched(), teacher)
    data = views.clients[0]
    views.clients = [
        ClientData(seen[1][:4], data.support_labels, seen[1][4:], data.query_labels, (0, 1, 2), 0)
    ]
    views.model.load(own.model.vector)
    np.testing.assert_allclose(change(views, **options), changed, atol=1e-6)


def test_the_same_seed_gives_the_same_reply_with_dropout_and_augmentation():
    def up() -> Up:
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, CLASSES))
        for parameter in net.parameters():
            nn.init.constant_(parameter, 0.1)
        own = device(net, told())
        options = {"augmentation": "crop", "batch-size": 5, "epochs": 2}
        return fed_lpfm.train(server(own.model, **options).broadcast(1, 0), own)

    np.testing.assert_array_equal(up().change.vector, up().change.vector)


def test_an_unknown_loss_is_refused():
    own = device(linear(), told())
    down = server(own.model).broadcast(1, 0)
    object.__setattr__(down, "loss", "klar")
    with pytest.raises(WireError, match="loss: is 'klar', must be one of"):
        pack(down)


def test_a_device_with_wrong_teachers_is_refused_before_the_run():
    fed_lpfm.prepare(device(linear()))
    with pytest.raises(SettingsError, match="placeholder"):
        fed_lpfm.prepare(device(linear(), told()))


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "resnet18"])
def test_published_proxies_train_on_small_images(name: str):
    module = build(name, classes=3, channels=1, image_size=28)
    own = device(module, told())
    own.clients = [
        ClientData(
            torch.randn(4, 1, 28, 28), torch.arange(4) % 3,
            torch.randn(8, 1, 28, 28), torch.arange(8) % 3, (0, 1, 2), 0,
        )
    ]  # fmt: skip
    up = fed_lpfm.train(server(own.model, **{"batch-size": 6}).broadcast(1, 0), own)
    assert np.isfinite(up.change.vector).all()
    assert up.change.vector.any()
    assert isinstance(up.buffers, Tensors)
    assert len(up.buffers)


def test_proximal_term_and_distillation_start_from_the_same_average():
    """Fed-LPFM without teachers and FedProx with mu = 0 take the same step."""
    own, other = device(linear()), device(linear())
    mine = server(own.model)
    options = fedprox_server.Settings.model_validate({"mu": 0.0, "sgd": {"lr": 0.1}})
    theirs = fedprox_server.Server(options, Setup(other.model.parameters))
    for half, start, one in ((fed_lpfm, mine, own), (fedprox, theirs, other)):
        replies = Replies(start)
        take(replies, 0, half.train(start.broadcast(1, 0), one))
        start.step(1, replies)
    np.testing.assert_array_equal(mine.model.vector, theirs.model.vector)
