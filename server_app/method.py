"""What every server half is: mathematics over a declared state.

The shell drives any method through ``Method``. It adds up the replies, keeps the rest of each,
decides whether a round counts, writes checkpoints and takes them up again; a method says what it
sends, what may come, and how the state moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from common.capacity import Measured
from common.config import Settings
from common.errors import RunError
from common.task import Task
from common.tensors import Tensors
from server_app.aggregation.expected import Expected
from server_app.aggregation.replies import EMPTY, Replies
from server_app.saved import Saved, declared

WORSE = 3.0
"""Times the loss that the run began with, or 1 nat where it began with less."""

LOST = 100.0
"""Times that loss: nothing is left that could come back by itself."""


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


class Generator(Protocol):
    """A generator of images, which stays at the server."""

    @property
    def noise(self) -> int:
        """Numbers that it takes."""

    def latents(self, noise: torch.Tensor) -> torch.Tensor:
        """Shape (n, l), of normal noise (n, noise)."""

    def images(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (n, channels, size, size) as the clients' models take theirs."""


@dataclass(frozen=True)
class Setup:
    """What a server half starts from.

    Attributes
    ----------
    model: initial parameters theta^0 of the run's network, shape (d,).
    buffers: its initial BatchNorm statistics and the like; may be empty.
    seed: the run's.
    task: what must be known to build another network for it.
    knowledge: R_h, where the method uses one.
    generator: of images, where the method uses one.
    secret: of the run, for what devices must not foresee; never part of a message.
    deadline: of a round, seconds; 0 for none.
    """

    model: Tensors
    buffers: Tensors = EMPTY
    seed: int = 0
    task: Task | None = None
    knowledge: Knowledge | None = None
    generator: Generator | None = None
    secret: bytes = field(default=b"", repr=False)
    deadline: float = 0.0


@dataclass(frozen=True)
class Source:
    """What the server knows of a client that trains.

    Attributes
    ----------
    examples: images that it may train on.
    architecture: of the model that it keeps for itself, in methods that have one.
    width: share of the network that its operator lets it train; 0 if nobody has said.
    measured: what it has measured of itself, where the method asks for that.
    """

    examples: int
    architecture: str = ""
    width: float = 0.0
    measured: Measured = field(default_factory=Measured)


@runtime_checkable
class Briefed(Protocol):
    """A part of a method's state that another machine must know to look at replies."""

    def brief(self, clients: Sequence[int]) -> dict[str, Any]:
        """What it must know of these clients; JSON."""

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Know it."""

    def finding(self, client: int, up: Any) -> list[float]:
        """What a look at a reply has found in its tensors; nothing if it looks for nothing."""

    def take_finding(self, client: int, up: Any, found: Sequence[float]) -> None:
        """It was found elsewhere; raises ``Rejected`` if it cannot have been."""


class MethodSettings(Settings):
    """Base of a method's settings."""

    @property
    def uses_knowledge(self) -> bool:
        """Whether the method needs R_h with these settings."""
        return False

    @property
    def uses_generator(self) -> bool:
        """Whether the method needs a generator of images with these settings."""
        return False

    @property
    def adaptation_rate(self) -> float | None:
        """Rate of the adaptation that the method trains its model for; None if for none."""
        return None


class Method:
    """Base of a server half: ``Server`` in ``server_app/methods/<m>.py``.

    A round is ``begin``; ``broadcast`` for each client asked; for each reply ``expects``, and
    ``check`` if it fits; and then ``step``, unless too few replies were accepted, or ``go_back``,
    if the model is lost. Nothing else may change what is declared ``Saved``, but for ``enrol``,
    ``late`` and ``leave``.

    Attributes
    ----------
    down, up: the contract, by which clients are asked and answer; None if no client trains.
    personal: whether a client uses another model than the global one; its half then says which.
    collects: fields of tensors that ``step`` needs one by one, not as a sum.
    model, buffers: the global model; None where models are the clients' own.
    sources: client -> what is known of it.
    """

    down: ClassVar[type | None] = None
    up: ClassVar[type | None] = None
    personal: ClassVar[bool] = False
    collects: frozenset[str] = frozenset()

    model: Saved[Tensors | None]
    buffers: Saved[Tensors]

    def __init__(self, settings: Any, setup: Setup) -> None:
        self.settings = settings
        self.setup = setup
        self.model = setup.model
        self.buffers = setup.buffers
        self.sources: dict[int, Source] = {}

    def enrol(self, client: int, source: Source) -> None:
        """A client that trains has introduced itself, or has done so again."""
        self.sources[client] = source

    @property
    def timed(self) -> tuple[float, int] | None:
        """Width and images of a step that devices time when they introduce themselves, if any."""
        return None

    def late(self, clients: Sequence[int]) -> None:
        """These clients have not answered within the deadline of a round, which is over."""

    def served(self, client: int, source: Source) -> tuple[Tensors | None, Tensors, float]:
        """The global model, its buffers and their width, as this client is to evaluate it."""
        return self.model, self.buffers, 1.0

    def about(self, client: int) -> dict[str, Any]:
        """What the record is to have on a client that trains, beside its reply."""
        return {}

    def leave(self, clients: Sequence[int]) -> None:
        """Clients are gone for long; a reply of one that is back may still come."""

    def go_back(self, model: Tensors | None, buffers: Tensors, blamed: bool) -> bool:
        """Return to an earlier model.

        Parameters
        ----------
        blamed: whether the clients that may have spoiled the model since are set aside.

        Returns
        -------
        Whether the method goes on more carefully, so that it may now succeed by itself.
        """
        self.model, self.buffers = model, buffers
        return False

    @property
    def lost(self) -> float:
        """Times the loss of the first round at which the run goes back to its best model."""
        return LOST

    def begin(self, round: int, clients: Sequence[int]) -> None:
        """These clients are about to be asked."""

    def broadcast(self, round: int, client: int, **more: Any) -> Any:
        """This round's ``Down`` for one client: by name from ``more``, settings and attributes.

        Its seed is the run's, the same for all; a device makes its own of it (``common/seeds.py``).

        Raises
        ------
        RunError: a field of it is in none of them.
        """
        assert self.down is not None
        values = {"round": round, "seed": self.setup.seed, **more}
        for name in (part.name for part in fields(self.down)):
            if name not in values:
                holder = self.settings if name in type(self.settings).model_fields else self
                if not hasattr(holder, name):
                    raise RunError(
                        f"{type(self).__module__}: {name} of its Down is neither a setting nor an "
                        "attribute of its server half; give it to broadcast by name"
                    )
                values[name] = getattr(holder, name)
        return self.down(**values)

    def expects(self, client: int) -> Expected:
        """What each field of tensors of a reply may hold."""
        return {}

    def weight(self, client: int, up: Any) -> float:
        """What a reply counts for in means."""
        return float(up.examples)

    def factor(self, client: int, up: Any) -> float:
        """What the tensors of a reply count for in sums."""
        return self.weight(client, up)

    def check(self, client: int, up: Any, sizes: dict[str, float]) -> dict[str, float]:
        """Look at a reply that may be bad; gives sizes to compare with what is usual.

        Parameters
        ----------
        sizes: of its fields of tensors, as ``Replies.offer`` gives them.

        Raises
        ------
        Rejected: the method cannot use it.
        """
        return sizes

    def brief(self, clients: Sequence[int]) -> dict[str, Any]:
        """What another machine must know to look at replies of these clients as this one does.

        Beside the settings: what ``expects``, ``weight``, ``factor`` and ``check`` of them need.
        Parts of what is declared that are ``Briefed`` say it themselves.
        """
        return {name: part.brief(clients) for name, part in self._briefed()}

    def take_brief(self, notes: Mapping[str, Any]) -> None:
        """Look at replies by what ``brief`` gave, which has been JSON since, elsewhere."""
        for name, part in self._briefed():
            part.take_brief(notes[name])

    def finding(self, client: int, up: Any) -> dict[str, list[float]]:
        """What a look has found in a reply's tensors and ``step`` needs, by part."""
        return {name: part.finding(client, up) for name, part in self._briefed()}

    def take_finding(self, client: int, up: Any, found: Mapping[str, Sequence[float]]) -> None:
        """A look has found this elsewhere, in a reply that is here without its tensors.

        Raises
        ------
        Rejected: that is nothing which it can have found.
        """
        for name, part in self._briefed():
            part.take_finding(client, up, found.get(name, ()))

    def _briefed(self) -> list[tuple[str, Briefed]]:
        parts = ((name, getattr(self, name)) for name in declared(type(self)))
        return [(name, part) for name, part in parts if isinstance(part, Briefed)]

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """The global update; returns what is worth recording beside the mean loss."""
        raise NotImplementedError


__all__ = [
    "Generator",
    "Knowledge",
    "Method",
    "MethodSettings",
    "Replies",
    "Saved",
    "Setup",
    "Source",
]
