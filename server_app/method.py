"""What every server half is: the shell drives any method through this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from common.config import Settings
from common.tensors import Tensors

State = tuple[dict[str, Tensors], dict[str, Any]]
"""Named tensors and JSON-able notes: all that a method needs to go on bit for bit."""


class Knowledge(Protocol):
    """The regularizer R_h(theta, theta_p), which holds the private model."""

    @property
    def distance_weight(self) -> float | None:
        """w where R_h is w ||theta - theta_c||^2 and nothing else; None where it is not."""

    def gradient(self, vector: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Gradient at flat parameters, shape (d,), and the named terms of the loss."""

    def curvature(self, vector: torch.Tensor, gradient: torch.Tensor) -> float:
        """Secant curvature along ``gradient``, on the batch of the last ``gradient`` call."""

    def state(self) -> dict[str, Any]:
        """All that is needed to go on: arrays, numbers, strings, nested."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""


@dataclass(frozen=True)
class Setup:
    """What a server half starts from.

    Attributes
    ----------
    model: initial parameters theta^0, shape (d,).
    buffers: initial BatchNorm statistics and the like; may be empty.
    seed: the run's.
    knowledge: R_h, where the method uses one.
    secret: of the run, for what devices must not foresee; never part of a message.
    """

    model: Tensors
    buffers: Tensors = field(default_factory=lambda: Tensors((), {}))
    seed: int = 0
    knowledge: Knowledge | None = None
    secret: bytes = field(default=b"", repr=False)


class Method(Protocol):
    """A server half: ``Server`` in ``server_app/methods/<m>.py``, built as Server(settings, setup).

    A round is ``broadcast`` for each node asked; for each reply, in a fixed order of nodes,
    ``offer``, and ``absorb`` if it is admitted; and then one of ``step``, ``discard`` and
    ``go_back``.
    """

    model: Tensors
    buffers: Tensors

    @property
    def loss(self) -> float:
        """Of the model, as told by the replies taken in since the last step; NaN without any."""

    @property
    def lost(self) -> float:
        """Times the loss of the first round at which the run goes back to its best model."""

    def enrol(self, node: int, examples: int) -> None:
        """A source node has introduced itself, or has done so again."""

    def leave(self, nodes: Sequence[int]) -> None:
        """Source nodes are gone for long; a reply of one that is back may still come."""

    def broadcast(self, round: int, node: int) -> Any:
        """This round's Down for one node."""

    def offer(self, node: int, up: Any) -> dict[str, float]:
        """Look at a reply that may be bad; gives sizes by field, to compare with what is usual.

        Raises
        ------
        Rejected: the method cannot use it.
        """

    def absorb(self, node: int, up: Any) -> None:
        """Take in one admitted reply; nothing is final before ``step``."""

    def step(self, round: int) -> dict[str, float]:
        """The global update; returns what is worth recording."""

    def discard(self) -> None:
        """Forget the replies of a round that is void."""

    def go_back(self, model: Tensors, buffers: Tensors, blamed: bool) -> bool:
        """Forget the replies of this round and return to an earlier model.

        Parameters
        ----------
        blamed: whether the nodes that may have spoiled the model since are set aside.

        Returns
        -------
        Whether the method goes on more carefully, so that it may now succeed by itself.
        """

    def state(self) -> State:
        """All that is needed to go on, without the knowledge's own state."""

    def load_state(self, state: State) -> None:
        """Take up what ``state`` gave."""


class MethodSettings(Settings):
    """Base of a method's settings."""

    @property
    def uses_knowledge(self) -> bool:
        """Whether the method needs R_h with these settings."""
        return False

    @property
    def adaptation_rate(self) -> float | None:
        """Rate of the adaptation that the method trains its model for; None if for none."""
        return None
