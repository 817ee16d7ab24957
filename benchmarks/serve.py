"""The model at work: latency, memory, requests during swaps, and what a kill leaves.

    python -m benchmarks.serve                          # latency and resident memory
    python -m benchmarks.serve --swaps 100 --kills 20   # and these, with cnn-small

The server is the process that ``augflower serve`` becomes; requests come over HTTP from this one.
During swaps three threads ask without a pause, and each answer is compared with what the model of
its version says. A kill is SIGKILL at a random moment while models are being swapped.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.machine import footer
from common.errors import ModelError
from common.files import write_atomic
from common.modelfile import Card, model_bytes
from common.models import FlatModel, build
from common.serving import FOLDER, MODEL
from deploy.serving.model import Model, with_weights

COMMAND = "python -m benchmarks.serve"
MODELS = {"cnn-small": 32, "resnet18": 224, "mobilenet_v2": 224, "timm:vit_tiny_patch16_224": 224}
"""Name -> height and width of its images, pixels."""
REQUESTS, WARM, BATCH = 100, 10, 16
ASKERS = 3


def main() -> None:
    """Print the table, and what was asked for beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--swaps", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    heads = ["model", "ONNX, MB", "first start, s", "one, ms", "slowest of 20, ms"]
    heads += ["each of 16, ms", "resident, MB"]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            print(_line(name, Path(folder)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.swaps:
            print(f"\n{_swaps(Path(folder), options.swaps)}", flush=True)
        if options.kills:
            print(f"\n{_kills(Path(folder), options.kills)}", flush=True)
    print(f"\n{footer(COMMAND)}")


def _line(name: str, folder: Path) -> str:
    size = MODELS.get(name, 32)
    write_atomic(folder / FOLDER / MODEL, _weights(name, size, 0))
    image = _image(size)
    begun = time.monotonic()
    with _served(folder) as (process, ask):
        started = time.monotonic() - begun
        times = [_timed(ask, image) for _ in range(WARM + REQUESTS)][WARM:]
        batch = [_timed(ask, image, BATCH) / BATCH for _ in range(WARM)]
        resident = _resident(process.pid)
    onnx = (folder / FOLDER / "serving.onnx").stat().st_size
    slow = statistics.quantiles(times, n=20)[-1]
    shown = [f"{onnx / 1e6:.1f}", f"{started:.0f}", f"{statistics.median(times):.1f}"]
    shown += [f"{slow:.1f}", f"{statistics.median(batch):.1f}", f"{resident:.0f}"]
    return f"| {name} | {' | '.join(shown)} |"


def _swaps(folder: Path, swaps: int) -> str:
    path, known, image = folder / FOLDER / MODEL, dict[str, list[float]](), _image(32)
    files = [_weights("cnn-small", 32, seed) for seed in range(swaps + 1)]
    write_atomic(path, files[0])
    stop, wrong, answered = threading.Event(), [], [0] * ASKERS
    with _served(folder) as (_, ask):
        graph = (path.parent / "graph.onnx").read_bytes()
        for content in files:
            model = Model(with_weights(graph, content, "it"), 1)
            (answer,) = model.answers(model.probabilities(_pixels(image)))
            known[model.version] = list(answer.probabilities.values())

        def hold(number: int) -> None:
            while not stop.is_set():
                try:
                    found = ask(image, 1)
                    shares = list(found["answers"][0]["probabilities"].values())
                    np.testing.assert_allclose(shares, known[found["version"]], atol=1e-5)
                    answered[number] += 1
                except Exception as error:
                    wrong.append(repr(error))

        askers = [threading.Thread(target=hold, args=(number,)) for number in range(ASKERS)]
        for asker in askers:
            asker.start()
        waits = []
        for content in files[1:]:
            write_atomic(path, content)
            begun, version = time.monotonic(), Model(with_weights(graph, content, "it"), 1).version
            while ask(image, 1)["version"] != version:
                if time.monotonic() - begun > 60:
                    raise ModelError("a swap took more than a minute")
            waits.append(time.monotonic() - begun)
        stop.set()
        for asker in askers:
            asker.join()
    return (
        f"{swaps} swaps: {sum(answered)} requests answered meanwhile, {len(wrong)} lost or wrong; "
        f"a new file was at work after {statistics.median(waits):.2f} s, "
        f"at most {max(waits):.2f} s." + (f" First: {wrong[0]}" if wrong else "")
    )


def _kills(folder: Path, kills: int) -> str:
    path, image, draw = folder / FOLDER / MODEL, _image(32), random.Random(0)
    files = [_weights("cnn-small", 32, seed) for seed in range(5)]
    write_atomic(path, files[0])
    back, bad = [], 0
    with _served(folder):
        pass
    graph = (path.parent / "graph.onnx").read_bytes()
    versions = {Model(with_weights(graph, content, "it"), 1).version for content in files}
    for _ in range(kills):
        with _served(folder) as (process, _ask):
            ends = time.monotonic() + draw.uniform(0.3, 2.0)
            while time.monotonic() < ends:
                write_atomic(path, files[draw.randrange(len(files))])
                time.sleep(draw.uniform(0.05, 0.6))
            process.kill()
            process.wait()
        begun = time.monotonic()
        with _served(folder) as (_, ask):
            back.append(time.monotonic() - begun)
            bad += ask(image, 1)["version"] not in versions
    return (
        f"{kills} kills: {kills - bad} times it was back with a whole model, after "
        f"{statistics.median(back):.1f} s, at most {max(back):.1f} s."
    )


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Ask]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deploy.serving", str(folder), "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            ask = Ask(f"http://127.0.0.1:{port}")
            ask.await_model()
            yield process, ask
        finally:
            process.terminate()


class Ask:
    """Requests to one server; threads have connections of their own."""

    def __init__(self, url: str) -> None:
        self._url, self._local = url, threading.local()

    def __call__(self, image: bytes, number: int) -> dict[str, Any]:
        """The answer to a batch of one image, ``number`` times."""
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(timeout=60)
        if number == 1:
            answer = self._local.client.post(f"{self._url}/classify", content=image)
        else:
            images = [base64.b64encode(image).decode()] * number
            answer = self._local.client.post(f"{self._url}/classify", json={"images": images})
        return dict(answer.raise_for_status().json())

    def await_model(self) -> None:
        """Wait until there is a model at work."""
        ends = time.monotonic() + 600
        while time.monotonic() < ends:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self._url}/healthz").status_code == 200:
                    return
            time.sleep(0.05)
        raise ModelError("no model is at work after ten minutes")


def _timed(ask: Ask, image: bytes, number: int = 1) -> float:
    begun = time.perf_counter()
    ask(image, number)
    return 1000 * (time.perf_counter() - begun)


def _weights(name: str, size: int, seed: int) -> bytes:
    model = FlatModel(build(name, classes=10, channels=3, image_size=size, seed=seed))
    classes = tuple(f"class {number}" for number in range(10))
    half = (0.5, 0.5, 0.5)
    card = Card(name, classes, 3, size, half, half, 0.1, 1, "support", "fedavg", "benchmark")
    return model_bytes(model.parameters, model.buffers, card)


def _image(size: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _pixels(image: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(image)) as opened:
        return np.ascontiguousarray(np.asarray(opened, np.uint8).transpose(2, 0, 1))[None]


def _resident(process: int) -> float:
    """Megabytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
