import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from client_app.settings import read_node_config
from common.errors import SettingsError
from deploy.assignments import parse_assignments
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet
from server_app.settings import read_server_settings

NODES = {
    "pi-1": {"hardware": "raspberry-pi", "data-folder": "/srv/images", "role": "target"},
    "jet-1": {"hardware": "jetson", "clients": "0", "server": "192.0.2.10", "port": 9095},
    "pc-1": {"clients": "6-9", "threads": 8},
    "clip-1": {"clients": "1", "teachers": "/srv/clip/teachers.toml"},
    "box-1": {"clients": "2", "serve": True, "put-aside": True, "serve-port": 8075},
    "clip-2": {"hardware": "raspberry-pi", "teachers": "/etc/augflower/teachers.toml"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet")
    server = {"names": ["fleet.example.org", "192.0.2.10", "2001:db8::7"]}
    fleet.provision(parse_fleet({"server": server, "nodes": NODES}), path)
    return path


@pytest.mark.parametrize("name", NODES)
def test_a_devices_own_program_takes_the_nodes_settings(folder: Path, name: str):
    settings = tomllib.loads((folder / f"nodes/{name}/node.toml").read_text())
    node = read_node_config(settings)
    assert node.state_folder == f"/var/lib/augflower/{name}"
    threads = {"box-1": 2, "pi-1": 3, "jet-1": 4, "pc-1": 8, "clip-1": 2, "clip-2": 3}
    assert node.threads == threads[name]


@pytest.mark.parametrize(
    ("name", "address"), [("pi-1", "fleet.example.org:9092"), ("jet-1", "192.0.2.10:9092")]
)
def test_a_node_starts_with_tls_and_its_key(folder: Path, name: str, address: str):
    unit = (folder / f"nodes/{name}/augflower-{name}.service").read_text()
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert f"--superlink {address} " in command
    assert f"--root-certificates /etc/augflower/{name}/ca.crt" in command
    assert f"--auth /etc/augflower/{name}/node.key" in command
    assert "Restart=always" in unit
    assert "NoNewPrivileges=yes" in unit


def test_a_node_that_serves_has_a_unit_and_a_container_for_it(folder: Path):
    kit = folder / "nodes/box-1"
    assert read_node_config(tomllib.loads((kit / "node.toml").read_text())).serve
    unit = (kit / "augflower-box-1-serve.service").read_text()
    command = (
        "augflower serve /var/lib/augflower/box-1 --listen 127.0.0.1:8075 "
        "--put-aside /var/lib/augflower/box-1/unsure"
    )
    assert f"bin/{command}\n" in unit
    assert "augflower-box-1-serve.service" in (kit / "install.sh").read_text()
    service = yaml.safe_load((kit / "compose.yaml").read_text())["services"]["box-1-serve"]
    assert service["command"] == command.split()
    assert service["network_mode"] == "host"
    assert service["volumes"] == ["box-1-state:/var/lib/augflower"]
    assert service["cap_drop"] == ["ALL"]
    assert "127.0.0.1:8075/healthz" in service["healthcheck"]["test"]
    assert "http://127.0.0.1:8075/classify" in (kit / "README.md").read_text()
    assert not list((folder / "nodes/pc-1").glob("*serve*"))


def test_nothing_in_any_kit_is_insecure(folder: Path):
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in {".service", ".yaml", ".sh", ".toml"}:
            assert "insecure" not in path.read_text(), path


def test_the_superlink_authenticates_and_keeps_its_state(folder: Path):
    unit = (folder / "server/augflower-superlink.service").read_text().replace("'", "")
    for part in (
        "--enable-supernode-auth",
        "--ssl-certfile /etc/augflower/server/server.crt",
        "--database /var/lib/augflower/server/superlink.db",
        "--isolation process",
        "--host 127.0.0.1",
        "--fleet-api-address [::]:9092",
        "--disable-runtime-dependency-installation",
    ):
        assert part in unit
    assert "FLWR_TELEMETRY_ENABLED=0" in unit


def test_compose_says_the_same_as_the_units(folder: Path):
    for unit, compose, service in (
        ("nodes/pi-1/augflower-pi-1.service", "nodes/pi-1/compose.yaml", "pi-1"),
        ("server/augflower-superlink.service", "server/compose.yaml", "superlink"),
        ("server/augflower-executor.service", "server/compose.yaml", "executor"),
    ):
        text = (folder / unit).read_text()
        started = re.search(r"ExecStart=/opt/augflower/bin/(.*)", text)
        described = yaml.safe_load((folder / compose).read_text())["services"][service]
        assert started is not None
        # In containers the Control API is on the network that only the server's two are in.
        inside = [part.replace("control:8000", "127.0.0.1:8000") for part in described["command"]]
        if service == "superlink":
            inside[inside.index("--host") + 1] = "127.0.0.1"
        assert shlex.split(started[1]) == inside
        environment = dict(
            line.removeprefix("Environment=").split("=", 1)
            for line in text.splitlines()
            if line.startswith("Environment=") and not line.startswith("Environment=PATH")
        )
        assert environment == described["environment"]


def test_runs_outlive_the_container_that_made_them(folder: Path):
    executor = yaml.safe_load((folder / "server/compose.yaml").read_text())["services"]["executor"]
    of_unit = (folder / "server/augflower-executor.service").read_text()
    server = read_server_settings(executor["environment"])
    lasting = [
        Path(volume.split(":")[1])
        for volume in executor["volumes"]
        if not volume.startswith(".") and not volume.endswith(":ro")
    ]
    for name, place in (("RUNS", server.runs), ("CACHE", server.cache)):
        assert any(place.is_relative_to(volume) for volume in lasting)
        assert f"Environment=AUGFLOWER_{name}={place}\n" in of_unit
    # Only the executor runs the server's half.
    assert "AUGFLOWER" not in (folder / "server/augflower-superlink.service").read_text()


def test_the_servers_readme_names_what_the_server_reads(folder: Path):
    text = (folder / "server/README.md").read_text()
    override = text[text.index("    services:") : text.index("## What is kept")]
    executor = yaml.safe_load(override)["services"]["executor"]
    token = executor["environment"].pop("AUGFLOWER_WATCH_TOKEN_FILE")
    assert token == "/etc/augflower/server/watch.token"
    named = {**executor["environment"], "AUGFLOWER_WATCH_TOKEN": "x" * 48}
    server = read_server_settings(named)
    assert server.watch is not None
    (mount,) = executor["volumes"]
    assert mount.split(":")[1:] == [server.private_model, "ro"]
    drop_in = dict(re.findall(r"^    Environment=(\w+)=(.*)$", text, re.M))
    assert read_server_settings(drop_in).private_model == mount.split(":")[0]


def test_compose_mounts_data_read_only_and_opens_one_port(folder: Path):
    pi = yaml.safe_load((folder / "nodes/pi-1/compose.yaml").read_text())["services"]["pi-1"]
    assert "/srv/images:/srv/images:ro" in pi["volumes"]
    assert "pi-1-state:/var/lib/augflower" in pi["volumes"]
    assert "ports" not in pi
    services = yaml.safe_load((folder / "server/compose.yaml").read_text())["services"]
    assert services["superlink"]["ports"] == ["9092:9092"]
    assert services["superlink"]["networks"]["control"] == {"aliases": ["control"]}
    assert services["executor"]["networks"] == ["control"]
    jetson = yaml.safe_load((folder / "nodes/jet-1/compose.yaml").read_text())["services"]["jet-1"]
    assert (jetson["runtime"], jetson["platform"]) == ("nvidia", "linux/arm64")


@pytest.mark.parametrize(
    ("name", "image", "mount"),
    [("clip-1", "augflower-device:amd64-teacher", "/srv/clip"),
     ("clip-2", "augflower-device:arm64-teacher", "/etc/augflower/teachers.toml")],
)  # fmt: skip
def test_a_node_with_teachers_finds_them_in_its_container(
    folder: Path, name: str, image: str, mount: str
):
    kit = folder / "nodes" / name
    service = yaml.safe_load((kit / "compose.yaml").read_text())["services"][name]
    assert service["image"] == image
    assert f"{mount}:{mount}:ro" in service["volumes"]
    file = tomllib.loads((kit / "node.toml").read_text())["teachers"]
    assert Path(file).is_relative_to(mount)
    # The default cache of answers, ~/.cache, is on the volume that lasts.
    assert Path(service["environment"]["HOME"]).is_relative_to("/var/lib/augflower")
    assert f"{name}-state:/var/lib/augflower" in service["volumes"]
    readme = (kit / "README.md").read_text()
    assert f"`{file}` is this device's own file" in readme
    assert image in readme
    assert "## Its teachers" not in (folder / "nodes/pi-1/README.md").read_text()
    assert file in (kit / "install.sh").read_text()


def test_install_says_what_the_node_cannot_read(folder: Path, tmp_path: Path):
    text = (folder / "nodes/clip-1/install.sh").read_text()
    loop = re.search(r"^for path in .*?^done$", text, re.M | re.S)
    assert loop is not None
    (tmp_path / "runuser").write_text('#!/bin/sh\nshift 3; exec "$@"\n')
    (tmp_path / "runuser").chmod(0o755)
    done = subprocess.run(
        ["sh", "-eu", "-c", loop[0]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith("/srv/clip/teachers.toml is not there")


def test_install_scripts_name_files_that_are_in_the_kit(folder: Path):
    for kit in ("server", "nodes/pi-1", "nodes/pc-1"):
        text = (folder / kit / "install.sh").read_text()
        lists = re.findall(r"^for (?:file|unit) in (.*); do$", text, re.MULTILINE)
        named = {name for part in lists for name in part.split()}
        assert named
        assert all((folder / kit / name).is_file() for name in named)
        subprocess.run(["sh", "-n", folder / kit / "install.sh"], check=True)


def test_install_refuses_to_run_without_root(folder: Path, tmp_path: Path):
    shim = tmp_path / "id"
    shim.write_text("#!/bin/sh\necho 1000\n")
    shim.chmod(0o755)
    done = subprocess.run(
        [folder / "nodes/pi-1/install.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs root" in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("kit", ["server", "nodes/pi-1", "nodes/jet-1"])
def test_systemd_accepts_the_units(folder: Path, kit: str):
    units = [str(path) for path in (folder / kit).glob("*.service")]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    # The programs are not installed here; nothing else may be wrong.
    complaints = [line for line in done.stderr.splitlines() if "augflower" in line]
    assert all("is not executable" in line for line in complaints), done.stderr


def test_what_the_servers_readme_says_of_runs_without_a_private_model_works(
    folder: Path, small_run: Callable[..., Path]
):
    text = " ".join((folder / "server/README.md").read_text().split())
    assert "The default settings need a private model" in text
    with pytest.raises(SettingsError, match="private model"):
        small_run("augfl", {"rounds": 0})
    said = re.search(r"a run without one needs `--set ([^`]+)`", text)
    assert said
    small_run("augfl", {"rounds": 0, **parse_assignments([said[1]])})
