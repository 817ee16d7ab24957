"""The server's set D_s: from the partition or a folder, with labels or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import RunSettings
from common.data.load import load
from common.data.plan import plan
from common.errors import DataError, SettingsError
from common.models import build
from common.models.preprocessing import Preprocessing
from server_app.knowledge.opening import server_set
from server_app.knowledge.settings import KnowledgeSettings
from server_app.private.pretrained import PretrainedModel
from server_app.public_data import describe
from server_app.settings import ServerSettings

RUN = RunSettings()
PUBLIC = describe(RUN)
LABELLED = KnowledgeSettings()
UNLABELLED = KnowledgeSettings(labelled=False)
COUNT = 12


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Images of the digits in one folder, and two more in a folder within that is no class."""
    images = load("digits").pixels(np.arange(COUNT + 2))[:, 0]
    (tmp_path / "flat" / "holiday").mkdir(parents=True)
    for number, image in enumerate(images):
        place = "flat" if number < COUNT else "flat/holiday"
        Image.fromarray(image).save(tmp_path / place / f"{number:02}.png")
    (tmp_path / "flat" / "notes.txt").write_text("no image")
    return tmp_path / "flat"


def test_the_deals_part_has_labels_unless_they_are_not_to_be_used():
    pool = load("digits", image_size=8, channels=1)
    indices = plan(pool.labels, RUN.data).server
    pixels, labels = server_set(LABELLED, RUN, ServerSettings(), PUBLIC)
    assert labels is not None
    assert np.array_equal(pixels, pool.pixels(indices))
    assert np.array_equal(labels, pool.labels[indices])
    same, none = server_set(UNLABELLED, RUN, ServerSettings(), PUBLIC)
    assert np.array_equal(pixels, same)
    assert none is None


def test_a_folder_without_classes_serves_where_there_are_no_labels(flat: Path):
    pixels, labels = server_set(UNLABELLED, RUN, ServerSettings(server_data=str(flat)), PUBLIC)
    assert labels is None
    assert np.array_equal(pixels, load("digits").pixels(np.arange(COUNT + 2)))


def test_with_labels_it_is_refused_and_the_setting_named(flat: Path):
    with pytest.raises(SettingsError, match=r"in no class.*knowledge\.labelled=false"):
        server_set(LABELLED, RUN, ServerSettings(server_data=str(flat)), PUBLIC)


def test_an_empty_or_missing_folder_is_said(tmp_path: Path):
    with pytest.raises(DataError, match="holds no images"):
        server_set(UNLABELLED, RUN, ServerSettings(server_data=str(tmp_path)), PUBLIC)
    gone = ServerSettings(server_data=str(tmp_path / "gone"))
    with pytest.raises(DataError, match="is not a folder"):
        server_set(UNLABELLED, RUN, gone, PUBLIC)


def test_a_run_learns_from_unlabelled_images(
    flat: Path, tmp_path: Path, small_run: Callable[..., Path]
):
    module = build("cnn-tiny", classes=10, channels=1, image_size=8)
    digits = Preprocessing(1, 8, (0.3053,), (0.3759,))
    PretrainedModel("cnn-tiny", module, tuple("0123456789"), digits).save(tmp_path / "pm")
    server = ServerSettings(
        str(tmp_path / "pm"), server_data=str(flat), runs=tmp_path, cache=tmp_path / "cache"
    )
    told: list[str] = []
    changes = {"knowledge.labelled": False, "knowledge.kl": 1.0, "rounds": 1}
    folder = small_run("augfl", changes, server=server, notice=told.append)
    record = (folder / "metrics.jsonl").read_text()
    assert "transfer_kl" in record
    assert "transfer_crd" in record
    assert "transfer_cross_entropy" not in record
    assert f"R_h on {COUNT + 2} images of the server" in told
    assert any("R_h has no cross-entropy" in text for text in told)
