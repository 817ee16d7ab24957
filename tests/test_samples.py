"""The sample images are what their script writes, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from common.config import DataSettings
from common.data.load import load
from common.data.plan import plan
from samples.make import main
from tests.conftest import ROOT


def pixels(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): np.asarray(Image.open(path)).tobytes()
        for path in sorted(folder.rglob("*.png"))
    }


def test_the_script_writes_what_is_there(tmp_path: Path):
    main(tmp_path)
    assert pixels(tmp_path) == pixels(ROOT / "samples" / "digits")
    assert len(pixels(tmp_path)) == 16


def test_no_client_and_no_set_of_the_server_holds_them():
    settings = DataSettings()
    pool = load(settings.name)
    parts = plan(pool.labels, settings)
    held = [parts.pretrain, parts.server, *(c.support for c in parts.clients)]
    held += [client.query for client in parts.clients]
    theirs = {image.tobytes() for image in pool.pixels(np.concatenate(held))}
    assert theirs.isdisjoint(pixels(ROOT / "samples" / "digits").values())
