"""What teachers see: the same images in the same order, larger where the files hold more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from client_app.pictures import pictures_of_folder, pictures_of_set
from common.config import DataSettings
from common.data.client import client_data
from common.data.folder import load_folder_split
from common.data.load import load
from common.data.plan import plan


def test_a_folder_is_read_again_in_the_order_of_training(tmp_path: Path):
    """Each image is one grey, so that size and crop do not matter and order does."""
    grey = 0
    for name in ("cat", "dog"):
        for _ in range(5):
            grey += 20
            path = tmp_path / name / f"{grey}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (40 + grey, 30), (grey, grey, grey)).save(path)
    settings = DataSettings(name="folder", image_size=8, channels=1, support_fraction=0.4)
    images, split = load_folder_split(tmp_path, ("cat", "dog"), settings)
    small = client_data(images, split)
    seen = torch.cat([small.support_images, small.query_images])[:, 0, 0, 0] * 0.5 + 0.5
    pictures = pictures_of_folder(tmp_path, ("cat", "dog"), settings)(24)
    assert pictures.shape == (10, 3, 24, 24)
    np.testing.assert_allclose(pictures[:, 1, 3, 3], seen.numpy() * 255, atol=1)


def test_a_data_set_is_seen_at_its_own_size():
    settings = DataSettings(sources=2, targets=0)
    images = load("digits", image_size=16, channels=1)
    split = plan(images.labels, settings).clients[1]
    pictures = pictures_of_set(images, split)(224)
    chosen = np.concatenate([split.support, split.query])
    expected = load("digits").pixels(chosen)
    assert pictures.shape == (len(chosen), 3, 8, 8)
    for channel in range(3):
        np.testing.assert_array_equal(pictures[:, channel], expected[:, 0])
