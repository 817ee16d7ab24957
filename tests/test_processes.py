"""Many processes give what one gives, byte for byte; one that dies costs no more than its node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import nn

import augflower
from client_app import device as devices
from client_app.app import app
from common.config import other_sections, read_run_config
from common.errors import FleetError
from common.tensorfile import parse
from deploy.run_config import default_config
from deploy.simulate import simulate
from server_app.runs.record import read_meta
from server_app.settings import ServerSettings
from server_app.transport.in_process import FIRST_NODE, InProcessGrid
from server_app.transport.processes import AHEAD, ProcessesGrid
from tests.conftest import SMALL
from tests.test_golden import kept

ROOT = Path(__file__).parents[1]
TRAIN = "train.fedavg"
RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {"round.fraction": 0.5, "data.sources": 6},
    "augfl": {"augfl.lambda": 0.0},
    "fml": {"evaluation.who": "both", "data.test-fraction": 0.3},
    "fedkd": {"own-models": "cnn-tiny,cnn-small"},
}


@pytest.mark.parametrize(
    ("method", "durable"),
    [("fedavg", True), ("augfl", False), ("augfl", True), ("fml", False), ("fedkd", True)],
)
def test_the_result_is_that_of_one_process(method: str, durable: bool, tmp_path: Path):
    found = []
    for processes in (1, 3):
        place = tmp_path / str(processes)
        memory = place / "devices" if durable else None
        found.append(play(place, processes, {"method": method} | RUNS[method], memory=memory))
    assert found[0] == found[1]


def play(place: Path, processes: int, changes: dict[str, Any], **more: Any) -> tuple[Any, ...]:
    """All that a run has written, but for times."""
    config = SMALL | {"rounds": 3, "run-name": "a", "round.deadline": 60.0} | changes
    server = ServerSettings(runs=place, cache=place / "cache")
    folder = simulate(config, server, lambda _: None, processes=processes, **more)
    lines = [kept(json.loads(text)) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    models = {path.name: path.read_bytes() for path in (folder / "models").glob("*.safetensors")}
    last = max((folder / "checkpoints").glob("*.safetensors"))
    groups, _ = parse(last.read_bytes(), last.name)
    state = {
        (name, dtype): vector.tobytes()
        for name, group in groups.items()
        for dtype, vector in group.vectors.items()
        if name != "arrays-of-notes"  # seconds are among them
    }
    own = {
        str(path.relative_to(place)): path.read_bytes()
        for path in (place / "devices").rglob("*.safetensors")
    }
    assert state
    assert models or changes["method"] == "fedkd"
    return lines, models, state, own


def test_modules_and_images_in_memory_need_no_copy(tmp_path: Path):
    """A class that exists in this function alone could not be sent to another program."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(64, 2)
            self.twist = lambda x: x.flatten(1).sin()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.twist(x))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    module, images = Own(), torch.rand(8, 12, 1, 8, 8)
    clients = [(part, torch.arange(12) % 2) for part in images]
    ends = []
    for processes in (1, 2):
        run = augflower.simulate(
            method="fedavg", model=module, clients=clients, rounds=2, name=str(processes),
            runs=tmp_path, processes=processes, show=None,
        )  # fmt: skip
        ends.append(run.model().last.weight)
    assert torch.equal(*ends)
    assert not torch.equal(ends[0], module.last.weight)


def message(node: int, kind: str = TRAIN) -> Message:
    content = RecordDict({"fields": ConfigRecord({"asked": node})})
    return Message(content, FIRST_NODE + node, kind, ttl=60.0, group_id="1")


Answering = Callable[[Message, Context], Message]


def grid_of(answering: Answering, nodes: int, processes: int, **more: Any) -> ProcessesGrid:
    return ProcessesGrid(answering, [{}] * nodes, {}, processes, **more)  # type: ignore[arg-type]


def counting(asked: Message, context: Context) -> Message:
    """Says which process it is, how many threads it has, and how often the node was asked."""
    seen = context.state.config_records.get("seen", ConfigRecord({"times": 0}))
    times = int(seen["times"]) + 1  # type: ignore[arg-type]
    context.state["seen"] = ConfigRecord({"times": times})
    if asked.metadata.message_type == "train.fail":
        raise ValueError("no such luck")
    facts = ConfigRecord({"pid": os.getpid(), "threads": torch.get_num_threads(), "times": times})
    return Message(RecordDict({"facts": facts}), reply_to=asked)


def facts(replies: Any) -> list[ConfigRecord]:
    return [reply.content.config_records["facts"] for reply in replies]


def test_what_a_node_remembers_travels_and_each_has_one_thread():
    grid = grid_of(counting, 6, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for times in (1, 2, 3):
            asked = [message(node) for node in range(6)]
            answers = facts(grid.send_and_receive(asked))
            assert [answer["times"] for answer in answers] == [times] * 6
            assert [answer["threads"] for answer in answers] == [1] * 6
            assert os.getpid() not in {answer["pid"] for answer in answers}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        grid.close()
    alone = InProcessGrid(counting, [{}], {})  # type: ignore[arg-type]
    assert [answer["threads"] for answer in facts(alone.send_and_receive([message(0)]))] == [1]


def test_an_error_is_that_of_one_process():
    reasons = []
    for grid in (grid_of(counting, 2, 2), InProcessGrid(counting, [{}], {})):  # type: ignore[arg-type]
        [reply] = grid.send_and_receive([message(0, "train.fail")])
        reasons.append((reply.error.code, reply.error.reason))
        assert reply.metadata.reply_to_message_id
        if isinstance(grid, ProcessesGrid):
            grid.close()
    assert reasons[0] == reasons[1]
    assert "no such luck" in reasons[0][1]


def test_replies_that_nobody_wants_yet_do_not_pile_up(tmp_path: Path):
    def noting(asked: Message, context: Context) -> Message:
        (tmp_path / str(asked.metadata.dst_node_id)).touch()
        return counting(asked, context)

    grid = grid_of(noting, 40, 2)
    try:
        ids = list(grid.push_messages([message(node) for node in range(40)]))
        assert len(list(grid.pull_messages(ids[:1]))) == 1
        time.sleep(0.3)
        begun = len(list(tmp_path.iterdir()))
        assert 2 <= begun <= AHEAD * 2 + 1
        assert len(list(grid.pull_messages(reversed(ids[1:])))) == 39
        assert len(list(tmp_path.iterdir())) == 40
    finally:
        grid.close()


def deadly(asked: Message, context: Context) -> Message:
    """Node 1 dies in its first training."""
    if asked.metadata.message_type == TRAIN and asked.metadata.dst_node_id == FIRST_NODE + 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return app(asked, context)


def test_a_process_that_is_killed_fails_its_node_alone(
    small_run: Callable[..., Path], tmp_path: Path
):
    settings = {"data.targets": 0, "evaluation.who": "sources", "data.test-fraction": 0.3}
    settings |= {"rounds": 1, "round.return-timeout": 0.0, "round.wait": 5.0}
    config = default_config() | SMALL | {"method": "fedavg"} | settings
    nodes = [{"clients": str(number)} for number in range(3)]
    said: list[str] = []
    grid = ProcessesGrid(deadly, nodes, config, 3, notice=said.append)  # type: ignore[arg-type]
    try:
        folder = small_run("fedavg", settings, grid=grid)
    finally:
        grid.close()
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert [entry["client"] for entry in line["clients"]] == ["0", "2"]
    [missing] = line["missing"]
    assert missing["node"] == str(FIRST_NODE + 1)
    assert "has died (SIGKILL)" in missing["reason"]
    assert "2 of 3 go on" in said[0]


def test_without_any_process_a_run_ends_and_says_why():
    def dying(asked: Message, context: Context) -> Message:
        os._exit(7)

    grid = grid_of(dying, 4, 2)
    with pytest.raises(FleetError, match=r"has died \(exit code 7\), the last of 2"):
        list(grid.send_and_receive([message(node) for node in range(4)]))


def test_a_process_forgets_the_images_of_nodes_that_it_helped_with():
    settings = {"data.sources": 3, "data.targets": 0}
    grid = InProcessGrid(app, [{"clients": "0"}, {"clients": "1"}], default_config() | settings)
    devices._DEVICES.clear()
    for context in grid.contexts.values():
        run = read_run_config(context.run_config, other_sections(context.run_config))
        devices.open_device(context, run)
    assert len(devices._DEVICES) == 2
    devices.forget(grid.contexts[FIRST_NODE])
    assert [key[1] for key in devices._DEVICES] == [FIRST_NODE + 1]


def test_a_program_that_has_used_cuda_keeps_to_itself(
    small_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    said: list[str] = []
    folder = small_run("fedavg", {"rounds": 1}, processes=2, notice=said.append)
    assert "all clients are in one process: this program has used CUDA" in said[0]
    assert read_meta(folder).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_run_that_is_stopped(how: signal.Signals, tmp_path: Path):
    options = [f"-s{name}" for name in ("method=fedavg", "rounds=100000", "run-name=a")]
    program = subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", "simulate", "--processes", "2", *options],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdout is not None
        next(line for line in program.stdout if line.startswith("round "))
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        assert len(children) == 2
        if how is signal.SIGINT:  # a terminal's Ctrl-C reaches all of them
            os.killpg(program.pid, how)
        else:
            program.send_signal(how)
        said = program.stdout.read()
        program.wait(30)
        end = time.monotonic() + 10
        while any(Path("/proc", child).exists() for child in children):
            assert time.monotonic() < end, "a process is left"
            time.sleep(0.05)
    finally:
        program.kill()
        program.wait()
    if how is not signal.SIGKILL:
        assert "stopped; go on with: augflower resume" in " ".join(said.split())
        assert read_meta(tmp_path / "runs" / "a").status == "stopped"
