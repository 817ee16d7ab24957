"""The commands of docs/fleet.md work as they stand, in their order, on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.config import DataSettings
from deploy.node import free_port
from deploy.provision.settings import read_fleet
from server_app.clients.bindings import Binding, misfits
from tests.conftest import ROOT

SOURCES = ["-s", "data.sources=2", "-s", "data.targets=4"]


def commands() -> list[list[str]]:
    """All commands that stand in blocks, in their order."""
    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert all(line.startswith("augflower ") for line in blocks)
    return [shlex.split(line)[1:] for line in blocks]


class Terminal:
    """Where commands are typed; what stays there until Ctrl-C runs beside the others."""

    def __init__(self, folder: Path) -> None:
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("AUGFLOWER_", "FLWR_"))}
        self._folder = folder
        self._environment = plain | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "c")}
        self.staying: list[tuple[subprocess.Popen[bytes], Path]] = []

    def _start(self, words: list[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-u", "-m", "deploy.cli", *words],
                cwd=self._folder, env=self._environment, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def play(self, words: list[str]) -> str:
        log = self._folder / "last.log"
        assert self._start(words, log).wait(150) == 0, f"{shlex.join(words)}\n{log.read_text()}"
        return log.read_text()

    def stay(self, words: list[str], until: Callable[[str], bool]) -> subprocess.Popen[bytes]:
        log = self._folder / f"{len(self.staying)}.log"
        process = self._start(words, log)
        self.staying.append((process, log))
        end = time.monotonic() + 120
        while not until(log.read_text()):
            assert process.poll() is None, f"{shlex.join(words)}\n{log.read_text()}"
            assert time.monotonic() < end, f"{shlex.join(words)}\n{log.read_text()}"
            time.sleep(0.2)
        return process

    def close(self) -> None:
        """End what stays."""
        for process, _ in reversed(self.staying):
            process.send_signal(signal.SIGTERM)
        for process, _ in self.staying:
            process.wait(60)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with closing(Terminal(tmp_path)) as terminal:
        yield terminal


def take_free_ports(settings: Path) -> None:
    text = settings.read_text()
    for name in ("fleet-port", "control-port"):
        text, number = re.subn(rf"{name}: \d+", f"{name}: {free_port()}", text)
        assert number == 1
    settings.write_text(text)


def test_the_example_and_the_guide_speak_of_the_same_clients():
    nodes = read_fleet(ROOT / "deploy" / "provision" / "templates" / "fleet.yaml").nodes
    runs = [words for words in commands() if words[0] == "run"]
    assert len(runs) == 2
    for words in runs:
        assert shlex.join(SOURCES) in shlex.join(words)
    data = DataSettings(sources=2, targets=4)
    bound = {name: Binding(role=node.role, clients=node.clients) for name, node in nodes.items()}
    assert misfits(bound, data.sources, data.sources + data.targets) == []


@pytest.mark.deploy
@pytest.mark.timeout(600)
def test_the_commands_work_in_their_order(tmp_path: Path, terminal: Terminal):
    done: list[str] = []
    long: subprocess.Popen[bytes] | None = None
    for words in commands():
        verb = words[0]
        done.append(verb)
        if verb == "up":
            kits = words.count("--kit")
            server = "fleet/server" in words
            terminal.stay(
                words,
                lambda said, server=server, kits=kits: (
                    "server: up" in said if server else said.count(": online") == kits
                ),
            )
        elif verb == "watch":
            terminal.stay([*words, "--listen", "127.0.0.1:0"], lambda said: "until Ctrl-C" in said)
        elif verb == "run" and "second" in words:
            long = terminal.stay(words, lambda said: "round   1/500" in said)
        elif verb == "run":
            said = terminal.play([*words, "-s", "rounds=1"])
            assert "round 1/1" in said
            assert "2/2 replies" in said
        else:
            said = terminal.play(words)
        if words == ["provision", "--example"]:
            take_free_ports(tmp_path / "fleet.yaml")
        elif verb == "follow":
            assert "round 1/1" in said
        elif words[:2] == ["provision", "add"]:
            assert "device-4: registered" in said
        elif words[:2] == ["provision", "revoke"]:
            assert "unregistered" in said
    assert {"up", "doctor", "run", "runs", "follow", "watch", "stop", "provision"} <= set(done)
    assert long is not None
    assert long.wait(60) == 1, "a run that was stopped has not succeeded"
    assert json.loads((tmp_path / "runs/first/run.json").read_text())["status"] == "finished"
    # The server's part learns of it when it next asks the SuperLink.
    second, end = tmp_path / "runs/second/run.json", time.monotonic() + 30
    while json.loads(second.read_text())["status"] == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert json.loads(second.read_text())["status"] == "stopped"
    names = json.loads((tmp_path / "runs/first/run.json").read_text())["nodes"].values()
    assert sorted(names) == ["device-1", "device-2", "device-3"]
    # Ctrl-C ends a server with all that it has started.
    (server, _), *_ = terminal.staying
    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    left = subprocess.run(
        ["pgrep", "-f", str(tmp_path / "fleet" / "server")], capture_output=True, check=False
    )
    assert left.stdout == b""
