"""What the images are made of, and what each container of the compose file gets."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from flwr.supercore.cli.flower_superexec import _parse_args
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

from client_app.teachers.settings import read_teachers
from deploy.provision.settings import read_fleet
from images.requirements import groups, pins
from server_app.settings import read_server_settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
DOCKERFILE = (ROOT / "images/Dockerfile").read_text()
DEVICES = [f"device-{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def stage(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S)
    assert found is not None
    return found[1]


def test_the_layers_together_install_all_dependencies_once():
    layers = groups(PROJECT, [])
    together = [*layers["flower"], *layers["torch"], *layers["project"]]
    assert sorted(together) == sorted(PROJECT["dependencies"])
    assert [line.partition(">")[0] for line in layers["torch"]] == ["torch", "torchvision"]


@pytest.mark.parametrize(
    ("given", "installed"),
    [(["torch==2.9.1", "torchvision==0.24.1"], ["torch==2.9.1", "torchvision==0.24.1"]),
     (["base"], [])],
)  # fmt: skip
def test_another_torch_takes_the_place_of_the_pinned_one(given: list[str], installed: list[str]):
    assert groups(PROJECT, given)["torch"] == installed
    left = pins(CONSTRAINTS, given)
    assert not [line for line in left if line.startswith(("torch", "nvidia", "triton", "cuda"))]
    assert "flwr==1.39.0" in left
    assert "torch==2.10.0" in pins(CONSTRAINTS, [])


@pytest.mark.parametrize("name", ["base", "superlink", "libraries", "device"])
def test_only_the_servers_image_has_the_servers_half(name: str):
    assert "server_app" not in stage(name)
    assert "COPY server_app" in stage("server")


@pytest.mark.parametrize(
    ("name", "absent", "words"),
    [
        ("device", ["server_app"], ["--help"]),
        ("device", ["server_app"], ["doctor", "--help"]),
        ("device", ["server_app"], ["node", "--help"]),
        ("superlink", ["server_app", "torch", "PIL"], ["superlink", "--help"]),
        ("superlink", ["server_app", "torch", "PIL"], ["superexec", "--help"]),
    ],
)
def test_an_image_has_all_that_its_commands_need(
    tmp_path: Path, name: str, absent: list[str], words: list[str]
):
    copied = re.sub(r"\\\n\s*", "", stage(name))
    for line in re.findall(r"^COPY (?!-)(.*)$", copied, re.M):
        *sources, target = line.split()
        for source in sources:
            place = tmp_path / target / (Path(source).name if target.endswith("/") else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    code = (
        f"import sys; sys.modules |= dict.fromkeys({absent}); "
        f"sys.argv = ['augflower', *{words}]; from deploy.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=dict(os.environ) | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["superlink", "device", "server"])
def test_no_image_runs_as_root(name: str):
    assert re.findall(r"^USER (.*)$", stage(name), re.M)[-1] == "1000:1000"


def test_each_image_can_take_an_index_of_ones_own():
    for part in DOCKERFILE.split("\nFROM ")[1:]:
        assert "pip install" not in part or 'ARG PIP_OPTIONS=""' in part
        assert part.count("pip install") == part.count("$PIP_OPTIONS")


def test_builds_see_code_alone():
    allowed = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert {line.strip("!").split("/")[0] for line in allowed} == {
        *("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "images"),
        *("common", "client_app", "server_app", "deploy"),
    }


def test_only_the_executor_has_the_private_model(services: dict[str, dict[str, Any]]):
    mounted = {
        name: volume
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if volume.startswith("private-model:")
    }
    # pretrain makes it, without a network, and ends.
    assert set(mounted) == {"pretrain", "executor"}
    assert mounted["executor"].endswith(":ro")
    assert services["pretrain"]["network_mode"] == "none"


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_gets_its_own_kit_and_nothing_of_the_server(
    services: dict[str, dict[str, Any]], name: str
):
    device = services[name]
    kits = [volume for volume in device["volumes"] if volume.startswith("./fleet")]
    assert kits == [f"./fleet/nodes/{name}:/etc/augflower/node:ro"]
    assert device["networks"] == ["fleet"]
    assert set(device["environment"]) == {"OMP_NUM_THREADS"}
    assert "insecure" not in str(device["command"])
    assert "--auth=/etc/augflower/node/node.key" in device["command"]


def test_what_stays_up_starts_again_and_what_ends_does_not(services: dict[str, dict[str, Any]]):
    lasting = {n for n, service in services.items() if service["restart"] == "unless-stopped"}
    assert lasting == {"superlink", "executor", *DEVICES}


def test_containers_may_change_nothing_but_their_volumes(services: dict[str, dict[str, Any]]):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service, name
        assert (service["user"] == "0:0") == (name == "provision"), name


def test_flower_takes_the_arguments(services: dict[str, dict[str, Any]]):
    link = services["superlink"]["command"]
    options = _parse_args_run_superlink().parse_args(link[2:])
    assert (options.enable_supernode_auth, options.isolation) == (True, "process")
    program, name, *arguments = services["executor"]["command"]
    assert (program, name) == ("augflower", "superexec")
    _parse_args().parse_args(arguments)
    settings = read_server_settings({"AUGFLOWER_RUNS": "/runs"})
    known = services["executor"]["environment"]
    assert Path(known["AUGFLOWER_RUNS"]) == settings.runs


def test_the_fleets_files_fit_each_other():
    nodes = read_fleet(ROOT / "images/fleet.yaml").nodes
    assert sorted(nodes) == DEVICES
    teachers = read_teachers(ROOT / "images/teachers.toml")
    assert teachers.teacher[0].model == "local-dir:/teacher/clip"
    assert [name for name, node in nodes.items() if node.teachers] == ["device-4"]


def pretrain(services: dict[str, dict[str, Any]], volume: Path, program: str) -> int:
    """Run the command of ``pretrain`` on a volume, with a shell script for ``augflower``."""
    (volume.parent / "augflower").write_text(f"#!/bin/sh\n{program}\n")
    (volume.parent / "augflower").chmod(0o755)
    shell, option, command = services["pretrain"]["command"]
    command = command.replace("/var/lib/augflower", str(volume))
    path = {"PATH": f"{volume.parent}:/usr/bin:/bin"}
    return subprocess.run([shell, option, command], env=path, check=False).returncode


def test_a_private_model_that_was_half_made_is_made_again(
    services: dict[str, dict[str, Any]], tmp_path: Path
):
    volume = tmp_path / "volume"
    (volume / "model").mkdir(parents=True)
    (volume / "model/weights-1.safetensors").touch()  # and no card
    make = 'mkdir "$2" && echo "$*" > "$2/card.json"'
    # Killed after its first epoch, when there is a card already.
    assert pretrain(services, volume, f"{make}; kill -9 $$") != 0
    assert not (volume / "model").exists()
    assert pretrain(services, volume, make) == 0
    assert [str(path.relative_to(volume)) for path in volume.rglob("*.*")] == ["model/card.json"]
    assert (volume / "model/card.json").read_text() == "pretrain new --epochs 5\n"
    # What is whole is left alone.
    assert pretrain(services, volume, "exit 1") == 0
