"""The cache on disk: rows by image, torn files, writers side by side."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from client_app.teachers.cache import Table, digest, keys_of

KEYS = [bytes([i]) * 32 for i in range(3)]
ROWS = np.array([[1.0, 2.0], [3.0, -4.0], [0.5, 1e-3]], np.float32)


def filled(path: Path) -> Table:
    table = Table(path)
    table.add(KEYS, ROWS)
    table.save()
    return table


def test_rows_come_back_as_float16_holds_them(tmp_path: Path):
    filled(tmp_path / "t.safetensors")
    read = Table(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(read.get(KEYS[::-1]), ROWS[::-1].astype(np.float16))
    assert read.missing([KEYS[0], b"new" * 10, b"new" * 10]) == [1]
    assert (tmp_path / "t.safetensors").read_bytes().count(ROWS.astype("<f2").tobytes()) == 1


@pytest.mark.parametrize("damage", ["cut", "zeros", "flip", "empty"])
def test_a_damaged_file_counts_as_empty(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "t.safetensors"
    filled(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "zeros":
        content[-20:] = bytes(20)
    elif damage == "flip":
        content[-1] ^= 1
    else:
        content = bytearray()
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        table = Table(path)
    assert table.missing(KEYS) == [0, 1, 2]
    assert "computed again" in caplog.text
    table.add(KEYS, ROWS)
    table.save()
    assert Table(path).missing(KEYS) == []


def test_two_writers_keep_each_others_rows(tmp_path: Path):
    one, two = Table(tmp_path / "t"), Table(tmp_path / "t")
    one.add(KEYS[:1], ROWS[:1])
    two.add(KEYS[1:], ROWS[1:])
    one.save()
    two.save()
    assert Table(tmp_path / "t").missing(KEYS) == []


def test_an_image_is_its_pixels_and_its_shape():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[1, 0, 0, 0] = 1
    one, other = keys_of(images)
    assert one != other
    assert keys_of(images.reshape(2, 3, 2, 8))[0] != one
    assert keys_of(images[:1]) == [one]


def test_identities_do_not_depend_on_the_order_of_their_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
