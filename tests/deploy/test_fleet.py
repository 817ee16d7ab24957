"""Real processes on loopback: warm devices, broken tasks, lost devices, and a clean end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import FleetError
from deploy.fleet import Fleet, NodeSpec

pytestmark = pytest.mark.deploy

TRIAL_APP = Path(__file__).parent / "trial_app"
NODES = [NodeSpec("left", {"name": "left"}), NodeSpec("right", {"name": "right"})]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    home = tmp_path_factory.mktemp("fleet")
    environment = {"TRIAL_SECRET": "stays at home"}
    with Fleet(home, NODES, server_environment=environment) as fleet:
        yield fleet
    assert left_of(home) == []


def left_of(home: Path) -> list[str]:
    """Command lines of processes whose Flower folder is in ``home``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLWR_HOME={home}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def run(fleet: Fleet, plan: str, **config: Any) -> dict[str, Any]:
    out = fleet.home / "out.json"
    run_id = fleet.submit(TRIAL_APP, {"plan": plan, "out": str(out), "nodes": 2, **config})
    status = fleet.wait(run_id, timeout=50)
    assert (status.status, status.result) == ("finished", "completed"), status
    return json.loads(out.read_text())


def test_each_message_has_a_fresh_fork_of_the_warm_process(fleet):
    record = run(fleet, "train train train")
    assert record["secret"] == "stays at home"
    replies = [reply for round in record["rounds"] for reply in round["replies"]]
    assert len(replies) == 6
    assert {reply["name"] for reply in replies} == {"left", "right"}
    assert len({reply["pid"] for reply in replies}) == 6
    assert len({reply["parent"] for reply in replies}) == 2
    assert len({tuple(reply["random"]) for reply in replies}) == 6
    assert all("/flower/apps/" in reply["file"] for reply in replies), "not the run's bundle"
    assert all(reply["sum"] == 10 for reply in replies)
    # What a device keeps between messages survives the process.
    assert sorted(reply["seen"] for reply in replies) == [1, 1, 2, 2, 3, 3]
    # Flower's fixed waits alone are 3 s a round.
    assert min(round["seconds"] for round in record["rounds"]) < 2


def test_a_broken_task_is_answered_at_once_and_does_not_hurt_the_next(fleet):
    rounds = run(fleet, "train raise exit kill train")["rounds"]
    codes = {round["order"]: [reply.get("error") for reply in round["replies"]] for round in rounds}
    raised, crashed = 2, 8
    assert codes == {
        "train": [None, None],
        "raise": [raised, raised],
        "exit": [crashed, crashed],
        "kill": [crashed, crashed],
    }
    assert all(round["seconds"] < 20 for round in rounds)
    assert [reply["seen"] for reply in rounds[-1]["replies"]] == [2, 2]


def test_a_lost_device_comes_back_under_its_name(fleet):
    before = fleet.node_ids
    fleet.kill("left")
    assert set(fleet.node_ids) == {"right"}
    fleet.check()
    fleet.restart("left")
    assert fleet.node_ids["right"] == before["right"]
    assert fleet.node_ids["left"] != before["left"]


def test_a_run_that_is_refused_says_why(fleet):
    with pytest.raises(FleetError, match="did not start a run"):
        fleet.submit(TRIAL_APP, {"no-such-setting": 1})


def test_a_run_can_be_stopped(fleet):
    run_id = fleet.submit(TRIAL_APP, {"plan": "train", "nodes": 99, "out": "unused"})
    fleet.stop_run(run_id)
    assert fleet.wait(run_id, timeout=20).result == "stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interrupted_program(tmp_path, number):
    program = f"""
import time
from pathlib import Path
from deploy.fleet import Fleet, NodeSpec
with Fleet(Path({str(tmp_path)!r}), [NodeSpec("a"), NodeSpec("b")]):
    print("online", flush=True)
    time.sleep(60)
"""
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "online\n"
        assert len(left_of(tmp_path)) >= 6
        child.send_signal(number)
        start = time.monotonic()
        assert child.wait(timeout=20) != 0
        assert time.monotonic() - start < 10
    finally:
        child.kill()
    assert left_of(tmp_path) == []


def test_a_fleet_that_cannot_start_names_the_process_and_leaves_nothing(tmp_path):
    class Broken(Fleet):
        def _superlink_command(self, database: bool) -> list[str]:
            return [*super()._superlink_command(database), "--no-such-option"]

    with pytest.raises(FleetError, match=r"superlink ended with exit code 2[\s\S]*no-such-option"):
        Broken(tmp_path, NODES).__enter__()
    assert left_of(tmp_path) == []
