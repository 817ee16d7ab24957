"""A remedy that the doctor names is one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import AugFlowerError
from deploy.doctor.identity import _registration
from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet, parse_node

SETTINGS = {"hardware": "raspberry-pi", "clients": "0"}


def test_a_revoked_node_comes_back_under_another_name_and_key(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    settings = {"server": {"names": ["localhost"]}, "nodes": {"pi-1": SETTINGS}}
    fleet.provision(parse_fleet(settings), folder)
    fleet.revoke(folder, "pi-1")
    with pytest.raises(AugFlowerError):
        fleet.renew_node(folder, "pi-1")
    remedy = _registration(known=False).remedy
    assert re.findall(r"augflower provision (\S+) (\S+),?", remedy) == [
        ("register", "/etc/augflower/server;"), ("add", "OTHER-NAME,"),
    ]  # fmt: skip
    assert fleet.add(folder, "other-name", parse_node("other-name", SETTINGS)).added
