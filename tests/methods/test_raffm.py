"""RaFFM: slices, their means where they are, and the order; by hand, and in its limit cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from client_app.app import app
from client_app.methods import raffm as device_half
from common.capacity import Cost, Load, Measured, cost, widest
from common.config import DataSettings
from common.errors import ModelError
from common.methods.raffm import Up
from common.models import FlatModel, build
from common.models.widths import flat, groups_of, inside, part, taken
from common.task import Task
from common.tensorfile import parse
from common.tensors import Tensors
from common.wire import size
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.aggregation.replies import Replies
from server_app.method import Setup, Source
from server_app.methods import fedavg
from server_app.methods.raffm import Server, Settings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from server_app.validation.errors import Rejected
from server_app.validation.gate import check_fields

TASK = Task("cnn-tiny", 10, 1, 8)
Run = Callable[..., Path]


def initial(task: Task = TASK) -> FlatModel:
    return FlatModel(task.build(seed=3))


def server(task: Task = TASK, deadline: float = 0.0, **options: Any) -> Server:
    model = initial(task)
    chosen = {"widths": "1,0.5", "draw": "own", "order": "none", **options}
    setup = Setup(model.parameters, model.buffers, seed=1, task=task, deadline=deadline)
    return Server(Settings(**chosen), setup)


def play(half: Server, sent: dict[int, tuple[int, float]]) -> dict[str, float]:
    """A round in which client i has n_i images and changes each entry that it has by d_i."""
    half.begin(1, sorted(sent))
    replies = Replies(half)
    for client, (images, change) in sent.items():
        down = half.broadcast(1, client)
        values = np.full(len(down.model), change, np.float32)
        up = Up(1, images, 0.5, down.model.with_vector(values), down.buffers)
        replies.accept(replies.offer(client, up))
    return half.step(1, replies)


def enrolled(half: Server, widths: dict[int, float]) -> Server:
    for client, width in widths.items():
        half.enrol(client, Source(10, width=width))
    return half


def test_the_mean_is_over_those_who_have_the_entry():
    """One full (n=1, +1), one half (n=3, +5): both have it: 4, one: 1."""
    half = enrolled(server(), {0: 1.0, 1: 0.5})
    before = half.model.unpack()
    metrics = play(half, {0: (1, 1.0), 1: (3, 5.0)})
    moved = {name: after - before[name] for name, after in half.model.unpack().items()}
    np.testing.assert_allclose(moved["0.weight"][:8], 4, rtol=1e-5)
    np.testing.assert_allclose(moved["0.weight"][8:], 1, rtol=1e-5)
    np.testing.assert_allclose(moved["3.weight"][:16, :8], 4, rtol=1e-5)
    np.testing.assert_allclose(moved["3.weight"][:16, 8:], 1, rtol=1e-5)
    np.testing.assert_allclose(moved["3.weight"][16:], 1, rtol=1e-5)
    np.testing.assert_allclose(moved["7.weight"][:, : 16 * 4], 4, rtol=1e-5)
    np.testing.assert_allclose(moved["7.bias"], 4, rtol=1e-5)
    assert metrics["covered"] == 1
    assert (metrics["at_1"], metrics["at_0.5"]) == (1, 1)


def test_what_nobody_has_keeps_its_bytes():
    half = enrolled(server(), {0: 0.5, 1: 0.5})
    before = {name: array.copy() for name, array in half.model.unpack().items()}
    metrics = play(half, {0: (1, 1.0), 1: (3, 5.0)})
    after = half.model.unpack()
    assert after["3.weight"][16:].tobytes() == before["3.weight"][16:].tobytes()
    assert after["0.bias"][8:].tobytes() == before["0.bias"][8:].tobytes()
    assert metrics["covered"] == len(half._slice(0.5)[0]) / len(half.model)


def test_all_whole_and_unsorted_it_is_fedavg_to_the_bit():
    model = initial()
    plain = fedavg.Server(fedavg.Settings(), Setup(model.parameters, seed=1, task=TASK))
    half = server(widths="1")
    dice = np.random.default_rng(0)
    changes = dice.normal(size=(3, len(model.vector))).astype(np.float32)
    for method in (plain, half):
        method.begin(1, range(3))
        replies = Replies(method)
        for client, change in enumerate(changes):
            values = model.parameters.with_vector(change)
            up = Up(1, 10 + client, 0.5, values, Tensors((), {}))
            replies.accept(replies.offer(client, up))
        method.step(1, replies)
    assert half.model.vector.tobytes() == plain.model.vector.tobytes()


def test_heterofl_is_a_limit_case():
    """Equal numbers of images, no order, own widths: the mean of the weights, as HeteroFL's
    algorithm 1 has it, level by level."""
    half = enrolled(server(widths="1,0.5,0.25"), {0: 1.0, 1: 0.5, 2: 0.25})
    theta = {name: array.astype(np.float64) for name, array in half.model.unpack().items()}
    changes = {0: 0.25, 1: -1.0, 2: 2.0}
    total = {name: np.zeros_like(array) for name, array in theta.items()}
    count = {name: np.zeros_like(array) for name, array in theta.items()}
    rows = {0: (16, 32), 1: (8, 16), 2: (4, 8)}
    for client, (first, second) in rows.items():
        ranges = {
            "0.weight": np.s_[:first], "0.bias": np.s_[:first], "7.bias": np.s_[:],
            "3.weight": np.s_[:second, :first], "3.bias": np.s_[:second],
            "7.weight": np.s_[:, : 4 * second],
        }  # fmt: skip
        for name, at in ranges.items():
            total[name][at] += theta[name][at] + changes[client]
            count[name][at] += 1
    play(half, {client: (10, change) for client, change in changes.items()})
    for name, array in half.model.unpack().items():
        wanted = np.where(count[name] > 0, total[name] / np.maximum(count[name], 1), theta[name])
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn-tiny", "resnet8x4", "timm:test_vit/4"])
@pytest.mark.parametrize("order", ["salience", "random"])
def test_a_step_sorts_and_the_model_says_the_same(name: str, order: Any):
    task = Task(name, 10, 1, 8)
    half, module = server(task, order=order), task.build(seed=3).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = module(images)
        first = half.model
        play(half, {0: (10, 0.0)})
        if order == "salience":  # sorted when it was made, and nothing has changed
            assert half.model.vector.tobytes() == first.vector.tobytes()
        again = FlatModel(module)
        assert half.model.vector.tobytes() != again.vector.numpy().tobytes()
        again.load_tensors(half.model)
        again.load_buffers(half.buffers)
        torch.testing.assert_close(module(images), before, rtol=1e-4, atol=1e-5)


def test_bytes_are_those_of_the_slice(small_run: Run):
    """4 P(w) down and 4 P(w) up, of each client its own, through the real wire."""
    seen: dict[str, dict[int, int]] = {"down": {}, "up": {}}

    def note(message: Message, reply: Message) -> Message:
        if message.metadata.message_type.startswith("train"):
            for way, content in (("down", message.content), ("up", reply.content)):
                seen[way][message.metadata.dst_node_id - FIRST_NODE] = size(content)
        return reply

    options = {"rounds": 1, "raffm.assign": "1,0.5,0.25", "raffm.draw": "own"}
    folder = small_run("raffm", options, interfere=note)
    sizes = {
        n: 4
        * sum(p.numel() for p in build(name, classes=10, channels=1, image_size=8).parameters())
        for n, name in enumerate(("cnn-tiny", "cnn-tiny@0.5", "cnn-tiny@0.25"))
    }
    assert seen == {"down": sizes, "up": sizes}
    clients = record(folder)[1]["clients"]
    assert [entry["width"] for entry in clients] == [1, 0.5, 0.25]
    assert {entry["why"] for entry in clients} == {"assigned"}
    page = (folder / "report.html").read_text()
    assert 'id="widths"' in page
    assert page.count("<td>assigned</td>") == 3


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_gate_refuses_another_slice_than_was_sent():
    half = enrolled(server(), {0: 1.0, 1: 0.5})
    half.begin(1, [0, 1])
    whole, small = (half.broadcast(1, client).model for client in (0, 1))
    expected = half.expects(1)
    for model, fits in ((small, True), (whole, False)):
        up = Up(1, 10, 0.5, model, Tensors((), {}))
        if fits:
            check_fields(up, 1, 10, expected)
        else:
            with pytest.raises(Rejected, match=r"expected 0\.weight float32"):
                check_fields(up, 1, 10, expected)
    assert sum(np.prod(shape) for _, shape, _ in expected["change"].largest) == len(small)


def test_a_device_trains_its_slice_as_the_whole_with_the_rest_masked():
    """One step of SGD on a slice: what its entries of the whole network's gradient are, where the
    rest is masked."""
    model = initial()
    groups, specs = groups_of(model.module), model.parameters.specs
    where = part(groups, specs, 0.5)
    masked = {n: np.zeros(s, np.float32) for n, s, _ in specs}
    for name, values in model.parameters.unpack().items():
        masked[name][np.ix_(*where[name])] = values[np.ix_(*where[name])]
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6)
    model.load_tensors(Tensors.pack(masked))
    full, _ = device_half._gradient(model, model.vector.clone(), (images, labels))
    places = torch.tensor(flat(where, specs))
    small = FlatModel(build("cnn-tiny@0.5", classes=10, channels=1, image_size=8))
    part_, _ = device_half._gradient(small, model.vector[places], (images, labels))
    torch.testing.assert_close(part_, full[places])


def test_a_slice_of_a_slice_is_that_of_the_whole():
    model = initial()
    groups, specs = groups_of(model.module), model.parameters.specs
    outer, inner = (part(groups, specs, width) for width in (0.5, 0.25))
    cut = taken(model.parameters, outer)
    again = cut.vector[flat(inside(outer, inner), cut.specs)]
    assert np.array_equal(again, taken(model.parameters, inner).vector)
    assert np.array_equal(again, model.parameters.vector[flat(inner, specs)])


def test_ordered_dropout_moves_the_inner_slice_most(small_run: Run):
    options = {
        "rounds": 1, "raffm.widths": "1,0.25", "raffm.assign": "1", "raffm.dropout": True,
        "raffm.order": "none", "raffm.draw": "own", "raffm.sgd.batch-size": 4,
    }  # fmt: skip

    def of(name: str, more: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        folder = small_run("raffm", {**options, **more, "run-name": name})
        path = folder / "models/last.safetensors"
        return parse(path.read_bytes(), str(path))[0]["model"].unpack()

    start = of("start", {"rounds": 0})
    plain, dropped = of("plain", {"raffm.dropout": False}), of("dropped", {})
    ratio = [
        np.abs(m["3.weight"] - start["3.weight"])[8:].mean()
        / np.abs(m["3.weight"] - start["3.weight"])[:8, :4].mean()
        for m in (plain, dropped)
    ]
    assert ratio[1] < 0.8 * ratio[0]
    assert not np.array_equal(dropped["3.weight"][8:], start["3.weight"][8:])


def test_the_sandwich_has_one_whole_and_one_smallest():
    half = enrolled(
        server(widths="1,0.5,0.25", draw="sandwich"), {0: 0.5, 1: 1.0, 2: 1.0, 3: 1.0, 4: 0.5}
    )
    middles = set()
    for round in range(1, 30):
        half.begin(round, range(5))
        drawn = {client: half.broadcast(round, client).width for client in range(5)}
        assert 1.0 in drawn.values()
        assert 0.25 in drawn.values()
        assert all(width <= half.widths[client] for client, width in drawn.items())
        middles |= set(drawn.values())
        again = {client: half.broadcast(round, client).width for client in range(5)}
        assert drawn == again
        # Those that are far from the device's own size are one object for all that get them.
        slices = {drawn[c]: half.broadcast(round, c).model for c in range(5)}
        assert all(half.broadcast(round, c).model is slices[drawn[c]] for c in range(5))
    assert middles == {1.0, 0.5, 0.25}


def test_a_device_that_is_late_twice_shrinks():
    half = enrolled(server(widths="1,0.5,0.25"), {0: 1.0, 1: 0.25})
    half.late([0, 1])
    assert half.widths == {0: 1.0, 1: 0.25}
    half.late([0, 1])
    assert half.widths == {0: 0.5, 1: 0.25}, "the smallest stays"
    assert half.about(0)["why"] == "late 2 times with 1"
    half.late([0])
    assert half.widths[0] == 0.5, "it is counted anew"
    half.enrol(0, Source(10, width=1.0))
    assert half.widths[0] == 0.5, "its operator has said nothing new"
    half.enrol(0, Source(10, width=0.25))
    assert half.widths[0] == 0.25


def test_a_late_device_shrinks_in_a_run(small_run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server_app.clients.messaging.LATE_ROUNDS", 1)  # it is asked again at once

    def lose(message: Message, reply: Message) -> Message | None:
        train = message.metadata.message_type.startswith("train")
        return None if train and message.metadata.dst_node_id == FIRST_NODE else reply

    options = {"rounds": 3, "raffm.assign": "1", "round.deadline": 0.05}
    folder = small_run("raffm", {**options, "run-name": "late"}, interfere=lose)
    path = sorted((folder / "checkpoints").glob("*.safetensors"))[-1]
    method = parse(path.read_bytes(), str(path))[1]["method"]
    assert method["widths"] == {"0": 0.5, "1": 1.0, "2": 1.0}
    assert method["lateness"] == {"0": 1, "1": 0, "2": 0}
    assert method["reasons"]["0"] == "late 2 times with 1"


COSTS = [
    Cost(1.0, 1_000_000, 2**20, 4000),
    Cost(0.5, 400_000, 2**19, 1600),
    Cost(0.25, 2**17, 2**18, 400),
]


@pytest.mark.parametrize(
    ("measured", "load", "width", "why"),
    [
        (Measured(), Load(10, 1), 1.0, "nothing was measured"),
        # 24 B x 1e6 + 10 MiB = 32.9 MiB, of 0.6 x 60 MiB = 36 MiB
        (Measured(60 * 2**20, 0.0), Load(10, 1), 1.0, "32.9 MiB of 60 MiB free"),
        (Measured(50 * 2**20, 0.0), Load(10, 1), 0.5, "1 takes 32.9 MiB of 50 MiB free"),
        (Measured(2**20, 0.0), Load(10, 1), 0.25, "the smallest there is"),
        # 20 steps x 0.1 s x 10 = 20 s
        (Measured(2**30, 0.1), Load(10, 20, 40.0), 1.0, "20 s a round"),
        (Measured(2**30, 0.1), Load(10, 20, 39.0), 0.5, "1 takes 20 s of 39 s"),
        (Measured(0, 0.1), Load(10, 20, 10.0), 0.25, "0.5 takes 8 s of 10 s"),
    ],
)  # fmt: skip
def test_a_width_is_the_largest_that_fits(measured: Measured, load: Load, width: float, why: str):
    found, reason = widest(COSTS, measured, load)
    assert found == width
    assert why in reason


def test_the_cost_of_a_network_is_what_it_saves_for_its_gradient():
    """Counted without computing, against what a real pass keeps."""
    for name, slack in (("cnn-tiny", 1.0), ("resnet8x4", 1.0), ("timm:test_vit/4", 1.2)):
        task = Task(name, 10, 1, 8)
        network, kept = task.build().train(), dict[int, torch.Tensor]()

        def keep(tensor: torch.Tensor, kept: dict[int, torch.Tensor] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(torch.zeros(2, 1, 8, 8))
        own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers())}
        real = sum(t.untyped_storage().nbytes() for p, t in kept.items() if p not in own) / 2
        found = cost(task, 1.0)
        assert found.parameters == sum(p.numel() for p in network.parameters())
        assert real <= found.activations <= slack * real + 64
    half = cost(Task("cnn-tiny", 10, 1, 8), 0.5)
    assert half.operations < 0.5 * cost(Task("cnn-tiny", 10, 1, 8), 1.0).operations


def test_a_device_says_what_it_has_measured(small_run: Run, monkeypatch: pytest.MonkeyPatch):
    """And a small one gets a slice, for training and for evaluation alike."""
    monkeypatch.setattr("client_app.measure.free_memory", lambda: 2**18)
    sent: list[tuple[str, int]] = []

    def note(message: Message, reply: Message) -> Message:
        sent.append((message.metadata.message_type, size(message.content)))
        return reply

    folder = small_run("raffm", {"rounds": 1}, interfere=note)
    clients = record(folder)[1]["clients"]
    assert {entry["widest"] for entry in clients} <= {0.5, 0.25}
    assert all("of 0.25 MiB free" in entry["why"] for entry in clients)
    whole = 4 * len(initial().vector)
    sizes = {size for kind, size in sent if kind in ("train.raffm", "evaluate")}
    assert 0 < max(sizes) < whole


def test_a_node_says_its_width(small_run: Run):
    nodes = node_configs(DataSettings(sources=3, targets=4))
    nodes[1] |= {"width": 0.5}
    nodes[2] |= {"width": 0.1}
    config = default_config() | {"data.sources": 3, "data.targets": 4, "run-name": "hand"}
    grid = InProcessGrid(app, nodes, config)
    folder = small_run("raffm", {"run-name": "hand", "rounds": 1, "raffm.draw": "own"}, grid=grid)
    clients = record(folder)[1]["clients"]
    assert [entry["width"] for entry in clients] == [1.0, 0.5, 0.25]
    assert clients[1]["why"] == "set on the device: 0.5"


def test_a_network_that_cannot_be_cut_is_refused_before_the_run(small_run: Run):
    with pytest.raises(ModelError, match=r"raffm.widths=1"):
        small_run("raffm", {"model": "resnet8x4-gn"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"raffm.widths": "1,2"}, "is no list of widths"),
        ({"raffm.widths": ""}, "widths is empty"),
        ({"raffm.assign": "0.3"}, "assign has 0.3"),
    ],
)
def test_impossible_widths_are_refused(options: dict[str, Any], told: str, small_run: Run):
    with pytest.raises(Exception, match=told):
        small_run("raffm", options)
