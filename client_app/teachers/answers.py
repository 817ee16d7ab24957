"""What a device's teachers say about its images: asked once, cached, then unloaded.

Teachers see every image as it is, without augmentation.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client_app.pictures import Pictures
from client_app.teachers.cache import Key, Table, check_folder, digest, keys_of
from client_app.teachers.memory_budget import MIB, NotEnoughMemory, check_memory
from client_app.teachers.prompts import texts
from client_app.teachers.settings import TeacherSettings, read_teachers
from client_app.teachers.source import describe, doubt
from client_app.teachers.weights import check_file, find_weights, fingerprint, resolve
from common.accelerator import CPU
from common.errors import ModelError

log = logging.getLogger(__name__)

SAVE_EVERY = 30.0
"""Seconds after which a cache that grows is written, so that a device that stops loses little."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of k teachers to n images.

    Attributes
    ----------
    logits: shape (k, n, classes).
    embeddings: of each teacher, shape (n, e_k); empty unless they were asked for.
    weights: of the teachers, shape (k,), summing to 1.
    left_out: number of further teachers that could not be asked.
    """

    logits: Tensor
    embeddings: tuple[Tensor, ...]
    weights: Tensor
    left_out: int = 0


class Teachers:
    """The teachers of one device, for one run's classes and images."""

    def __init__(
        self,
        path: Path,
        dataset: str,
        classes: Sequence[str],
        labels: Tensor,
        pictures: Pictures,
    ) -> None:
        """Read the device's file; nothing is loaded.

        Parameters
        ----------
        labels: of the training images, int64, shape (n,), in the order of ``pictures``.

        Raises
        ------
        SettingsError: the file, a prompt or a class name is not what it must be.
        """
        self._path = path
        self._dataset = dataset
        self._classes = classes
        self._labels = labels
        self._pictures = pictures
        self._read()

    def _read(self) -> None:
        self._settings = read_teachers(self._path)
        own = self._settings
        self._texts = texts(self._dataset, self._classes, own.prompts, own.class_names)
        self._known: dict[tuple[int, bool], tuple[Tensor, Tensor | None]] = {}

    def check(self) -> None:
        """Read the file again, look for every model, and fetch public weights that are not here.

        Raises
        ------
        SettingsError: as at first, or the cache cannot be written.
        ModelError: a model or tag is unknown, or weights are damaged or cannot be had.
        """
        self._read()
        check_folder(Path(self._settings.cache), self._path)
        for settings in self._settings.teacher:
            source = describe(settings)
            if reason := doubt(source):
                log.warning(reason)
            check_file(source, find_weights(source))

    def answers(self, embeddings: bool = False) -> Answers:
        """``ask``, computed on the CPU, with the answers where the caller computes."""
        where = torch.get_default_device()
        with CPU:
            found = self.ask(embeddings)
        return replace(
            found,
            logits=found.logits.to(where),
            embeddings=tuple(part.to(where) for part in found.embeddings),
            weights=found.weights.to(where),
        )

    def ask(self, embeddings: bool = False) -> Answers:
        """Answers to all training images, from the cache as far as they are there.

        Teachers are loaded one after the other, and none is in memory any more at the end. One
        that does not fit or fails is left out, and tried again when answers are next asked for.

        Raises
        ------
        NotEnoughMemory: none fits into the free memory.
        ModelError: no teacher can be asked.
        """
        logits, features, weights, refused = [], [], [], []
        for number, settings in enumerate(self._settings.teacher):
            try:
                said, seen = self._ask(number, settings, embeddings)
            except (ModelError, OSError) as error:
                refused.append(error)
                continue
            logits.append(said)
            features.append(seen)
            weights.append(settings.weight)
        if not logits:
            cramped = all(isinstance(error, NotEnoughMemory) for error in refused)
            raise (NotEnoughMemory if cramped else ModelError)("; ".join(map(str, refused)))
        for reason in refused:
            log.warning("%s; the other teachers go on without it", reason)
        total = torch.tensor(weights)
        return Answers(
            torch.stack(logits), tuple(f for f in features if f is not None),
            total / total.sum(), len(refused),
        )  # fmt: skip

    def _ask(
        self, number: int, settings: TeacherSettings, embeddings: bool
    ) -> tuple[Tensor, Tensor | None]:
        key = number, embeddings
        if key not in self._known:
            own = self._settings
            asked = _Asked(settings, own.memory * MIB, Path(own.cache))
            self._known[key] = asked.answer(self._pictures, self._labels, self._texts, embeddings)
        return self._known[key]


class _Asked:
    """One teacher while it is asked."""

    def __init__(self, settings: TeacherSettings, limit: int, cache: Path) -> None:
        self._settings = settings
        self._limit = limit
        self._source, self._weights = resolve(settings, cache / "sources.json")
        weights = fingerprint(self._weights, cache / "weights.json")
        self._identity = self._source.identity(weights)
        self._cache = cache
        self._loaded: Any = None

    def answer(
        self, pictures: Pictures, labels: Tensor, sentences: list[list[str]], embeddings: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Logits, shape (n, classes), and embeddings, shape (n, e), if they are asked for."""
        pixels = pictures(self._source.size)
        keys = keys_of(pixels)
        tuning = self._tuning(keys, labels)
        plain = {"embeddings": self._identity}
        whole = plain | tuning | {"texts": sentences}
        logits = Table(self._path("logits", whole))
        # A fully tuned image tower began with the zero-shot classifier, and so with the prompts.
        full = self._settings.tuning == "full"
        features = Table(self._path("embeddings", whole if full else plain))
        try:
            if logits.missing(keys) or (embeddings and features.missing(keys)):
                self._fill(logits, features, pixels, keys, labels, sentences)
        finally:
            self._unload()
        said = torch.from_numpy(logits.get(keys))
        return said, torch.from_numpy(features.get(keys)) if embeddings else None

    def _fill(
        self,
        logits: Table,
        features: Table,
        pixels: NDArray[np.uint8],
        keys: Sequence[Key],
        labels: Tensor,
        sentences: list[list[str]],
    ) -> None:
        from client_app.teachers.tuning import tune_full, tune_head

        tuning = self._settings.tuning
        classifier, scale = self._classifier(sentences)
        if tuning == "full":
            classifier = tune_full(self._settings, self._clip(), pixels, labels, classifier)
        self._embed(features, pixels, keys)
        embedded = torch.from_numpy(features.get(keys))
        if tuning == "head":
            classifier = tune_head(self._settings, embedded, labels, classifier, scale)
        missing = logits.missing(keys)
        logits.add([keys[i] for i in missing], (scale * embedded[missing] @ classifier.T).numpy())
        logits.save()
        self._tell(torch.from_numpy(logits.get(keys)), labels)

    def _tell(self, said: Tensor, labels: Tensor) -> None:
        """How good the teacher is here: one that does not know the classes does harm."""
        share, classes = float((said.argmax(1) == labels).float().mean()), said.shape[1]
        level = logging.WARNING if share <= 1 / classes else logging.INFO
        text = "teacher %s: right for %.0f %% of this device's %d images%s; guessing, for %.0f %%"
        log.log(
            level, text, self._source.model, 100 * share, len(labels),
            "" if self._settings.tuning == "none" else ", on which it was tuned", 100 / classes,
        )  # fmt: skip

    def _embed(self, features: Table, pixels: NDArray[np.uint8], keys: Sequence[Key]) -> None:
        from client_app.teachers.clip import batches

        missing = features.missing(keys)
        if not missing:
            return
        clip, begun = self._clip(), time.monotonic()
        saved = begun
        for part in batches(missing, f"teacher {self._source.model}"):
            features.add([keys[i] for i in part], clip.embed(pixels[part]).numpy())
            if time.monotonic() - saved > SAVE_EVERY and self._settings.tuning != "full":
                features.save()
                saved = time.monotonic()
        features.save()
        log.info(
            "teacher %s: %d images in %.1f s, kept in %s",
            self._source.model, len(missing), time.monotonic() - begun, features.path,
        )  # fmt: skip

    def _classifier(self, sentences: list[list[str]]) -> tuple[Tensor, float]:
        """The zero-shot classifier, shape (classes, e), and the scale of its logits.

        It depends on weights and sentences alone, so that new images need no text tower and new
        prompts no image tower.
        """
        table = Table(self._path("classifier", {"embeddings": self._identity}), np.float32)
        keys = [digest([self._identity, row]).encode() for row in sentences]
        missing = table.missing(keys)
        if missing:
            rows = self._clip().classifier([sentences[i] for i in missing])
            scale = torch.full((len(rows), 1), self._clip().scale)
            table.add([keys[i] for i in missing], torch.cat([rows, scale], 1).numpy())
            table.save()
        found = torch.from_numpy(table.get(keys))
        return found[:, :-1], float(found[0, -1])

    def _tuning(self, keys: Sequence[Key], labels: Tensor) -> dict[str, Any]:
        """What a fine-tuned teacher depends on besides: how, and on which labelled images."""
        settings = self._settings
        if settings.tuning == "none":
            return {}
        images = [[key.hex(), int(label)] for key, label in zip(keys, labels, strict=True)]
        how = [settings.tuning, settings.tuning_epochs, settings.tuning_lr]
        return {"tuning": how, "images": digest(images)}

    def _path(self, kind: str, identity: dict[str, Any]) -> Path:
        name = self._source.model.rpartition("/")[2].removeprefix("local-dir:")
        return self._cache / name / f"{kind}-{digest(identity)}.safetensors"

    def _clip(self) -> Any:
        if self._loaded is None:
            from client_app.teachers.clip import Clip

            check_memory(self._source.model, self._source.bytes_needed(), self._limit)
            log.info("teacher %s: loading %s", self._source.model, self._weights)
            self._loaded = Clip(self._source, self._weights)
        return self._loaded

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded = None
            gc.collect()
