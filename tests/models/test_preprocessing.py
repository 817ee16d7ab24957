"""What models see: sizes, channels, normalisation, random views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import ModelError
from common.models.preprocessing import Preprocessing
from tests.private.small import pixels


def test_images_are_normalised_per_channel() -> None:
    images = pixels(2, channels=3, size=4)
    wanted = Preprocessing(3, 4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.2))
    result = wanted(images).numpy()
    mean, std = (np.array(v)[:, None, None] for v in (wanted.mean, wanted.std))
    np.testing.assert_allclose(result, (images.numpy() / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    assert result.dtype == np.float32


def test_numpy_numbers_do_not_change_the_dtype() -> None:
    wanted = Preprocessing(1, 4, (np.float64(0.1),), (np.float64(0.5),))
    assert wanted(pixels(2, size=4)).dtype == torch.float32


@pytest.mark.parametrize("size", [5, 16])
def test_other_sizes_keep_an_even_image_even(size: int) -> None:
    images = torch.full((1, 1, 8, 8), 51, dtype=torch.uint8)
    result = Preprocessing(1, size, (0.0,), (1.0,))(images)
    torch.testing.assert_close(result, torch.full((1, 1, size, size), 0.2))


def test_grey_and_colour() -> None:
    grey = pixels(2, size=4)
    colours = Preprocessing(3, 4, (0.0,) * 3, (1.0,) * 3)(grey)
    assert torch.equal(colours[:, 0], colours[:, 2])
    back = Preprocessing(1, 4, (0.0,), (1.0,))(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(back, grey / 255)
    with pytest.raises(ModelError, match="3 channels cannot be shown to a model of 4"):
        Preprocessing(4, 4, (0.0,) * 4, (1.0,) * 4)(pixels(1, channels=3))


def test_normalisation_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ModelError, match="3 channels needs as many"):
        Preprocessing(3, 4, (0.5,), (0.5,))
    with pytest.raises(ModelError, match="above 0"):
        Preprocessing(1, 4, (0.5,), (0.0,))
