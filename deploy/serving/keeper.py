"""Keeps a model at work: follows a file, takes what is newer unless it is worse, and answers.

What lies in ``folder``: ``graph.onnx``, the architecture; ``serving.onnx``, the model at work,
whole; ``best.onnx``, where another named more of the device's held-out images rightly, that one.
Each is written beside its place and renamed, so that a kill leaves the old file or the new one.
"""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from common.data.image_files import decode
from common.errors import ModelError
from common.files import OWN, write_atomic
from common.serving import IMAGES, load_images
from deploy.serving.model import Answer, Model, fits, read_weights, with_weights
from deploy.serving.seen import Seen

EVERY = 0.5
"""Seconds between two looks at the file that is followed."""
SURE = 2.0
"""Standard errors by which a model must be worse to be refused."""
_GRAPH_TIMEOUT = 1800.0  # a small board may need minutes to draw a graph
log = logging.getLogger(__name__)


class Serving:
    """The newest model of a file that others replace; a context manager, which threads may share.

    Attributes
    ----------
    model: at work now; None before the first.
    seen: what it was asked about.
    swaps, refused: how often a newer model took the old one's place, or did not.
    """

    def __init__(self, source: Path, folder: Path, threads: int = 0) -> None:
        """Begin with what was at work last.

        Parameters
        ----------
        source: a model of AugFlower (.safetensors), or what ``augflower export`` wrote (.onnx).
        folder: the server's own; images to evaluate models by are looked for there.
        threads: for one answer; 0 leaves it to onnxruntime.
        """
        self._source, self._folder, self._threads = source, folder, threads
        self._looked: tuple[int, ...] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow", daemon=True)
        self.swaps = self.refused = 0
        self.problem = ""
        self.model = self._read("serving.onnx")
        self._best = self._read("best.onnx") or self.model
        self.seen = Seen(folder / "seen.json")
        self._expect()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.seen.save()

    def classify(self, images: Sequence[Path | bytes]) -> tuple[str, list[Answer]]:
        """Version of the model, and its answers to image files, or to the contents of such.

        Raises
        ------
        ModelError: there is no model yet.
        DataError: one of them is no image.
        """
        model = self.model  # one model answers all, whatever is swapped meanwhile
        if model is None:
            raise ModelError(
                f"there is no model yet: {self.problem or f'{self._source} is awaited'}"
            )
        pixels = [
            decode(Path(f"image {i}"), model.size, model.channels, io.BytesIO(image))
            if isinstance(image, bytes)
            else decode(image, model.size, model.channels)
            for i, image in enumerate(images, 1)
        ]
        found = model.probabilities(np.stack(pixels))
        self.seen.add(model.classes, found)
        return model.version, model.answers(found)

    def take(self) -> bool:
        """Look at the file; whether a newer model of it is at work now."""
        try:
            found = self._source.stat()
        except OSError:
            return False
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if state == self._looked:
            return False
        try:
            content = self._content()
            model = Model(content, self._threads)
            self._looked, self.problem = state, ""
            if self.model is not None and model.version == self.model.version:
                return False
            if not self._good(model):
                return False
            write_atomic(self._folder / "serving.onnx", content, OWN)
        except Exception as error:  # whatever is wrong with a new model, the old one goes on
            self._looked = state
            self.problem = str(error) or repr(error)
            log.warning("%s is not taken: %s", self._source, self.problem)
            return False
        self.model = model
        self.swaps += 1
        self._expect()
        log.info("%s is at work", model.version)
        return True

    def _follow(self) -> None:
        while True:
            self.take()
            if self._stop.wait(EVERY):
                return
            self.seen.save_now_and_then()

    def _content(self) -> bytes:
        """The source as ONNX."""
        if self._source.suffix.lower() == ".onnx":
            return self._source.read_bytes()
        content, card = read_weights(self._source)
        graph = self._folder / "graph.onnx"
        if not graph.is_file() or not fits(graph.read_bytes(), card):
            command = [sys.executable, "-m", "deploy.serving.graph", str(self._source), str(graph)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_GRAPH_TIMEOUT, check=False
            )
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
                raise ModelError(f"its graph cannot be drawn: {last}")
        return with_weights(graph.read_bytes(), content, str(self._source))

    def _good(self, model: Model) -> bool:
        """Evaluate a model against the best so far, image by image (McNemar's test)."""
        images = load_images(self._folder / IMAGES)
        if images is None or images[0].shape[1:] != (model.channels, model.size, model.size):
            return True
        right, best = model.right(*images), self._best
        if best is not None and best.classes == model.classes and best.size == model.size:
            theirs = best.right(*images)
            lost, won = int((theirs & ~right).sum()), int((right & ~theirs).sum())
            if lost - won > SURE * (lost + won) ** 0.5:
                self.refused += 1
                log.warning(
                    "%s is not taken: of %d held-out images it names %d rightly, %s did %d",
                    model.version, len(right), right.sum(), best.version, theirs.sum(),
                )  # fmt: skip
                return False
            if right.sum() < theirs.sum():
                self._keep_best(best)
                return True
        self._best = model
        (self._folder / "best.onnx").unlink(missing_ok=True)  # serving.onnx is the best
        return True

    def _keep_best(self, best: Model) -> None:
        """Before another model takes its place at work, the best has a file of its own."""
        place, serving = self._folder / "best.onnx", self._folder / "serving.onnx"
        if best is self.model and serving.is_file():
            write_atomic(place, serving.read_bytes(), OWN)

    def _expect(self) -> None:
        """What the model says about the held-out images is what its answers are compared with."""
        images = load_images(self._folder / IMAGES)
        if self.model is None or images is None:
            return
        fitting = images[0].shape[1:] == (self.model.channels, self.model.size, self.model.size)
        if fitting and len(images[0]):
            self.seen.expect(self.model.classes, self.model.probabilities(images[0][:1000]))

    def _read(self, name: str) -> Model | None:
        try:
            return Model((self._folder / name).read_bytes(), self._threads)
        except FileNotFoundError:
            return None
        except (ModelError, OSError) as error:
            log.warning("%s is left out: %s", self._folder / name, error)
            return None
