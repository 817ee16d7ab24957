import json
import re
import socket
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.errors import FleetError, SettingsError
from deploy.assignments import parse_assignments
from deploy.doctor import examine
from deploy.doctor.clients import check_clients, check_fleet
from deploy.doctor.commands import doctor
from deploy.doctor.finding import ok
from deploy.doctor.target import Device, Server, read_kit
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet

app = typer.Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def _torch_is_tested_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "check_torch", lambda: ok("torch", "not tried"))


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    """A fleet whose server is this machine, where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    server = {"names": ["localhost"], "fleet-port": port, "control-port": 9}
    nodes = {"pi-1": {"data-folder": str(tmp_path / "images"), "role": "target"}}
    fleet.provision(parse_fleet({"server": server, "nodes": nodes}), tmp_path / "fleet")
    return tmp_path / "fleet"


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(part) for part in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_a_kit_says_all(kits: Path):
    device = read_kit(kits / "nodes/pi-1")
    assert isinstance(device, Device)
    assert device.data == kits.parent / "images"
    assert device.state == Path("/var/lib/augflower/pi-1")
    server = read_kit(kits / "server")
    assert isinstance(server, Server)
    assert (server.names, server.control_port) == (["localhost"], 9)


def test_a_device_with_errors_exits_with_1(kits: Path, tmp_path: Path):
    code, output = call("--kit", kits / "nodes/pi-1", "--state", tmp_path, "--json")
    found = {finding["check"]: finding for finding in json.loads(output)["findings"]}
    assert code == 1
    assert found["state folder"]["status"] == "ok"
    assert found["node settings"]["cause"] == "a target with its own images"
    assert "does not exist" in found["data folder"]["cause"]
    assert "refuses connections" in found["server"]["cause"]
    assert found["TLS"]["status"] == found["registration"]["status"] == "skipped"


def test_a_server_with_errors_exits_with_1(kits: Path, tmp_path: Path):
    code, output = call("--kit", kits / "server", "--state", tmp_path, "--json")
    found = {finding["check"]: finding["status"] for finding in json.loads(output)["findings"]}
    assert code == 1
    assert found["certificate"] == found["CA certificate"] == found["control port"] == "ok"
    assert found["server"] == found["nodes"] == "error"


def test_every_error_and_warning_names_cause_and_cure(kits: Path):
    _, output = call("--kit", kits / "nodes/pi-1", "--json")
    for finding in json.loads(output)["findings"]:
        assert finding["cause"]
        assert bool(finding["remedy"]) == (finding["status"] in {"warning", "error"})


def test_people_get_a_table(kits: Path):
    code, output = call("--kit", kits / "nodes/pi-1")
    assert code == 1
    assert "refuses connections" in output
    assert "→ start the SuperLink" in output
    assert output.rstrip().splitlines()[-1].split()[1].startswith("error")


def test_settings_that_the_device_would_refuse(kits: Path):
    path = kits / "nodes/pi-1/node.toml"
    path.write_text(path.read_text() + "colour = 'red'\n")
    _, output = call("--kit", kits / "nodes/pi-1", "--json")
    found = {finding["check"]: finding["cause"] for finding in json.loads(output)["findings"]}
    assert "colour" in found["node settings"]


def test_a_check_that_breaks_is_a_finding(kits: Path, monkeypatch: pytest.MonkeyPatch):
    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(examine, "check_atomics", broken)
    code, output = call("--kit", kits / "nodes/pi-1", "--json")
    found = {finding["check"]: finding["cause"] for finding in json.loads(output)["findings"]}
    assert code == 1
    assert found["processor"] == "the check itself failed: ZeroDivisionError: by zero"
    assert "throttling" in found


def test_without_a_kit(tmp_path: Path):
    code, output = call("--server", "127.0.0.1:9", "--insecure", "--state", tmp_path, "--json")
    found = {finding["check"]: finding["status"] for finding in json.loads(output)["findings"]}
    assert code == 1
    assert "CA certificate" not in found
    assert found["server"] == "error"


def test_memory_and_disk_grow_with_the_model(kits: Path, tmp_path: Path):
    def needed(*more: str) -> dict[str, int]:
        _, output = call("--kit", kits / "nodes/pi-1", "--state", tmp_path, *more, "--json")
        causes = {found["check"]: found["cause"] for found in json.loads(output)["findings"]}
        numbers = {
            name: re.search(r"(\d+) MiB needed", causes[name]) for name in ("memory", "disk")
        }
        return {name: int(found[1]) for name, found in numbers.items() if found}

    million = 4 * 10**6 / 2**20  # MiB
    without = needed()
    assert needed("--model", str(10**7)) == {
        "memory": round(without["memory"] + 10 * 5.5 * million),
        "disk": round(without["disk"] + 10 * 4 * million),
    }
    path = kits / "nodes/pi-1/node.toml"
    path.write_text(path.read_text() + "own-model = 'resnet18'\n")
    assert needed()["memory"] > without["memory"] + 11 * 5.5 * million


def test_a_server_is_weighed_with_its_private_model(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "w.pt").write_bytes(bytes(3 * 2**20))
    monkeypatch.setenv("AUGFLOWER_PRIVATE_MODEL", f"resnet18@{tmp_path}/w.pt")
    _, output = call("--kit", kits / "server", "--state", tmp_path, "--json")
    found = {finding["check"]: finding["cause"] for finding in json.loads(output)["findings"]}
    assert "3.0 MiB of weights" in found["private model"]
    assert f"{525 + 6} MiB needed" in found["memory"]


def test_wrong_calls_are_named(kits: Path, tmp_path: Path):
    with pytest.raises(SettingsError, match="--kit"):
        call()
    with pytest.raises(SettingsError, match="--teachers does not go with the server's kit"):
        call("--kit", kits / "server", "--teachers", "teachers.toml")
    with pytest.raises(FleetError, match=r"kit\.toml cannot be read"):
        call("--kit", tmp_path)
    (tmp_path / "node.toml").write_text("")
    wrong = {
        b"name = 'pi'\nflower = '1.39'": "lacks 'superlink'",
        b"name = 'pi'\nflower = '1.39'\nsuperlink = 7": "has superlink = 7",
        b"name = 3": "has name = 3",
        b"name = 'server'\nflower = '1.39'\nnames = 1": "has names = 1",
        b"name = ": "damaged",
        b"name = '\xff'": "damaged",
    }
    for content, message in wrong.items():
        (tmp_path / "kit.toml").write_bytes(content)
        with pytest.raises(FleetError, match=message):
            call("--kit", tmp_path)


def test_settings_of_a_wrong_type_are_a_finding(kits: Path):
    kit = kits / "nodes/pi-1"
    for setting in ("teachers = 3", "data-folder = 5", "state-folder = [1]"):
        (kit / "node.toml").write_text(f"role = 'target'\n{setting}\n")
        code, output = call("--kit", kit, "--json")
        found = {finding["check"]: finding for finding in json.loads(output)["findings"]}
        assert code == 1
        assert found["node settings"]["status"] == "error"
        assert setting.split()[0] in found["node settings"]["cause"]
        assert "registration" in found  # the last one


@pytest.mark.parametrize("content", [b"", b"no certificate"])
def test_a_server_with_a_bad_ca(kits: Path, tmp_path: Path, content: bytes):
    (kits / "server/ca.crt").write_bytes(content)
    code, output = call("--kit", kits / "server", "--state", tmp_path, "--json")
    found = {finding["check"]: finding for finding in json.loads(output)["findings"]}
    assert code == 1
    for check in ("certificate", "CA certificate", "nodes"):
        assert found[check]["status"] == "error"
    assert "the check itself failed" not in output


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_bad_ca_is_said_once(kits: Path, content: bytes | None):
    kit = kits / "nodes/pi-1"
    (kit / "ca.crt").unlink()
    if content is not None:
        (kit / "ca.crt").write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"localhost:{listening.getsockname()[1]}"
        code, output = call("--kit", kit, "--server", address, "--json")
    found = {finding["check"]: finding for finding in json.loads(output)["findings"]}
    assert code == 1
    assert "ca.crt" in found["CA certificate"]["cause"]
    assert found["server"]["status"] == "ok"
    assert found["TLS"]["status"] == found["registration"]["status"] == "skipped"
    assert "the check itself failed" not in output


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ([], "skipped", "the run is not known here"),
        (["-s", "data.sources=4"], "ok", "3 of the run's 0 to 21: it trains"),
        (
            ["-s", "data.sources=2", "-s", "data.targets=2"],
            "ok",
            "3 of the run's 0 to 3: it only",
        ),
        (["-s", "data.sources=2", "-s", "data.targets=1"], "error", "the run has clients 0 to 2"),
        (["-s", "data.name=folder"], "error", "this one has none"),
    ],
)
def test_the_clients_of_a_device_are_compared_with_those_of_a_run(
    given: list[str], status: str, said: str
):
    found = check_clients({"clients": "3"}, parse_assignments(given[1::2]))
    assert (found.check, found.status) == ("clients", status)
    assert said in found.cause


def test_the_clients_of_a_fleet_are_compared_with_those_of_a_run(tmp_path: Path):
    bound = {"clients": "3", "role": "source", "most_images": 0}
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps({"bound": {"pi": bound}}))
    (found,) = check_fleet(nodes, {})
    assert found.status == "skipped"
    first, second = check_fleet(nodes, {"data.sources": 2, "data.targets": 1})
    assert first.cause.startswith("pi cannot take part: it plays clients 3")
    assert second.cause.startswith("no device of the fleet plays 0, 1, 2")
    assert check_fleet(nodes, {"data.name": "folder"})[0].status == "ok"


def test_settings_of_a_run_reach_the_doctor(tmp_path: Path):
    given = ["--server", "127.0.0.1:1", "--insecure", "--state", str(tmp_path), "--json"]
    out = CliRunner().invoke(app, [*given, "-s", "data.sources=2"]).output
    (clients,) = [f for f in json.loads(out)["findings"] if f["check"] == "clients"]
    assert clients["status"] == "error"
    assert "names no client" in clients["cause"]
