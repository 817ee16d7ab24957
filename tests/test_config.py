"""The public settings of a run refuse what could not be meant."""

from __future__ import annotations

import pytest

from common.config import read_run_config
from common.errors import SettingsError


@pytest.mark.parametrize("name", ["", "a", "7", "_x", "2026-01-31.b", "käfer"])
def test_names_of_runs(name: str):
    assert read_run_config({"run-name": name}, []).run_name == name


@pytest.mark.parametrize("name", [".", "..", ".hidden", "-s", "a/b", "../a", "a b", "a\n"])
def test_a_run_keeps_to_its_own_folder(name: str):
    with pytest.raises(SettingsError, match="run-name"):
        read_run_config({"run-name": name}, [])
