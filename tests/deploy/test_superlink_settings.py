"""A device that asks Flower for a run is told the settings that devices read, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.common.config import get_fused_config_from_dir
from flwr.common.constant import NOOP_FLWR_AID
from flwr.common.serde import run_from_proto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.server.superlink.fleet.message_handler import message_handler
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.run import Run

from client_app.app import app
from common.config import FOR_DEVICES, RunSettings, defaults
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet
from deploy.run_config import default_config
from deploy.superlink_adaptations.settings import ADAPTATION
from server_app.transport.in_process import InProcessGrid
from tests.deploy.test_activation import Caller, key_of
from tests.deploy.test_doctor_network import SuperLink, superlink

ROOT = Path(__file__).parents[2]
SENT: dict[str, Any] = {"rounds": 7, "seed": 3, "model": "cnn-small", "data.sources": 4}
TELLING: dict[str, Any] = {
    "knowledge.cross-entropy": 0.5, "transfer.rate": 0.125, "augfl.lambda": 2.5, "rounds": 7
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet")
    fleet.provision(parse_fleet({"server": {"names": ["a.org"]}, "nodes": {"pi": {}}}), path)
    return path


@pytest.fixture
def link(folder: Path) -> Iterator[SuperLink]:
    with superlink(None) as running:
        running.admit(folder, "pi")
        yield running


@pytest.fixture
def adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_handler, "get_run", message_handler.get_run)  # put back afterwards
    ADAPTATION.apply()


def told(link: SuperLink, folder: Path, config: dict[str, Any]) -> tuple[Run, Run]:
    """A run as a device sees it, through the network, and as the server's half does."""
    state = link.states.state()
    number = state.create_run(
        "augflower/augflower", "1", "0" * 64, config, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID,
        TaskType.SERVER_APP,
    )  # fmt: skip
    (task,) = state.get_tasks(run_ids=[number])
    assert state.claim_task(task.task_id)
    assert state.activate_task(task.task_id)
    device = Caller(link, key_of(folder, "pi"))
    node = device.activate(device.public, 30.0)
    request = GetRunRequest(node=Node(node_id=node), run_id=number)
    answer = device.stub.GetRun(request, timeout=10, metadata=device.signed())
    device.deactivate(node)
    return run_from_proto(answer.run), state.get_run_info(run_ids=[number])[0]


@pytest.mark.usefixtures("adapted")
def test_a_device_is_not_told_how_the_server_works(link: SuperLink, folder: Path):
    seen, kept = told(link, folder, SENT | TELLING)
    assert seen.override_config == {k: v for k, v in SENT.items() if k != "rounds"}
    assert kept.override_config == SENT | TELLING
    fused = get_fused_config_from_dir(ROOT, seen.override_config)
    assert fused["knowledge.cross-entropy"] == default_config()["knowledge.cross-entropy"]
    assert (fused["seed"], fused["data.sources"]) == (3, 4)


@pytest.mark.usefixtures("adapted")
def test_with_images_of_their_own_devices_are_not_told_how_many_the_server_has(
    link: SuperLink, folder: Path
):
    own = {"data.name": "folder", "data.class-names": "a,b"}
    seen, _ = told(link, folder, own | {"data.server-images": 77, "data.pretrain-images": 55})
    assert seen.override_config == own
    # Of a set that is partitioned a device must know what is left for clients.
    shared = {"data.server-images": 77}
    assert told(link, folder, shared)[0].override_config == shared


def test_flower_by_itself_tells_all(link: SuperLink, folder: Path):
    """When this fails, Flower has another way: read the adaptation again."""
    assert told(link, folder, TELLING)[0].override_config == TELLING


def test_simulated_devices_are_told_no_more():
    """So that each run of a method in these tests shows that it is enough."""
    config = default_config() | SENT | TELLING
    grid = InProcessGrid(app, [{"clients": "0"}], config)
    (context,) = grid.contexts.values()
    sections = {key.partition(".")[0] for key in context.run_config}
    assert sections == FOR_DEVICES <= {key.partition(".")[0] for key in defaults(RunSettings)}
    assert context.run_config["data.sources"] == SENT["data.sources"]
