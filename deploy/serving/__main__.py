"""``augflower serve``: the newest model of a run at work on this device, over HTTP on loopback."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from common.errors import AugFlowerError, SettingsError
from common.serving import FOLDER, MODEL
from deploy.serving.aside import Aside
from deploy.serving.keeper import Serving
from deploy.serving.pages import loopback, make_app


def places(source: Path, state: Path | None) -> tuple[Path, Path]:
    """The file to follow, and the server's own folder.

    Parameters
    ----------
    source: a device's state folder, or a model: .safetensors or .onnx.

    Raises
    ------
    SettingsError: it is something else.
    """
    if source.suffix.lower() in (".safetensors", ".onnx"):
        return source, state or source.parent / FOLDER
    if source.is_dir() or not source.suffix:
        return source / FOLDER / MODEL, state or source / FOLDER
    raise SettingsError(f"{source}: name a device's state folder, or a .safetensors or .onnx")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until stopped by a signal."""
    parser = argparse.ArgumentParser(prog="augflower serve", description=__doc__)
    parser.add_argument("source", type=Path, help="a device's state folder, or a model file")
    parser.add_argument("--listen", default="127.0.0.1:8070", metavar="HOST:PORT")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="for its own files")
    parser.add_argument("--put-aside", type=Path, metavar="FOLDER", help="for unsure images")
    parser.add_argument("--below", type=float, default=Aside.below, metavar="PROBABILITY")
    parser.add_argument("--most", type=int, default=Aside.most, help="images put aside at most")
    parser.add_argument("--threads", type=int, default=0, help="for one answer; 0: all cores")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        (host, port), (source, folder) = (
            loopback(options.listen),
            places(options.source, options.state),
        )
        aside = Aside(options.put_aside, options.below, options.most) if options.put_aside else None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Serving(source, folder, options.threads) as serving:
            logging.info("the model of %s answers at http://%s:%d", source, host, port)
            uvicorn.run(
                make_app(serving, aside), host=host, port=port, log_level="warning",
                access_log=False, server_header=False, timeout_graceful_shutdown=5,
            )  # fmt: skip
    except (AugFlowerError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
