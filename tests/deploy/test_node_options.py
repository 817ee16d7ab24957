import os
import sys
import tomllib
from pathlib import Path

import pytest

from common.errors import FleetError, SettingsError
from deploy.control import toml_lines
from deploy.environment import flower_environment
from deploy.node import NodeOptions, supernode_arguments
from deploy.warm import forget_own_modules, preload, reseed


def test_environment_is_quiet_and_finds_the_programs(tmp_path):
    environment = flower_environment(tmp_path, threads=2, base={"PATH": "/usr/bin", "KEPT": "1"})
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]
    assert environment["KEPT"] == "1"


def test_environment_leaves_threads_and_home_to_others():
    environment = flower_environment(base={})
    assert not {"FLWR_HOME", "OMP_NUM_THREADS"} & environment.keys()


def test_a_node_needs_one_way_of_trust():
    with pytest.raises(SettingsError, match="either --root-certificates FILE or --insecure"):
        NodeOptions()
    with pytest.raises(SettingsError, match="either"):
        NodeOptions(insecure=True, root_certificates=Path("ca.crt"))
    with pytest.raises(SettingsError, match="over TLS only"):
        NodeOptions(insecure=True, key=Path("key"))
    with pytest.raises(SettingsError, match=r"there is no file nowhere\.crt"):
        NodeOptions(root_certificates=Path("nowhere.crt"))


def test_options_become_flowers_command_line(tmp_path):
    ca, key = tmp_path / "ca.crt", tmp_path / "key"
    ca.touch()
    key.touch()
    options = NodeOptions(
        superlink="server:9092", root_certificates=ca, key=key, node_config="clients='3'"
    )
    words = supernode_arguments(options, 9100, "/dev/fd/5")
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    assert pairs == {
        "--superlink": "server:9092",
        "--isolation": "process",
        "--port": "9100",
        "--superexec-auth-secret-file": "/dev/fd/5",
        "--root-certificates": str(ca),
        "--auth-supernode-private-key": str(key),
        "--node-config": "clients='3'",
    }


def test_a_library_that_starts_threads_cannot_be_kept_warm(tmp_path, monkeypatch):
    (tmp_path / "restless.py").write_text(
        "import threading\nstop = threading.Event()\nthreading.Thread(target=stop.wait).start()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(FleetError, match="restless starts threads"):
            preload(["restless"])
    finally:
        sys.modules["restless"].stop.set()


def test_forks_draw_other_numbers_than_their_parent():
    import random

    import numpy as np
    import torch

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    before = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    reseed()
    assert all(a != b for a, b in zip(before, draw(), strict=True))


def test_forks_forget_the_packages_that_a_bundle_brings():
    kept = dict(sys.modules)
    try:
        forget_own_modules()
        assert not [name for name in sys.modules if name.partition(".")[0] in {"common", "deploy"}]
        assert "flwr" in sys.modules
    finally:
        sys.modules.update(kept)


def test_toml_lines_are_read_back():
    values = {"data.name": 'a "quoted" ü', "rounds": 3, "rho": 0.5, "flag": True}
    assert tomllib.loads(toml_lines(values)) == {
        "data": {"name": 'a "quoted" ü'},
        "rounds": 3,
        "rho": 0.5,
        "flag": True,
    }
