"""A CLIP model of a few thousand weights, trained on the digits once for all tests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from common.config import DataSettings
from common.data.load import load
from common.data.plan import server_parts
from deploy.train_teacher import Backbone, train_teacher

DATA = DataSettings(sources=3, targets=0, pretrain_images=250)
"""Three clients of the digits; the teachers learned from other images of theirs."""


@cache
def tiny_teacher(backbone: Backbone = "resnet") -> Path:
    """Folder of a model: "resnet" knows the digits, "vit" has hardly begun to learn."""
    folder = Path(tempfile.mkdtemp(prefix="teacher-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    epochs = 10 if backbone == "resnet" else 1
    pool = load("digits", channels=3)
    learned, _, others = server_parts(pool.labels, DATA)
    done = train_teacher(folder, backbone, pool, learned, others[:200], epochs=epochs, width=32)
    assert backbone == "vit" or done.accuracy > 0.5
    return folder


def teachers_file(folder: Path, *tables: str, head: str = "", name: str = "teachers.toml") -> Path:
    """Write a teachers file whose cache is beside it; one table for each string of settings."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    blocks = "\n".join(f"[[teacher]]\n{table}\n" for table in tables)
    path.write_text(f'cache = "{folder / "cache"}"\n{head}\n{blocks}', encoding="utf-8")
    return path
