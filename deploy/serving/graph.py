"""``python -m deploy.serving.graph MODEL OUT``: the ONNX graph of a model file's architecture.

The only part of serving that needs torch: a process that comes, writes and goes, once for an
architecture. The weights of later rounds are put into the graph without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import AugFlowerError
from common.files import OWN, write_atomic
from common.modelfile import load_model
from common.packaged import onnx_bytes


def main(model: str, out: str) -> None:
    """Write the graph."""
    flat, _, card = load_model(Path(model))
    write_atomic(Path(out), onnx_bytes(flat.module, card, optimize=False), OWN)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except AugFlowerError as error:
        sys.exit(f"error: {error}")
