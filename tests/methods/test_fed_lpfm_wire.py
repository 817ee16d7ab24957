"""Fed-LPFM through the whole wire: what leaves a device, mixed fleets, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from safetensors.numpy import load_file, save_file

from client_app.app import app
from client_app.device import Device
from client_app.methods import fed_lpfm
from client_app.teachers import answers
from client_app.teachers.cache import Table
from common.config import DataSettings
from common.errors import DivergedError, ModelError, RunError
from common.methods.fed_lpfm import Down, Up
from common.models import FlatModel, build
from common.tensorfile import parse
from deploy.run_config import default_config
from deploy.simulate import node_configs
from server_app.app import run
from server_app.report.words import headline
from server_app.runs.record import read_run
from server_app.settings import ServerSettings
from server_app.transport.in_process import InProcessGrid
from tests.tiny_teacher import teachers_file, tiny_teacher

Run = Callable[..., Path]
UNTAUGHT = "this was not fed_lpfm: no device had a teacher"
DATA = {"data.sources": 3, "data.targets": 4, "data.pretrain-images": 250}


def fleet(
    teachers: list[Path | None], config: dict[str, Any], sniff: list[bytes] | None = None
) -> InProcessGrid:
    """Nodes of which source i has the i-th teachers file."""
    data = DataSettings(sources=3, targets=4, pretrain_images=250)
    nodes = node_configs(data)
    for node, path in zip(nodes, teachers, strict=False):
        if path is not None:
            node["teachers"] = str(path)

    def listen(message: Message, reply: Message) -> Message:
        if sniff is not None:
            sniff.append(message_to_proto(reply).SerializeToString())
        return reply

    return InProcessGrid(app, nodes, default_config() | config, interfere=listen)


def run_fleet(
    small_run: Run, teachers: list[Path | None], sniff: list[bytes] | None = None, **more: Any
) -> list[dict[str, Any]]:
    sgd = {"fed_lpfm.sgd.lr": 0.05, "fed_lpfm.sgd.epochs": 1}
    config = {**DATA, "method": "fed_lpfm", **sgd, "data.sources": 3, **more}
    return recorded(small_run("fed_lpfm", config, grid=fleet(teachers, config, sniff)))


def recorded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def table(more: str = "") -> str:
    return f'model = "local-dir:{tiny_teacher()}"\n{more}'


def windows(values: np.ndarray, width: int) -> list[bytes]:
    """Runs of ``width`` neighbours in every float width, both byte orders."""
    flat = values.reshape(-1, values.shape[-1])
    found = []
    for kind in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8"):
        for row in flat:
            starts = range(0, len(row) - width + 1, width)
            found += [row[i : i + width].astype(kind).tobytes() for i in starts]
    return found


@pytest.fixture
def unrounded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Logits, embeddings and classifiers in float32, as they come into the cache."""
    kept: list[np.ndarray] = []
    add = Table.add

    def watched(self: Table, keys: Sequence[bytes], values: np.ndarray) -> None:
        kept.append(np.array(values))
        add(self, keys, values)

    monkeypatch.setattr(Table, "add", watched)
    return kept


def secrets_of(tmp_path: Path, unrounded: list[np.ndarray]) -> dict[str, list[bytes]]:
    """What must not leave a device, as bytes."""
    secrets: dict[str, list[bytes]] = {}
    for kind in ("logits", "embeddings", "classifier"):
        (file,) = (tmp_path / "cache").rglob(f"{kind}-*")
        secrets[kind] = windows(np.stack(list(Table(file)._rows.values())), 4)
    # The cache rounds to float16; what it was given is no less secret.
    secrets["unrounded"] = [part for values in unrounded for part in windows(values, 4)]
    weights = load_file(tiny_teacher() / "open_clip_model.safetensors")
    matrices = [w for w in weights.values() if w.ndim == 2 and w.shape[1] > 7]
    secrets["weights"] = [part for w in matrices for part in windows(w[:50], 8)]
    places = (tmp_path, tiny_teacher(), "local-dir")
    return secrets | {"places": [str(place).encode() for place in places]}


def leaks(secrets: dict[str, list[bytes]], sent: list[bytes]) -> dict[str, int]:
    """How many of each kind of secret are in what was sent."""
    everything = b"".join(sent)
    return {
        kind: found
        for kind, parts in secrets.items()
        if (found := sum(any(part) and part in everything for part in parts))
    }


@pytest.mark.parametrize("loss", ["kl", "features"])
def test_nothing_of_a_teacher_is_in_any_reply(
    tmp_path: Path, small_run: Run, loss: str, unrounded: list[np.ndarray]
):
    sent: list[bytes] = []
    path = teachers_file(tmp_path, table())
    lines = run_fleet(small_run, [path] * 3, sent, **{"fed_lpfm.loss": loss})
    assert lines[-1]["method"]["distilled"] == 3
    secrets = secrets_of(tmp_path, unrounded)
    assert all(len(parts) > 2 for parts in secrets.values())
    assert leaks(secrets, sent) == {}
    proxy = FlatModel(build("cnn-tiny", classes=10, channels=1, image_size=8)).vector
    for line in lines[1:]:
        assert line["bytes_up"] - lines[0]["bytes_up"] == 3 * 4 * len(proxy)


@pytest.mark.parametrize("kind", ["logits", "unrounded"])
def test_a_device_that_leaks_is_caught_by_the_same_search(
    tmp_path: Path,
    small_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    unrounded: list[np.ndarray],
):
    honest = fed_lpfm.train

    def leak(down: Down, device: Device) -> Up:
        assert device.teachers is not None
        up = honest(down, device)
        logits = device.teachers.answers().logits.numpy()
        secret = (logits if kind == "logits" else unrounded[-1]).flatten()
        up.change.vector[: len(secret)] = secret
        return up

    monkeypatch.setattr(fed_lpfm, "train", leak)
    sent: list[bytes] = []
    with pytest.raises(DivergedError):  # what leaks here is no step of training
        run_fleet(small_run, [teachers_file(tmp_path, table())] * 3, sent)
    assert leaks(secrets_of(tmp_path, unrounded), sent).keys() == {kind}


def test_a_mixed_fleet_says_who_had_a_teacher(tmp_path: Path, small_run: Run):
    good = teachers_file(tmp_path, table())
    cramped = teachers_file(tmp_path / "..", table(), head="memory = 1", name="cramped.toml")
    cramped.write_text(cramped.read_text().replace("/cache", "/other-cache"))
    lines = run_fleet(small_run, [good, cramped, None])
    for line in lines[1:]:
        assert line["replies"] == 3
        assert not line["missing"]
        assert line["method"]["distilled"] == 1
        assert line["method"]["without_teacher"] == 1
        assert line["method"]["without_room_for_teacher"] == 1
        assert line["method"]["distillation_loss"] > 0
        told = {entry["client"]: entry.get("without") for entry in line["clients"]}
        assert told == {"0": None, "1": "no room", "2": "no teacher"}
    (page,) = tmp_path.rglob("report.html")
    text = page.read_text(encoding="utf-8")
    assert f"no teacher ({len(lines) - 1} rounds)" in text.replace("\u00a0", " ")


def test_a_teacher_that_breaks_in_training_does_not_cost_the_device(
    tmp_path: Path, small_run: Run, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise ModelError("the weights are gone")

    monkeypatch.setattr(answers, "fingerprint", broken)
    with pytest.raises(RunError, match=UNTAUGHT):
        run_fleet(small_run, [teachers_file(tmp_path, table()), None], **{"run-name": "broken"})
    lines = recorded(tmp_path / "broken")
    for line in lines[1:]:
        assert (line["replies"], line["missing"]) == (3, [])
        assert line["method"]["teacher_failed"] == 1
        told = {entry["client"]: entry.get("without") for entry in line["clients"]}
        assert told == {"0": "teacher failed", "1": "no teacher", "2": "no teacher"}


def test_a_teacher_changes_the_model_and_a_run_without_is_plain(tmp_path: Path, small_run: Run):
    path = teachers_file(tmp_path, table())
    with_teacher = run_fleet(small_run, [path] * 3, **{"run-name": "with"})
    with pytest.raises(RunError, match=UNTAUGHT):
        run_fleet(small_run, [], **{"run-name": "without"})
    assert headline(read_run(tmp_path / "without")).startswith("This was not fed_lpfm")
    without = recorded(tmp_path / "without")
    assert without[-1]["method"]["without_teacher"] == 3
    assert with_teacher[-1]["evaluation"] != without[-1]["evaluation"]


@pytest.mark.parametrize(
    ("teacher", "head", "message"),
    [
        ('model = "local-dir:gone"', "", "open_clip_config.json cannot be read"),
        ('model = "local-dir:torn"', "", "open_clip_model.safetensors is damaged"),
        ('model = "ViT-B32"\npretrained = "openai"', "", "near: .*ViT-B-32"),
        (
            'model = "local-dir:torn"\ncheckpoint = "foreign.safetensors"',
            "",
            "does not hold its weights",
        ),
        (None, 'prompts = ["a photo"]', "has no placeholder"),
        (None, '[class-names]\n"eleven" = "11"', "the run has no class 'eleven'"),
    ],
)
def test_a_wrong_teacher_is_refused_before_training_and_the_others_go_on(
    tmp_path: Path, small_run: Run, teacher: str | None, head: str, message: str
):
    wrong = teachers_file(tmp_path, teacher or table(), head=head)
    torn = shutil.copytree(tiny_teacher(), tmp_path / "torn") / "open_clip_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    save_file({"visual.proj": np.zeros((2, 2))}, tmp_path / "foreign.safetensors")
    config = {**DATA, "method": "fed_lpfm", "rounds": 1, "round.nodes": 3, "round.wait": 5.0}
    notices: list[str] = []
    grid = fleet([wrong], config)
    with pytest.raises(RunError, match=UNTAUGHT):  # the others have none
        run(
            grid, default_config() | config | {"run-name": "astray"},
            ServerSettings(runs=tmp_path / "runs"), notices.append,
        )  # fmt: skip
    refusals = [text for text in notices if "cannot take part" in text]
    assert len(refusals) == 1
    assert re.search(message, refusals[0])
    last = recorded(tmp_path / "runs" / "astray")[-1]
    assert last["replies"] == last["asked"] == 2


def test_other_methods_do_not_care_about_teachers(tmp_path: Path, small_run: Run):
    wrong = teachers_file(tmp_path, 'model = "local-dir:gone"')
    config = {**DATA, "method": "fedavg"}
    folder = small_run("fedavg", config, grid=fleet([wrong] * 3, config))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["replies"] == 3


def test_a_batchnorm_proxy_resumes_bit_for_bit(tmp_path: Path, small_run: Run):
    path = teachers_file(tmp_path, table())
    config = {
        **DATA, "method": "fed_lpfm", "model": "resnet8x4", "fed_lpfm.augmentation": "crop",
        "evaluation.every": 0,
    }  # fmt: skip
    vectors = []
    for name, parts in (("whole", [3]), ("cut", [1, 3])):
        grid = fleet([path] * 3, {**config, "run-name": name})
        for number, rounds in enumerate(parts):
            run_config = {**config, "run-name": name, "rounds": rounds, "resume": number > 0}
            folder = small_run("fed_lpfm", run_config, grid=grid)
        groups, _ = parse((folder / "models/last.safetensors").read_bytes(), name)
        vectors.append({k: v for g in groups.values() for k, v in g.unpack().items()})
    assert any("running_mean" in name for name in vectors[0])
    for name, array in vectors[0].items():
        np.testing.assert_array_equal(array, vectors[1][name], err_msg=name)
