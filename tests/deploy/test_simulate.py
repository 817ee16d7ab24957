"""What a simulation refuses before it waits for anybody."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import SettingsError
from deploy.simulate import simulate
from server_app.settings import ServerSettings


def test_devices_own_images_need_devices(tmp_path: Path):
    server = ServerSettings(runs=tmp_path / "runs", cache=tmp_path / "cache")
    own = {"data.name": "folder", "data.class-names": "cat,dog", "augfl.lambda": 0.0}
    with pytest.raises(SettingsError, match=r"data\.name=folder: .* needs a fleet"):
        simulate(own, server, lambda text: None)
    assert not (tmp_path / "runs").exists()
