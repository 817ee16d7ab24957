"""The same server, however it is started: by a kit, by the compose file, on Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.supercore.cli.flower_superexec import _parse_args as executor_options
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_options

from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet
from server_app.settings import read_server_settings

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Callable[[], Any]] = {
    "superlink": superlink_options,
    "superexec": executor_options,
}
APART = {
    # Addresses, and where the state is.
    "host", "port", "fleet_api_address", "runtime_api_address", "health_server_address",
    "database",
    # How a run is started.
    "executor", "executor_config",
}  # fmt: skip
Server = dict[str, tuple[list[str], dict[str, str]]]
"""Service -> its command, and the variables that its runs have."""


def of_kit(folder: Path) -> Server:
    settings = {"server": {"names": ["a.org"]}, "nodes": {"node-1": {"clients": "0"}}}
    fleet.provision(parse_fleet(settings), folder)
    return of_compose(folder / "server/compose.yaml")


def of_compose(file: Path) -> Server:
    services = yaml.safe_load(file.read_text())["services"]
    return {
        name: (services[name]["command"], services[name].get("environment", {}))
        for name in ("superlink", "executor")
    }


def of_kubernetes() -> Server:
    found: Server = {}
    for name in ("superlink", "executor"):
        for document in yaml.safe_load_all((ROOT / f"kubernetes/{name}.yaml").read_text()):
            if document["kind"] in ("StatefulSet", "Deployment"):
                (container,) = document["spec"]["template"]["spec"]["containers"]
                found[name] = (container["args"], {})
            if document["kind"] == "ConfigMap":
                config = yaml.safe_load(document["data"]["executor.yaml"])
    runs = {entry["name"]: entry["value"] for entry in config["env"]}
    (place,) = [m["mountPath"] for m in config["volume-mounts"] if m["name"] == "nodes"]
    assert runs["AUGFLOWER_NODES"] == f"{place}/nodes.json"
    return found | {"executor": (found["executor"][0], runs)}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Server]:
    return {
        "kit": of_kit(tmp_path_factory.mktemp("fleet")),
        "compose": of_compose(ROOT / "docker-compose.yml"),
        "kubernetes": of_kubernetes(),
    }


@pytest.mark.parametrize("service", ["superlink", "executor"])
@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_processes_are_started_as_a_kit_starts_them(
    servers: dict[str, Server], service: str, where: str
):
    kit, other = (servers[name][service][0] for name in ("kit", where))
    assert other[:2] == kit[:2] == ["augflower", {"executor": "superexec"}.get(service, service)]
    parser = OPTIONS[kit[1]]
    ours, theirs = (vars(parser().parse_args(command[2:])) for command in (kit, other))
    assert {k: v for k, v in theirs.items() if k not in APART} == {
        k: v for k, v in ours.items() if k not in APART
    }
    assert bool(theirs.get("database")) == bool(ours.get("database"))


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_runs_know_as_much_of_the_fleet_as_those_of_a_kit(servers: dict[str, Server], where: str):
    """The list of devices binds clients to keys; without it the first comer takes any."""
    for name in ("kit", where):
        variables = servers[name]["executor"][1]
        # The token's file is made by the operator.
        known = {key: value for key, value in variables.items() if "WATCH" not in key}
        settings = read_server_settings(known)
        assert settings.nodes is not None, name
        assert settings.nodes.name == "nodes.json"
