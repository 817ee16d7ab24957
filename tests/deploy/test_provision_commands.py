import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import AugFlowerError, FleetError, SettingsError
from deploy.provision import commands
from deploy.provision.register import register
from deploy.provision.registry import read_registry

YAML = """
server: {names: [fleet.example.org], control-port: 9}
nodes:
  pi-1: {hardware: raspberry-pi}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text(YAML)
    return tmp_path


def call(*arguments: str) -> str:
    done = CliRunner().invoke(commands.app, list(arguments))
    if isinstance(done.exception, AugFlowerError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_file_is_enough(here: Path):
    assert "pi-1: new key; kit in fleet/nodes/pi-1" in call("fleet.yaml")
    assert (here / "fleet/nodes/pi-1/node.key").exists()
    assert "new key" not in call("make", "fleet.yaml")


def test_another_folder(here: Path):
    call("fleet.yaml", "--fleet", "elsewhere")
    assert (here / "elsewhere/fleet.json").exists()


def test_the_life_of_a_node_without_its_server(here: Path):
    call("fleet.yaml")
    added = call("add", "pc-1", "hardware=pc", "port=9099", "clients=4")
    assert "pc-1: new key" in added
    assert "The server was not told" in added
    assert read_registry(here / "fleet").nodes["pc-1"].settings.port == 9099
    assert "pc-1: new key" in call("renew", "pc-1")
    assert "pc-1: revoked" in call("revoke", "pc-1")
    assert list(read_registry(here / "fleet").nodes) == ["pi-1"]


def test_renewing_says_when_certificates_end(here: Path):
    call("fleet.yaml")
    assert "certificate of the server ends on 20" in call("renew")
    assert "a new certificate, until" in call("renew", "--days", "400")


def test_bad_settings_of_a_node_are_named(here: Path):
    call("fleet.yaml")
    with pytest.raises(SettingsError, match=r"nodes\.pc-1\.colour"):
        call("add", "pc-1", "colour=red")
    assert CliRunner().invoke(commands.app, ["add", "pc-1", "red"]).exit_code == 2


def test_no_server_is_said_plainly(here: Path):
    call("fleet.yaml")
    with pytest.raises(FleetError, match=r"no SuperLink answers at 127\.0\.0\.1:9"):
        call("register")


def test_no_list_is_said_plainly(here: Path):
    with pytest.raises(FleetError, match=r"nodes\.json cannot be read"):
        register(here)
    call("fleet.yaml")
    (here / "fleet/server/nodes.json").write_text('{"admitted": {"pi-1": "x"}, "revoked": {}}')
    with pytest.raises(FleetError, match="damaged"):
        register(here / "fleet")


def test_the_example_works_as_it_stands_and_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "next: augflower provision fleet.yaml" in call("--example")
    assert "device-3: new key" in call("fleet.yaml")
    text = (tmp_path / "fleet.yaml").read_text()
    with pytest.raises(FleetError, match="is there already"):
        call("--example")
    assert (tmp_path / "fleet.yaml").read_text() == text
    # What it shows as further possibilities works as well.
    lines = [re.sub(r"^  # (names|pi-1|jetson-1):", r"  \1:", line) for line in text.splitlines()]
    assert sum(line.startswith(("  names", "  pi-1", "  jetson-1")) for line in lines) == 4
    lines.remove("  names: [127.0.0.1]")
    (tmp_path / "more.yaml").write_text("\n".join(lines))
    assert "jetson-1: new key" in call("more.yaml", "--fleet", "more")
