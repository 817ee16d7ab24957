"""No bad reply changes the model or ends the run, and each is recorded with its field.

One run in which every kind of bad reply comes once, each in a round of its own and from the next
node in turn, is compared with a run in which those nodes failed in those rounds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from common.tensorfile import parse
from deploy.simulate import simulate
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE
from tests.bad_replies import TABLE, Spoil, copy

SOURCES = 6
FIRST = 6
"""Round of the first bad reply; by then the gate knows what is usual."""

KINDS = {FIRST + i: (name, *entry) for i, (name, entry) in enumerate(TABLE.items())}
CONFIG = {
    "rounds": FIRST + len(TABLE),
    "evaluation.every": 0,
    "keep-checkpoints": 0,
    "round.return-timeout": 0.0,
    "data.sources": SOURCES,
    "data.targets": 1,
    "augfl.lambda": 0.0,
}


def sender(round: int) -> int:
    return FIRST_NODE + round % SOURCES


def play(folder: Path, bad: bool) -> Path:
    earlier: dict[int, list[Message]] = defaultdict(list)

    def interfere(message: Message, reply: Message) -> Message | None:
        node, round = message.metadata.dst_node_id, int(message.metadata.group_id or 0)
        if not message.metadata.message_type.startswith("train"):
            return reply
        if round not in KINDS or node != sender(round):
            earlier[node].append(copy(reply))
            return reply
        if not bad:
            return Message(Error(2, "failed"), reply_to=message)
        spoil: Spoil = KINDS[round][1]
        arrived = spoil(reply, earlier[node])
        return arrived or reply

    server = ServerSettings(runs=folder, cache=folder / "cache")
    return simulate(CONFIG, server, lambda _: None, interfere=interfere)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with bad replies and its twin without them, both with the same secret signs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server_app.app.new_secret", lambda: bytes(32))
        return (
            play(tmp_path_factory.mktemp("bad"), True),
            play(tmp_path_factory.mktemp("absent"), False),
        )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def models(folder: Path) -> list[np.ndarray]:
    paths = sorted((folder / "checkpoints").iterdir())
    return [parse(path.read_bytes(), str(path))[0]["model"].vector for path in paths]


def test_there_are_enough_kinds():
    assert len(TABLE) >= 60


@pytest.mark.parametrize("round", KINDS, ids=[kind[0] for kind in KINDS.values()])
def test_rejected_with_its_field(runs: tuple[Path, Path], round: int):
    line = lines(runs[0])[round]
    assert line["round"] == round
    (entry,) = line["rejected"]
    assert (entry["node"], entry["field"]) == (str(sender(round)), KINDS[round][2])
    assert 0 < len(entry["reason"]) <= 300
    assert line["replies"] == SOURCES - 1


def test_no_honest_reply_is_rejected(runs: tuple[Path, Path]):
    assert sum(len(line.get("rejected", [])) for line in lines(runs[0])) == len(TABLE)
    assert not any(line.get("rejected") for line in lines(runs[1]))


def test_the_model_is_that_of_absent_nodes(runs: tuple[Path, Path]):
    for round, (spoiled, absent) in enumerate(zip(*map(models, runs), strict=True)):
        np.testing.assert_array_equal(spoiled, absent, err_msg=KINDS.get(round, ["honest"])[0])


def test_the_run_finishes_and_counts(runs: tuple[Path, Path]):
    assert json.loads((runs[0] / "run.json").read_text())["status"] == "finished"
    (*_, last) = sorted((runs[0] / "checkpoints").iterdir())
    counts = [node[2] for node in parse(last.read_bytes(), "")[1]["gate"]["nodes"].values()]
    assert sum(counts) == len(TABLE)
