"""A device's own folder: what is read, how it is split, what is refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config import DataSettings
from common.data.client import client_data
from common.data.folder import load_folder_split
from common.data.images import LabelledImages
from common.errors import DataError

CLASSES = ("T-shirt/top", "Ankle boot", "Bag", "Coat")
SETTINGS = DataSettings(name="folder", image_size=8, channels=3, support_fraction=0.4)


def paint(path: Path, number: int, size: tuple[int, int] = (12, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (number % 256, number // 256, 50)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten bags and ten ankle boots, each of its own colour."""
    for index in range(10):
        paint(tmp_path / "mine" / "Bag" / f"{index}.png", index)
        paint(tmp_path / "mine" / "ankle-boot" / f"{index}.png", 100 + index)
    return tmp_path / "mine"


def colours(images: LabelledImages, indices: np.ndarray) -> set[tuple[int, int]]:
    """What tells one image of these tests from another."""
    return {(int(p[0, 0, 0]), int(p[1, 0, 0])) for p in images.pixels(indices)}


def halves(folder: Path, settings: DataSettings = SETTINGS) -> tuple[set[tuple[int, int]], ...]:
    images, split = load_folder_split(folder, CLASSES, settings)
    return colours(images, split.support), colours(images, split.query)


def test_every_image_is_in_one_half_and_every_class_in_both(folder: Path) -> None:
    images, split = load_folder_split(folder, CLASSES, SETTINGS)
    assert (len(images), images.classes, split.classes) == (20, CLASSES, (1, 2))
    assert sorted([*split.support, *split.query]) == list(range(20))
    for half in (split.support, split.query):
        assert set(images.labels[half]) == {1, 2}
    assert images.pixels(split.query).shape[1:] == (3, 8, 8)
    assert images.mean == (0.5, 0.5, 0.5)
    expected = {(index, 0) for index in range(10)} | {(100 + index, 0) for index in range(10)}
    assert colours(images, np.arange(20)) == expected
    for index in range(20):
        is_bag = images.pixels(np.array([index]))[0, 0, 0, 0] < 100
        assert images.labels[index] == (2 if is_bag else 1)


def test_support_fraction_is_met_on_average(tmp_path: Path) -> None:
    for index in range(600):
        paint(tmp_path / ("Bag" if index % 2 else "Coat") / f"{index}.png", index)
    support, query = halves(tmp_path)
    assert len(support) + len(query) == 600
    assert abs(len(support) / 600 - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 600)


def test_halves_survive_renaming_and_moving(folder: Path, tmp_path: Path) -> None:
    before = load_folder_split(folder, CLASSES, SETTINGS)
    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    for number, path in enumerate(sorted((other / "Bag").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed-{number}.png"))
    after = load_folder_split(other, CLASSES, SETTINGS)
    for half in ("support", "query"):
        one, two = (images.pixels(getattr(split, half)) for images, split in (before, after))
        assert np.array_equal(one, two)  # the order, too


@pytest.mark.parametrize("seed", range(5))
def test_few_images_are_halved_in_each_class_alike(folder: Path, seed: int) -> None:
    images, split = load_folder_split(folder, CLASSES, SETTINGS.model_copy(update={"seed": seed}))
    assert np.bincount(images.labels[split.support], minlength=3).tolist() == [0, 4, 4]
    assert np.bincount(images.labels[split.query], minlength=3).tolist() == [0, 6, 6]


def test_halves_survive_new_images(folder: Path) -> None:
    for index in range(100, 120):
        paint(folder / "Bag" / f"{index}.png", 1_000 + index)
        paint(folder / "ankle-boot" / f"{index}.png", 2_000 + index)
    support, query = halves(folder)
    for index in range(10, 60):
        paint(folder / "Bag" / f"{index}.png", index)
    more_support, more_query = halves(folder)
    assert support < more_support
    assert query < more_query


def test_another_seed_splits_anew(folder: Path) -> None:
    splits = {
        frozenset(halves(folder, SETTINGS.model_copy(update={"seed": s}))[0]) for s in range(5)
    }
    assert len(splits) == 5


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_two_images_are_enough(tmp_path: Path, fraction: float) -> None:
    for index in range(2):
        paint(tmp_path / "Coat" / f"{index}.png", index)
    settings = SETTINGS.model_copy(update={"support_fraction": fraction})
    assert [len(half) for half in halves(tmp_path, settings)] == [1, 1]


def test_one_image_is_not_enough(folder: Path) -> None:
    paint(folder / "Coat" / "only.png", 7_000)
    with pytest.raises(DataError, match=r"Coat holds 1 image .* at least 2 are needed"):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_copies_count_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = halves(folder)
    shutil.copy(folder / "Bag" / "3.png", folder / "Bag" / "again.png")
    caplog.set_level(logging.WARNING)
    images, _ = load_folder_split(folder, CLASSES, SETTINGS)
    assert len(images) == 20
    assert "again.png is a copy of" in caplog.text
    assert halves(folder) == before


def test_two_copies_are_not_two_images(tmp_path: Path) -> None:
    first = paint(tmp_path / "Coat" / "a.png", 1)
    shutil.copy(first, tmp_path / "Coat" / "b.png")
    with pytest.raises(DataError, match="at least 2 are needed"):
        load_folder_split(tmp_path, CLASSES, SETTINGS)


def test_one_image_in_two_classes_is_refused(folder: Path) -> None:
    shutil.copy(folder / "Bag" / "3.png", folder / "ankle-boot" / "x.png")
    with pytest.raises(DataError, match="are the same image in two classes"):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_missing_and_empty_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load_folder_split(tmp_path / "nowhere", CLASSES, SETTINGS)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare has no subfolders; make one for each class"):
        load_folder_split(tmp_path / "bare", CLASSES, SETTINGS)
    (folder / "Coat").mkdir()
    (folder / "Coat" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"no images in Coat; put images .* or remove"):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_unknown_class_lists_near_ones(folder: Path) -> None:
    paint(folder / "ankle-boots" / "0.png", 900)
    with pytest.raises(DataError, match=r"no class 'ankle-boots'; near: Ankle boot\. Rename"):
        load_folder_split(folder, CLASSES, SETTINGS)
    (folder / "ankle-boots").rename(folder / "zzz")
    with pytest.raises(
        DataError, match="no class 'zzz'; its classes: T-shirt/top, Ankle boot, Bag"
    ):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_two_spellings_of_one_class(folder: Path) -> None:
    paint(folder / "Ankle boot" / "0.png", 900)
    with pytest.raises(DataError, match="two subfolders are class 'Ankle boot'"):
        load_folder_split(folder, CLASSES, SETTINGS)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp"])
@pytest.mark.parametrize("left", [0, 10, 600])
def test_corrupt_image_is_named(folder: Path, kind: str, left: int) -> None:
    path = folder / "Bag" / f"cut.{kind}"
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    load_folder_split(folder, CLASSES, SETTINGS)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DataError, match=r"Bag/cut\.... cannot be read as an image .* replace or"):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_deep_images_are_refused_rather_than_clipped(folder: Path) -> None:
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(folder / "Bag" / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel"):
        load_folder_split(folder, CLASSES, SETTINGS)


def test_other_sizes_are_cut_to_the_middle_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200  # the middle square
    (tmp_path / "Coat").mkdir()
    Image.fromarray(wide).save(tmp_path / "Coat" / "wide.png")
    Image.fromarray(np.full((5, 4, 3), 9, np.uint8)).save(tmp_path / "Coat" / "small.bmp")
    images, _ = load_folder_split(tmp_path, CLASSES, SETTINGS)
    assert sorted(images.pixels(np.arange(2))[:, :, 1:7, 1:7].mean((1, 2, 3))) == [9, 200]


def test_photographs_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255  # the sky, before a turn of 180 degrees
    exif = Image.Exif()
    exif[0x0112] = 3
    (tmp_path / "Coat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "Coat" / "a.png", exif=exif)
    Image.fromarray(pixels // 2).save(tmp_path / "Coat" / "b.png")
    settings = SETTINGS.model_copy(update={"channels": 1})
    images, _ = load_folder_split(tmp_path, CLASSES, settings)
    tops = {int(image[0, 1, 4]): int(image[0, 6, 4]) for image in images.pixels(np.arange(2))}
    assert tops == {0: 255, 127: 0}


def test_constants_are_those_of_the_runs_data_set(folder: Path) -> None:
    settings = SETTINGS.model_copy(update={"name": "fashion-mnist", "channels": 1})
    assert load_folder_split(folder, CLASSES, settings)[0].mean == (0.2860,)


def test_client_data_of_a_folder(folder: Path) -> None:
    images, split = load_folder_split(folder, CLASSES, SETTINGS)
    data = client_data(images, split)
    assert (data.client, data.classes) == (-1, (1, 2))
    assert data.support_images.shape == (len(split.support), 3, 8, 8)
    assert set(data.query_labels.tolist()) == {1, 2}
