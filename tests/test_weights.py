"""A device's word on its number of images decides neither the model nor the evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from client_app.app import app
from common.config import DataSettings
from common.wire import PLAIN
from deploy.run_config import default_config
from server_app.app import run
from server_app.clients.weights import counted
from server_app.rounds.evaluation import combine
from server_app.rounds.training import Training
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from tests.test_own_images import CONFIG, draw

OWN = DataSettings(name="folder", class_names="x,y")
CLAIMED = 5_000_000


@pytest.mark.parametrize(
    ("images", "vouched", "expected"),
    [
        ([16, 16, 16, 10**7], set(), [16, 16, 16, 48]),
        ([16, 10**7], set(), [16, 48]),  # of two, the smaller is the median
        ([10**7], set(), [10**7]),
        ([16, 16, 900, 10**7], {2}, [16, 16, 900, 48]),
        ([10, 20, 30, 40, 60], set(), [10, 20, 30, 40, 60]),
        ([1, 1, 1, 1, 50], set(), [1, 1, 1, 1, 3]),
        ([], set(), []),
    ],
)
def test_nobody_counts_for_more_than_three_medians(
    images: list[int], vouched: set[int], expected: list[int]
):
    assert list(counted(dict(enumerate(images)), OWN, vouched).values()) == expected


def test_images_that_the_server_has_dealt_itself_count_as_they_are():
    images = {0: 16, 1: 16, 2: 900}
    assert counted(images, DataSettings()) == images
    assert counted(images, DataSettings(name="folder", weight_limit=0.0)) == images


def evaluated(node: int, examples: int, after: float) -> dict[str, Any]:
    return {
        "node": str(node), "client": "-1", "examples": examples,
        "accuracy_before": 0.5, "accuracy_after": after, "accuracy_commonest": 0.5,
        "loss_before": 1.0, "loss_after": 0.5,
    }  # fmt: skip


def test_one_of_ten_does_not_decide_an_evaluation():
    clients = [evaluated(n, 20, 0.8) for n in range(9)] + [evaluated(9, 10**7, 0.0)]
    nobody: Any = SimpleNamespace(vouched=lambda node: False)
    found = combine(clients, OWN, nobody)
    assert found is not None
    assert found["accuracy_after"] == pytest.approx(0.8 * 9 / 12)
    assert found["over_clients"]["accuracy_after"] == pytest.approx(0.72)
    assert found["over_clients"]["loss_before"] == 1.0
    told: Any = SimpleNamespace(vouched=lambda node: node == 9)
    trusted = combine(clients, OWN, told)
    assert trusted is not None
    assert trusted["accuracy_after"] < 1e-4, "the operator has said how many images it may have"


Play = Callable[[str, bool], tuple[list[dict[str, Any]], list[dict[int, int]]]]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Five sources and three targets; one of each may lie about the number of its images."""
    for place in range(8):
        for label, kind in enumerate("xy"):
            first = 100 * place + 50 * label
            draw(tmp_path / str(place) / kind, *range(first, first + 8))

    def go(method: str, lie: bool) -> tuple[list[dict[str, Any]], list[dict[int, int]]]:
        def interfere(message: Message, reply: Message) -> Message:
            at = message.metadata
            if lie and at.dst_node_id in (FIRST_NODE, FIRST_NODE + 5):
                fields = reply.content[PLAIN]
                if at.message_type == "query.enrol":
                    fields.update(support=CLAIMED, query=CLAIMED)
                elif at.message_type == "evaluate":
                    fields.update(examples=[CLAIMED], correct_after=[0], correct_before=[0])
                else:
                    fields["examples"] = 2 * CLAIMED
            return reply

        told: list[dict[int, int]] = []
        weigh = Training._weigh

        def note(self: Training) -> None:
            weigh(self)
            told.append(dict(self._counted))

        monkeypatch.setattr(Training, "_weigh", note)
        nodes = [
            {"data-folder": str(tmp_path / str(n)), "role": "source" if n < 5 else "target"}
            for n in range(8)
        ]
        config = (
            default_config() | CONFIG | {"method": method, "round.nodes": 8, "augfl.lambda": 0.0}
        )
        grid = InProcessGrid(app, nodes, config, interfere=interfere)
        server = ServerSettings(runs=tmp_path / f"{method}-{lie}", cache=tmp_path / "cache")
        folder = run(grid, config, server, lambda _: None)
        text = (folder / "metrics.jsonl").read_text()
        monkeypatch.setattr(Training, "_weigh", weigh)
        return [json.loads(line) for line in text.splitlines()], told

    return go


@pytest.mark.parametrize("method", ["fedavg", "augfl"])
def test_ten_million_images_that_are_claimed_count_for_three_clients(play: Play, method: str):
    lines, told = play(method, True)
    assert not any(line["rejected"] for line in lines)
    for counts in told:
        assert counts == {FIRST_NODE: 48} | {FIRST_NODE + n: 16 for n in range(1, 5)}
    for line in lines[1:]:
        assert [entry["examples"] for entry in line["clients"]] == [48, 16, 16, 16, 16]
    for line in lines:
        clients = line["evaluation"]["clients"]
        shares = np.array([3, 1, 1]) / 5
        accuracies = [entry["accuracy_after"] for entry in clients]
        assert line["evaluation"]["accuracy_after"] == pytest.approx(shares @ accuracies)
        assert line["evaluation"]["over_clients"]["accuracy_after"] == pytest.approx(
            np.mean(accuracies)
        )


@pytest.mark.parametrize("method", ["fedavg", "augfl"])
def test_those_who_have_what_they_say_count_for_it(play: Play, method: str):
    _, told = play(method, False)
    assert told
    assert {count for counts in told for count in counts.values()} == {16}
