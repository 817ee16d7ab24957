"""Tensors on disk: what is written comes back, scalars and order included."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import ModelError
from common.tensorfile import dump, parse
from common.tensors import Tensors

ARRAYS = {
    "z": np.arange(6, dtype=np.float32).reshape(2, 3),
    "count": np.array(7),
    "a": np.ones((1,), np.float16),
    "strided": np.arange(12, dtype=np.float32).reshape(3, 4).T,
}


def test_round_trip():
    tensors = Tensors.pack(ARRAYS)
    groups, notes = parse(dump({"model": tensors}, {"round": 3}), "here")
    assert notes == {"round": 3}
    assert groups["model"].specs == tensors.specs  # scalars stay scalars
    for name, array in groups["model"].unpack().items():
        np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_torn_file_is_named(cut: int):
    content = dump({"model": Tensors.pack(ARRAYS)}, {})
    with pytest.raises(ModelError, match="here is damaged"):
        parse(content[:cut], "here")


def test_the_same_content_gives_the_same_bytes():
    groups = {"model": Tensors.pack({"ä": np.ones((2, 3), np.float32), "b": np.arange(3)})}
    written = {dump(groups, {"note": "größer", "list": [1, 2]}) for _ in range(20)}
    assert len(written) == 1
    back, notes = parse(written.pop(), "here")
    assert notes == {"note": "größer", "list": [1, 2]}
    np.testing.assert_array_equal(back["model"].unpack()["ä"], np.ones((2, 3)))
