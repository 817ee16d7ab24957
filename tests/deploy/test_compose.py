"""docker-compose.yml on a real engine: built, run to the end, and killed on the way.

It needs a Docker engine and either `docker compose` or docker-compose (COMPOSE chooses); the
base image and torch can be chosen as for any build: BASE_IMAGE, TORCH, TORCH_PIP_OPTIONS.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

ROOT = Path(__file__).parents[2]
CONTEXT = (
    *("docker-compose.yml", ".dockerignore", "pyproject.toml", "constraints.txt", "README.md"),
    *("LICENSE", "images", "common", "client_app", "server_app", "deploy"),
)
PROJECT = "augflower-test"
DEVICES = [f"device-{number}" for number in range(1, 6)]
# A build downloads torch, and starts are slow on a busy machine.
BUILD, START, RUN = 3600, 1200, 900

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD + START)]


def compose_command() -> list[str]:
    if chosen := os.environ.get("COMPOSE"):
        return chosen.split()
    for command in (["docker", "compose"], ["docker-compose"]):
        with contextlib.suppress(OSError):
            if (
                subprocess.run([*command, "version"], capture_output=True, check=False).returncode
                == 0
            ):
                return command
    pytest.skip("neither `docker compose` nor docker-compose is here")


class Stack:
    """The project of the compose file in a folder of its own."""

    def __init__(self, folder: Path, engine: docker.DockerClient) -> None:
        self.folder = folder
        self.engine = engine
        self.user = 4242 if os.getuid() == 0 else os.getuid()  # any uid will do
        self._command = [*compose_command(), "--project-name", PROJECT]
        self._environment = {
            **os.environ,
            "FLEET_USER": f"{self.user}:{self.user}",
            "FLEET_PORT": "0",
            "FLEET_WATCH_PORT": "0",
        }

    def __call__(self, *arguments: str, timeout: float = START) -> str:
        done = subprocess.run(
            [*self._command, *arguments], cwd=self.folder, env=self._environment,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def submit(self, *settings: str) -> subprocess.Popen[str]:
        """Start ``run`` without waiting for its end."""
        return subprocess.Popen(
            [*self._command, "run", "--rm", "-T", "run", *settings], cwd=self.folder,
            env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def container(self, service: str) -> Any:
        labels = [f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def lines(self, run: str) -> list[dict[str, Any]]:
        path = self.folder / "runs" / run / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def meta(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / "runs" / run / "run.json").read_text())


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers: {error}")
    folder = tmp_path_factory.mktemp("project")
    for name in CONTEXT:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    stack = Stack(folder, engine)
    try:
        stack("build", timeout=BUILD)
        stack("up", "--detach")
        yield stack
    finally:
        stack("down", "--volumes", "--remove-orphans")
        engine.close()


def until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def output(engine: docker.DockerClient, image: str, *command: str, **options: Any) -> str:
    return engine.containers.run(image, list(command), remove=True, **options).decode()


@pytest.mark.parametrize("image", ["augflower-device:amd64", "augflower-device:amd64-teacher"])
def test_a_devices_image_has_nothing_of_the_server(stack: Stack, image: str):
    found = output(stack.engine, image, "find", "/", "-xdev", "-name", "*server_app*", user="0:0")
    # Flower has a module of its own that happens to be called so.
    assert [line for line in found.splitlines() if "/flwr/" not in line] == []
    assert "server_app" in output(stack.engine, "augflower-server", "ls", "/opt/augflower")


@pytest.mark.parametrize("service", ["superlink", "executor", *DEVICES])
def test_no_environment_holds_a_secret(stack: Stack, service: str):
    container = stack.container(service)
    names = {entry.partition("=")[0] for entry in container.attrs["Config"]["Env"]}
    assert not [name for name in names if "KEY" in name or "SECRET" in name or "PASS" in name]
    if service in DEVICES:
        assert not [name for name in names if name.startswith("AUGFLOWER")]


def test_every_container_is_well_and_not_root(stack: Stack):
    for service in ("superlink", "executor", *DEVICES):

        def well(service: str = service) -> bool:
            return stack.container(service).health == "healthy"

        assert until(well, 300), service
        asked = stack.container(service).exec_run(["id", "-u"])
        assert asked.output.decode().strip() == str(stack.user)


def test_a_device_reaches_the_fleets_port_and_not_the_control_api(stack: Stack):
    def connect(host: str, port: int) -> str:
        program = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
        done = stack.container("device-1").exec_run(["python3", "-c", program])
        return done.output.decode().strip().splitlines()[-1] if done.exit_code else "connected"

    assert connect("superlink", 9092) == "connected"
    assert "refused" in connect("superlink", 8000)
    assert "Name or service not known" in connect("control", 8000) or "resolution" in connect(
        "control", 8000
    )


def test_a_run_ends_with_its_report_on_the_host(stack: Stack):
    said = stack("run", "--rm", "-T", "run", "--name", "plain", "--set", "rounds=2", timeout=RUN)
    assert "round 2/2 · 4/4 replies" in said
    assert stack.meta("plain")["status"] == "finished"
    assert stack.meta("plain")["private_model"] is True
    report = (stack.folder / "runs/plain/report.html").read_text()
    assert "plain" in report
    assert (stack.folder / "runs/plain/models/last.safetensors").stat().st_size > 0


def test_one_device_distills_from_its_teacher(stack: Stack):
    settings = ("--set", "method=fed_lpfm", "--set", "rounds=1")
    stack("run", "--rm", "-T", "run", "--name", "taught", *settings, timeout=RUN)
    method = stack.lines("taught")[-1]["method"]
    assert (method["distilled"], method["without_teacher"]) == (1, 3)


def test_a_process_that_ends_is_started_again(stack: Stack):
    before = stack.container("device-3").attrs["RestartCount"]
    stack.container("device-3").exec_run(["sh", "-c", "kill -TERM 1"])
    assert until(lambda: stack.container("device-3").attrs["RestartCount"] > before, 60)


def test_a_run_survives_the_loss_of_a_device_and_of_the_server(stack: Stack):
    rounds = 8
    run = stack.submit(
        "--name", "killed", "--set", f"rounds={rounds}", "--set", "round.deadline=120"
    )
    try:
        assert until(lambda: len(stack.lines("killed")) >= 3, RUN), run.poll()
        # What a plug that is pulled does: no goodbye, and later the power is back.
        device, server = stack.container("device-2"), stack.container("executor")
        device.kill()
        assert until(lambda: stack.lines("killed")[-1]["replies"] == 3, RUN), "it was not missed"
        device.start()
        server.kill()
        server.start()
        said, _ = run.communicate(timeout=RUN)
    finally:
        run.kill()
    assert run.returncode == 0, said
    assert "the server's process was killed" in said
    assert [line["round"] for line in stack.lines("killed")] == list(range(rounds + 1))
    assert stack.meta("killed")["status"] == "finished"
    assert stack.meta("killed")["resumed_from"]
    assert (stack.folder / "runs/killed/report.html").is_file()
    # The device came back, as the node that it was.
    replies = [line["replies"] for line in stack.lines("killed")[1:]]
    assert 4 in replies[replies.index(3) :]


def test_a_run_survives_the_superlink(stack: Stack):
    run = stack.submit("--name", "cut", "--set", "rounds=5")
    try:
        assert until(lambda: len(stack.lines("cut")) >= 2, RUN), run.poll()
        link = stack.container("superlink")
        link.kill()
        link.start()
        said, _ = run.communicate(timeout=RUN)
    finally:
        run.kill()
    assert run.returncode == 0, said
    assert [line["round"] for line in stack.lines("cut")] == list(range(6))


def test_it_may_be_brought_up_again(stack: Stack):
    before = {name: stack.container(name).id for name in ("superlink", "executor", *DEVICES)}
    stack("up", "--detach")
    assert {name: stack.container(name).id for name in before} == before
