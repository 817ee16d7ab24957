"""The server's environment: what is known is read, all else is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import SettingsError
from server_app.settings import PREFIX, ServerSettings, read_server_settings

ROOT = Path(__file__).parents[1]
# Where variables are set for a server: by make, by CI, by compose, by a kit, by a manifest.
PLACES = ["Makefile", ".ci/run", "docker-compose.yml", "images", "kubernetes", "deploy/provision"]


def test_an_empty_environment_gives_the_defaults():
    settings = read_server_settings({"PATH": "/bin"})
    assert settings == ServerSettings(cache=ServerSettings.cache.expanduser())


def test_what_is_set_is_read():
    environment = {
        "AUGFLOWER_PRIVATE_MODEL": "models/pm",
        "AUGFLOWER_GENERATOR": "models/generator",
        "AUGFLOWER_SERVER_DATA": "images",
        "AUGFLOWER_RUNS": "elsewhere",
        "AUGFLOWER_CACHE": "warm",
        "AUGFLOWER_CALLBACKS": "tensorboard, mlflow,,mlflow",
        "AUGFLOWER_DATA": "data",
    }
    assert read_server_settings(environment) == ServerSettings(
        "models/pm", "models/generator", "images", Path("elsewhere"), Path("warm"),
        callbacks=("tensorboard", "mlflow"),
    )  # fmt: skip


def test_an_unknown_variable_is_refused_with_those_that_are_known():
    with pytest.raises(SettingsError, match=r"AUGFLOWER_RUN; .*AUGFLOWER_RUNS"):
        read_server_settings({"AUGFLOWER_RUN": "runs"})


def files(place: Path) -> list[Path]:
    return [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]


@pytest.mark.parametrize("place", PLACES)
def test_a_server_that_is_started_from_here_knows_its_variables(place: str):
    """A variable of make's or of compose's own that had the prefix would stop every server."""
    found = [path for path in files(ROOT / place) if path.suffix != ".pyc"]
    assert found
    names = {
        name for path in found for name in re.findall(rf"{PREFIX}[A-Z_]+", path.read_text("utf-8"))
    }
    for name in names:
        read_server_settings({name: ""})
