"""A run refuses a private model that was trained on its clients' images, or on D_s."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from common.errors import ModelError, SettingsError
from deploy.pretrain import pretrain_model
from server_app.private.pretrained import CARD, PretrainedModel
from server_app.private.seen import Seen, check_fits, check_unseen
from server_app.private.settings import PretrainSettings
from server_app.settings import ServerSettings
from tests.private.small import teacher

UNKNOWN = "nobody knows which images the private model was trained on"
SmallRun = Callable[..., Path]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private model of the digits with default settings."""
    folder = tmp_path_factory.mktemp("private") / "pm"
    quiet = Console(file=StringIO())
    pretrain_model(folder, {}, "cnn-tiny", PretrainSettings(epochs=1), console=quiet)
    return folder


def attempt(private: Path, small_run: SmallRun, **changes: Any) -> list[str]:
    """What a run with that private model says."""
    told: list[str] = []
    runs = private.parent / "runs" / str(len(list(private.parent.glob("runs/*"))))
    server = ServerSettings(str(private), runs=runs, cache=private.parent / "cache")
    settings = {"rounds": 1, "knowledge.crd": 0.0, "knowledge.kl": 1.0}
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    small_run("augfl", settings | changes, server=server, notice=told.append)
    return told


def test_the_card_tells_exactly_the_images_of_the_plan(private: Path):
    (seen,) = PretrainedModel.load(private).seen
    data = DataSettings()
    labels = load("digits").labels
    assert seen.images is not None
    assert seen.images.tolist() == sorted(plan(labels, data).pretrain.tolist())
    assert seen.source == "digits"
    settings = {
        "data.seed": 0, "data.partition": "random-pairs", "data.pretrain-images": 500,
        "data.image-size": 8, "data.channels": 1,
    }  # fmt: skip
    assert seen.settings == settings


def test_a_run_with_the_same_settings_goes_on(private: Path, small_run: SmallRun):
    assert not [text for text in attempt(private, small_run) if UNKNOWN in text]
    # Neither the partition nor the run's own seed decides what the server keeps for itself.
    attempt(private, small_run, seed=9, data__partition="cyclic-pairs", data__targets=2, rounds=0)


def test_another_seed_is_refused_with_the_number_of_images(private: Path, small_run: SmallRun):
    data = DataSettings(seed=5, sources=3, targets=4)
    labels = load("digits").labels
    own = set(plan(labels, DataSettings()).pretrain.tolist())
    assigned = plan(labels, data)
    counts = [
        sum(len(own & {*client.support.tolist(), *client.query.tolist()}) for client in clients)
        for clients in (assigned.clients[:3], assigned.clients[3:])
    ]
    counts.append(len(own & set(assigned.server.tolist())))
    assert min(counts) > 0
    message = (
        rf"on {sum(counts)} images that this run gives to others \({counts[0]} of sources, "
        rf"{counts[1]} of targets, {counts[2]} of the server's set D_s\).*"
        r"settings of its training, -s data.seed=0 -s data.pretrain-images=500, or .*"
        r"pretrain FOLDER -s data.seed=5 -s data.pretrain-images=500"
    )
    with pytest.raises(SettingsError, match=message):
        attempt(private, small_run, data__seed=5)


def test_fewer_images_for_pretraining_are_refused(private: Path, small_run: SmallRun):
    with pytest.raises(SettingsError, match=r"-s data\.pretrain-images=500, or"):
        attempt(private, small_run, **{"data.pretrain-images": 400})


def test_a_folder_of_the_servers_own_is_no_part_of_the_deal(private: Path):
    """Without D_s of the plan, an overlap with that part of the plan harms nobody."""
    model = PretrainedModel.load(private)
    labels = load("digits").labels
    data = DataSettings(sources=1, targets=0, samples_min=2, samples_max=2)
    assigned = plan(labels, data)
    seen = Seen.of(data, labels, assigned.server)
    assert check_unseen([seen], data, labels, assigned, own_set=False)
    with pytest.raises(SettingsError, match=r"300 images .*300 of the server's set"):
        check_unseen([*model.seen, seen], data, labels, assigned, own_set=True)


def test_an_older_card_and_unknown_images_are_only_told(
    private: Path, small_run: SmallRun, tmp_path: Path
):
    card = json.loads((private / CARD).read_text())
    for seen in (None, [Seen("elsewhere").as_dict()]):
        model = PretrainedModel.load(private)
        model.save(tmp_path / "pm")
        new = card | {"seen": seen}
        if seen is None:
            del new["seen"]
        (tmp_path / "pm" / CARD).write_text(json.dumps(new))
        told = attempt(tmp_path / "pm", small_run, data__seed=5, rounds=0)
        assert sum(UNKNOWN in text for text in told) == 1


def test_another_data_set_is_no_overlap():
    labels = load("digits").labels
    data = DataSettings()
    assigned = plan(labels, data)
    targets = np.concatenate([client.query for client in assigned.clients])
    seen = Seen.of(DataSettings(name="mnist"), labels[::-1], targets)
    assert check_unseen([seen], data, labels, assigned, own_set=True)
    # The same name over other labels: indices mean other images, and nothing is known.
    seen = Seen.of(data, labels[::-1], targets)
    assert not check_unseen([seen], data, labels, assigned, own_set=True)


def test_a_damaged_entry_is_said(tmp_path: Path):
    teacher().save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text())
    whole = Seen("digits").as_dict()
    for seen in (whole | {"images": "?"}, {"images": None}):
        (tmp_path / CARD).write_text(json.dumps(card | {"seen": [seen]}))
        with pytest.raises(ModelError, match="is missing or wrong"):
            PretrainedModel.load(tmp_path)


def test_a_private_model_of_another_size_is_refused(private: Path, small_run: SmallRun):
    message = (
        r"AUGFLOWER_PRIVATE_MODEL was trained for another task than this run's: for "
        r"data\.image-size=8, and the run has data\.image-size=16.*"
        r"pretrain FOLDER -s data\.image-size=16 -s data\.channels=1 -s data\.name=digits"
    )
    with pytest.raises(SettingsError, match=message):
        attempt(private, small_run, **{"data.image-size": 16})


@pytest.mark.parametrize(
    ("source", "classes", "message"),
    [
        ("fashion-mnist", (), r"for data\.name=fashion-mnist, and the run has data\.name=digits"),
        ("digits", ("cat", "dog"), r"for the classes cat, dog, and the run has the classes 0, 1,"),
        ("/srv/images", ("cat", "dog"), r"for the classes cat, dog"),
    ],
)
def test_a_private_model_of_another_data_set_or_classes_is_refused(
    private: Path, small_run: SmallRun, tmp_path: Path,
    source: str, classes: tuple[str, ...], message: str,
):  # fmt: skip
    PretrainedModel.load(private).save(tmp_path / "pm")
    card = json.loads((tmp_path / "pm" / CARD).read_text())
    card |= {"seen": [Seen(source).as_dict()]} | ({"classes": list(classes)} if classes else {})
    (tmp_path / "pm" / CARD).write_text(json.dumps(card))
    with pytest.raises(SettingsError, match=message):
        attempt(tmp_path / "pm", small_run)


def test_published_weights_and_other_orders_of_classes_fit():
    data = DataSettings()
    check_fits([], ["tench", "goldfish"], data, ["0", "1"])
    check_fits([Seen("digits")], ["1", "0"], data, ["0", "1"])
    check_fits([Seen("mnist"), Seen("/srv/images")], [], data, ["0", "1"])
    own = DataSettings(name="folder", class_names="0,1")
    check_fits([Seen("mnist")], ["0", "1"], own, ["0", "1"])
