"""From a plan to tensors."""

from __future__ import annotations

import numpy as np
import torch

from common.config import DataSettings
from common.data.client import client_data
from common.data.load import load
from common.data.plan import plan


def test_a_client_gets_the_images_of_its_plan() -> None:
    digits = load("digits")
    made = plan(digits.labels, DataSettings())
    for number in (made.sources[0], made.targets[-1]):
        split = made.clients[number]
        data = client_data(digits, split, number)
        assert (data.client, data.classes) == (number, split.classes)
        assert data.support_images.shape == (len(split.support), 1, 8, 8)
        assert data.query_images.dtype == torch.float32
        assert np.array_equal(data.query_labels.numpy(), digits.labels[split.query])
        back = data.query_images * digits.std[0] + digits.mean[0]
        assert np.allclose(back.numpy() * 255, digits.pixels(split.query), atol=1e-3)


def test_default_settings_fit_the_default_data_set_for_many_seeds() -> None:
    labels = load("digits").labels
    for seed in range(100):
        assert len(plan(labels, DataSettings(seed=seed)).clients) == 24


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    bunch, digits = load_digits(), load("digits")
    everything = np.arange(len(digits))
    assert np.array_equal(digits.labels, bunch.target)
    assert np.array_equal(digits.pixels(everything)[:, 0], np.round(bunch.images * (255 / 16)))
