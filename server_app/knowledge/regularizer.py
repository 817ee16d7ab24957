"""R_h(theta, theta_p): what the private model knows, as a function of the clients' parameters.

A weighted sum of terms over mini-batches of the server's own set D_s. AugFL needs its gradient
at the old theta (arXiv 2503.02154, equation (13)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from common.data.crop import crop
from common.errors import RunError
from common.models import FlatModel, features_and_logits
from common.models.preprocessing import Preprocessing
from server_app.knowledge.features import TeacherOutputs
from server_app.knowledge.sampler import EpochSampler
from server_app.knowledge.settings import KnowledgeSettings
from server_app.knowledge.terms.batch import Batch, Term
from server_app.knowledge.terms.crd import ContrastiveDistillation

# Length of the secant over the length of theta: far above float32's rounding, and still local.
_SECANT = 1e-2
_VIEWS = 2**32
_PART = 64


@dataclass(frozen=True, eq=False)
class ServerSet:
    """D_s as the client model needs it.

    Attributes
    ----------
    pixels: uint8 images, shape (n, c, h, w).
    labels: int64, shape (n,), or None.
    preprocessing: of the client model.
    """

    pixels: Tensor
    labels: Tensor | None
    preprocessing: Preprocessing


class Regularizer:
    """Gradient of R_h, one mini-batch a call; built by ``build_regularizer``.

    The model's parameters, buffers and modes are after each call what they were before it.
    BatchNorm uses the statistics of the batch, as it does in training; dropout is off.
    """

    def __init__(
        self,
        settings: KnowledgeSettings,
        model: FlatModel,
        images: ServerSet,
        teacher: TeacherOutputs | None,
        terms: Mapping[str, tuple[float, Term]],
        seed: int,
    ) -> None:
        self._model = model
        self._images = images
        self._teacher = teacher
        self._terms = dict(terms)
        self._augment = settings.augment
        self._sampler = EpochSampler(len(images.pixels), settings.batch_size, seed)
        self._last: tuple[Tensor, int] | None = None

    @property
    def distance_weight(self) -> float | None:
        """w where R_h is w ||theta - theta_c||^2 and nothing else; None where it is not."""
        if set(self._terms) != {"squared_distance"}:
            return None
        return self._terms["squared_distance"][0]

    def gradient(self, vector: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Gradient at flat parameters of shape (d,), on the next mini-batch of D_s.

        Returns it with the value of each term, unweighted, and of their weighted sum, ``loss``.
        The projections of CRD take their own step and its memories are updated.
        """
        self._last = self._sampler.draw()
        for term in self._learners():
            if term.awaits_features and self._teacher is not None:
                term.remember(self._features(vector), self._teacher.features)
        gradient, values, batch = self._evaluate(vector, *self._last)
        for term in self._learners():
            term.learn(batch)
        return gradient, values

    def curvature(self, vector: Tensor, gradient: Tensor) -> float:
        """||grad R(v + e g) - grad R(v)|| / ||e g|| on the batch of the last ``gradient`` call.

        Both gradients see the projections and memories as they are now. Along one direction, so
        a lower bound of the largest curvature; 0 where ``gradient`` is 0.
        """
        if self._last is None:
            raise RunError("the curvature of R_h needs a gradient first")
        length = float(gradient.norm())
        if length == 0:
            return 0.0
        step = gradient * (_SECANT * max(float(vector.norm()), 1e-3) / length)
        here, _, _ = self._evaluate(vector, *self._last)
        ahead, _, _ = self._evaluate(vector + step, *self._last)
        for term in self._learners():
            term.forget()
        return float((ahead - here).norm() / step.norm())

    def state(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit: arrays and numbers, nested."""
        state: dict[str, Any] = {"batches": self._sampler.drawn}
        if self._teacher is not None:
            state["private"] = self._teacher.key
        for name, (_, term) in self._terms.items():
            if isinstance(term, ContrastiveDistillation):
                state[name] = term.state()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave.

        Raises
        ------
        RunError: it belongs to another private model, to other images or to other settings.
        """
        key = self._teacher.key if self._teacher is not None else None
        if state.get("private") != key:
            raise RunError(
                "the checkpoint was made with another private model or other images of the "
                "server; resume with those, or start a new run"
            )
        for name, (_, term) in self._terms.items():
            if isinstance(term, ContrastiveDistillation):
                if name not in state:
                    raise RunError(
                        f"the checkpoint holds no state of the term {name}; resume with the "
                        "settings that the run began with"
                    )
                term.load_state(state[name])
        self._sampler.drawn = int(state["batches"])
        self._last = None

    def _learners(self) -> list[ContrastiveDistillation]:
        return [t for _, t in self._terms.values() if isinstance(t, ContrastiveDistillation)]

    def _evaluate(
        self, vector: Tensor, indices: Tensor, seed: int
    ) -> tuple[Tensor, dict[str, float], Batch]:
        with _at(self._model, vector):
            batch = self._batch(indices, seed)
            values = {name: term(batch) for name, (_, term) in self._terms.items()}
            total = sum(
                (weight * values[name] for name, (weight, _) in self._terms.items()),
                start=torch.zeros(()),
            )
            gradient, loss = self._model.gradient(lambda: total)
        metrics = {name: float(value.detach()) for name, value in values.items()}
        return gradient.clone(), metrics | {"loss": loss}, batch

    @torch.no_grad()
    def _features(self, vector: Tensor) -> Tensor:
        """The student's last hidden features on all of D_s, shape (n, f)."""
        images = self._images
        with _at(self._model, vector):
            parts = [
                features_and_logits(self._model.module, images.preprocessing(pixels))[0]
                for pixels in images.pixels.tensor_split(max(1, len(images.pixels) // _PART))
            ]
        return torch.cat(parts)

    def _batch(self, indices: Tensor, seed: int) -> Batch:
        images, module = self._images, self._model.module
        generator = torch.Generator().manual_seed(_VIEWS + seed)
        views = crop(images.pixels[indices], self._augment, generator, "constant")
        inputs = images.preprocessing(views)
        features, logits = features_and_logits(module, inputs)
        teacher = self._teacher
        return Batch(
            indices=indices,
            inputs=inputs,
            seed=seed,
            features=features,
            logits=logits,
            vector=parameters_to_vector(module.parameters()),
            labels=None if images.labels is None else images.labels[indices],
            teacher_features=None if teacher is None else teacher.features[indices],
            teacher_logits=None if teacher is None else teacher.logits[indices],
        )


@contextmanager
def _at(model: FlatModel, vector: Tensor) -> Iterator[None]:
    """The model at other parameters, its BatchNorm in training mode; all is put back after."""
    kept = model.vector.clone()
    buffers = {name: buffer.clone() for name, buffer in model.module.named_buffers()}
    modes = {name: layer.training for name, layer in model.module.named_modules()}
    model.load(vector)
    model.module.eval()
    for layer in model.module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.training = True
    try:
        yield
    finally:
        model.load(kept)
        for name, buffer in model.module.named_buffers():
            buffer.copy_(buffers[name])
        for name, layer in model.module.named_modules():
            layer.training = modes[name]
