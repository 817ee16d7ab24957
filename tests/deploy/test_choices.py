"""What there is to choose is listed, completed, and said to be without effect where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from typing import get_args

import pytest
from typer.testing import CliRunner

import server_app.methods
from common import registry
from common.config import PARTITIONS, Partition
from common.data.catalogue import KNOWN
from common.errors import SettingsError
from common.models import MODELS
from deploy.cli import app
from deploy.research.effect import without_effect
from deploy.research.explain import complete, explained, select
from deploy.research.lists import LISTS
from deploy.run_config import default_config
from server_app.app import read_settings


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_setting_is_there_with_its_default_and_its_meaning():
    every = {setting.name: setting for group in explained().values() for setting in group}
    assert {name: setting.default for name, setting in every.items()} == default_config()
    assert all(setting.meaning and setting.allowed for setting in every.values())
    shown = json.loads(said("settings", "--json"))
    assert {name: entry["default"] for name, entry in shown.items()} == default_config()
    assert len(said("settings").split("\n\n")) == len(explained())


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("augfl.lambda", "number >= 0 and <= 1,000,000"),
        ("augfl.update", "linearised, exact"),
        ("data.channels", "1, 3"),
        ("resume", "true, false"),
        ("data.support-fraction", "number > 0 and < 1"),
    ],
)
def test_what_a_setting_may_be(name: str, allowed: str):
    [[setting]] = select(name).values()
    assert setting.allowed == allowed
    line = said("settings", name)
    assert line.count("\n") == 1
    assert all(part in line for part in (name, allowed, setting.meaning))


def test_the_choices_that_are_listed_are_those_that_are_taken():
    refused = []
    for setting in (setting for group in explained().values() for setting in group):
        for choice in setting.allowed.split(", ") if ", " in setting.allowed else []:
            value = {"true": True, "false": False, "1": 1, "3": 3}.get(choice, choice)
            try:
                read_settings(default_config() | {setting.name: value})
            except SettingsError as error:
                refused.append(str(error))
    # Only where a choice does not go with the defaults of other settings.
    assert all("Value error" in reason for reason in refused), refused


def test_a_section_and_one_that_is_none():
    assert set(select("data")) == {"data"}
    assert {line.split(".")[0] for line in said("settings", "fedavg").splitlines()} == {"fedavg"}
    with pytest.raises(SettingsError, match=r"did you mean augfl\.lambda"):
        select("augfl.lamda")


def test_the_lists_are_whole():
    names = {what: [name for name, _ in entries()] for what, entries in LISTS.items()}
    assert names["methods"] == registry.names(server_app.methods)
    assert names["models"][: len(MODELS)] == list(MODELS)
    assert names["data"] == list(KNOWN)
    assert names["partitions"] == list(get_args(Partition)) == list(PARTITIONS)
    assert [line.split()[0] for line in said("list", "partitions").splitlines()] == list(PARTITIONS)


def test_version():
    assert said("--version") == f"augflower {version('augflower')}\n"


def test_completion():
    assert ("data.partition=", "How clients get their images.") in complete("data.part")
    assert [word for word, _ in complete("data.partition=d")] == ["data.partition=dirichlet"]
    assert ("method=fedprox", "") in complete("method=fed")
    assert complete("nothing=") == []


def test_a_shell_gets_it():
    """As bash asks for it: through the entry point, with the words so far."""
    words = {"COMP_WORDS": "augflower simulate -s augfl.lamb", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['augflower']; from deploy.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env=dict(os.environ) | words | {"_AUGFLOWER_COMPLETE": "complete_bash"},
    )  # fmt: skip
    assert done.stdout.split() == ["augfl.lambda="], done.stderr


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"fedprox.mu": 1.0, "method": "fedavg"}, "the method is fedavg"),
        ({"knowledge.crd": 0.5, "method": "fedavg"}, "fedavg transfers no knowledge"),
        ({"knowledge.kl": 1.0, "augfl.lambda": 0.0}, "augfl transfers no knowledge"),
        ({"knowledge.negatives": 9, "knowledge.crd": 0.0}, "knowledge.crd is 0"),
        ({"data.dirichlet-alpha": 0.1}, "data.partition is random-pairs"),
        ({"data.samples-max": 30, "data.partition": "pfllib-dirichlet"}, "is pfllib-dirichlet"),
        ({"data.class-names": "a,b"}, "the classes are those of digits"),
        ({"data.partition": "iid", "data.name": "folder", "data.class-names": "a,b"}, "own images"),
    ],
)
def test_settings_without_effect_are_told(given, reason: str):
    [line] = without_effect(given)
    name, value = next(iter(given.items()))
    assert line.startswith(f"{name}={value} has no effect: ")
    assert reason in line


def test_settings_with_an_effect_are_not():
    assert without_effect({"method": "fedprox", "fedprox.mu": 1.0, "fedavg.sgd.lr": 0.05}) == []
    assert without_effect({"data.partition": "dirichlet", "data.dirichlet-alpha": 0.1}) == []
    assert without_effect({"knowledge.tasks": 1.0, "data.classes-per-client": 3}) == []
    pathological = {"data.partition": "pfllib-pathological", "data.classes-per-client": 3}
    assert without_effect(pathological) == []
    assert without_effect(default_config()) == []


def test_a_run_says_so(small_run):
    notices: list[str] = []
    small_run("fedavg", {"fedprox.mu": 1.0}, notice=notices.append)
    assert notices[0] == "fedprox.mu=1.0 has no effect: the method is fedavg"
    assert sum("no effect" in notice for notice in notices) == 1
