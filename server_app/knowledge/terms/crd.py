"""Contrastive representation distillation (CRD).

Tian, Krishnan and Isola, "Contrastive representation distillation" (2020), with the constants of
its reference implementation. z_s and z_t are linear projections of the last hidden features of
student and teacher, of unit length; M_s and M_t, one row an image of D_s, remember past
projections. For image i, candidates j are i itself and K negatives:

    p_t(j) = exp(<M_s[j], z_t> / tau) / Z_s        p_s(j) = exp(<M_t[j], z_s> / tau) / Z_t

Z is n times the mean of exp(.) over the first batch and stays as it is. With c = K / n, each
side is the mean over the batch of

    -log p(i) / (p(i) + c) - sum over negatives k of log c / (p(k) + c)

and CRD is the sum of both sides. With labels, negatives are images of other classes; without,
any other image. The projections are trained by SGD while theta is fixed; then
M[i] <- normalise(m M[i] + (1 - m) z_i).

Random first memories, as published, make the frozen Z wrong by orders of magnitude as soon as an
epoch has replaced them: projections of untrained heads are far more alike than random rows. The
gradient, a sum over K negatives, then explodes. So by default the memories begin as projections
of the features of all of D_s, which the private model has computed anyway.

Scores against a whole memory cost b n products, and the K negatives are picked from them: less
than gathering K rows an image wherever K is not far below n.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import RunError
from server_app.knowledge.settings import KnowledgeSettings
from server_app.knowledge.terms.batch import Batch
from server_app.knowledge.terms.negatives import Negatives

_EPSILON = 1e-7
_STUDENT, _TEACHER = "student", "teacher"


class ContrastiveDistillation:
    """CRD over n images of D_s, with its projections, memories and normalisation constants.

    Parameters
    ----------
    images: n.
    labels: shape (n,), or None for the unlabelled variant.
    student_width, teacher_width: f_s and f_t, of the last hidden features.
    """

    def __init__(
        self,
        settings: KnowledgeSettings,
        images: int,
        labels: Tensor | None,
        student_width: int,
        teacher_width: int,
        seed: int,
    ) -> None:
        self._settings = settings
        self._negatives = Negatives(images, labels)
        width = settings.feature_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleDict(
                {
                    _STUDENT: nn.Linear(student_width, width),
                    _TEACHER: nn.Linear(teacher_width, width),
                }
            )
            bound = (width / 3) ** -0.5
            self.memory = {
                side: torch.empty(images, width).uniform_(-bound, bound)
                for side in (_STUDENT, _TEACHER)
            }
        self.constants: dict[str, float] = {}
        self._optimizer = torch.optim.SGD(
            self.heads.parameters(),
            lr=settings.head_learning_rate,
            momentum=settings.head_momentum,
            weight_decay=settings.head_weight_decay,
        )
        for parameter in self.heads.parameters():
            self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def __call__(self, batch: Batch) -> Tensor:
        """Sum of both sides; the first call sets the normalisation constants."""
        generator = torch.Generator().manual_seed(batch.seed)
        negatives = self._negatives.draw(batch.indices, self._settings.negatives, generator)
        candidates = torch.cat([batch.indices[:, None], negatives], dim=1)
        projections = self._project(batch)
        student_side = self._side(projections[_STUDENT], _TEACHER, candidates)
        return student_side + self._side(projections[_TEACHER], _STUDENT, candidates)

    @property
    def awaits_features(self) -> bool:
        """Whether the memories are still to be filled with ``remember``."""
        return self._settings.memory_start == "features" and not self.constants

    @torch.no_grad()
    def remember(self, student_features: Tensor, teacher_features: Tensor) -> None:
        """Fill the memories with the projections of all of D_s, (n, f_s) and (n, f_t)."""
        for side, features in ((_STUDENT, student_features), (_TEACHER, teacher_features)):
            self.memory[side] = functional.normalize(self.heads[side](features), dim=1)

    def learn(self, batch: Batch) -> None:
        """Train the projections on the gradients of the last backward pass; update the memories.

        The memories take the projections with which the batch was scored.
        """
        with torch.no_grad():
            projections = self._project(batch)
            for side, memory in self.memory.items():
                old = memory[batch.indices]
                mixed = old.lerp(projections[side].to(old), 1 - self._settings.memory_momentum)
                memory[batch.indices] = functional.normalize(mixed, dim=1)
        self._optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Drop the projections' gradients."""
        self._optimizer.zero_grad()

    def _project(self, batch: Batch) -> dict[str, Tensor]:
        if batch.teacher_features is None:
            raise TypeError("CRD needs the private model's features")
        features = {_STUDENT: batch.features, _TEACHER: batch.teacher_features}
        return {s: functional.normalize(self.heads[s](x), dim=1) for s, x in features.items()}

    def _side(self, anchors: Tensor, other: str, candidates: Tensor) -> Tensor:
        memory = self.memory[other].to(anchors)
        scores = (anchors @ memory.T / self._settings.crd_temperature).gather(1, candidates).exp()
        images = len(memory)
        if other not in self.constants:
            self.constants[other] = float(scores.detach().mean()) * images
        p = scores / self.constants[other]
        c = self._settings.negatives / images
        positive = (p[:, 0] / (p[:, 0] + c + _EPSILON)).log()
        negative = (c / (p[:, 1:] + c + _EPSILON)).log().sum(1)
        return -(positive + negative).mean()

    def state(self) -> dict[str, Any]:
        """Projections, their momentum, memories and normalisation constants."""
        state: dict[str, Any] = {f"constant.{side}": z for side, z in self.constants.items()}
        for name, tensor in self._tensors().items():
            state[name] = tensor.detach().numpy().copy()
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave.

        Raises
        ------
        RunError: an entry is missing or of another shape.
        """
        prefix = "constant."
        self.constants = {
            k.removeprefix(prefix): float(v) for k, v in state.items() if k.startswith(prefix)
        }
        for name, tensor in self._tensors().items():
            if name not in state or tuple(state[name].shape) != tuple(tensor.shape):
                raise RunError(
                    f"the checkpoint's CRD state does not fit: {name} should be of shape "
                    f"{tuple(tensor.shape)}. Resume with the settings, images and private model "
                    "that the run began with"
                )
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(state[name]))

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.heads.named_parameters():
            tensors[f"head.{name}"] = parameter
            tensors[f"momentum.{name}"] = self._optimizer.state[parameter]["momentum_buffer"]
        return tensors | {f"memory.{side}": memory for side, memory in self.memory.items()}
