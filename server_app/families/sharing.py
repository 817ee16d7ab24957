"""The server half of methods whose clients share a part of a network and own the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from common.models import FlatModel
from common.models.seeded import seeded
from common.tensors import Tensors
from server_app.aggregation.expected import Exactly, Expected, Vector
from server_app.families.averaging import Averaging
from server_app.method import Replies, Saved, Setup


class Sharing(Averaging):
    """phi <- phi + sum_i n_i (phi_i - phi) / sum_i n_i, over the shared part phi alone.

    Nobody has a whole global model: each client's network is phi and what it keeps of its own.

    Attributes
    ----------
    network: phi and, in the place of a client's own part, that with which all clients begin.
    own: names of the parameters and buffers that are each client's own.
    """

    personal = True
    network: Saved[Tensors]

    def __init__(self, settings: Any, setup: Setup) -> None:
        super().__init__(settings, setup)
        assert setup.task is not None
        run = FlatModel(setup.task.build())
        run.load_tensors(setup.model)
        run.load_buffers(setup.buffers)
        whole = FlatModel(seeded(lambda: self.extend(run.module), setup.seed))
        self.own = with_buffers(whole.module, self.keeps(whole.module))
        self.network, self.buffers = whole.parameters, whole.buffers
        self.model = None  # type: ignore[assignment]

    def extend(self, network: nn.Module) -> nn.Module:
        """The network that clients train, by default the run's."""
        return network

    def keeps(self, module: nn.Module) -> set[str]:
        """Names of the parameters that clients keep to themselves."""
        raise NotImplementedError

    def broadcast(self, round: int, client: int, **more: Any) -> Any:
        """The network, and which part of it a client replaces by its own."""
        return super().broadcast(round, client, **{"model": self.network, **more})

    def expects(self, client: int) -> Expected:
        """A change of the shared part, and its statistics."""
        shared, buffers = (
            tuple(spec for spec in tensors.specs if spec[0] not in self.own)
            for tensors in (self.network, self.buffers)
        )
        return {"change": Vector(shared), "buffers": Exactly(buffers)}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """Add the weighted average of the changes to the shared part."""
        change = replies.average("change")
        shared = self.network.only({spec[0] for spec in change.specs})
        self.network = self.network.merged(shared.with_vector(shared.vector + change.vector))
        self.buffers = replies.averaged("buffers", self.buffers)
        return {"step_norm": float(np.linalg.norm(change.vector))}


def with_buffers(module: nn.Module, names: set[str]) -> list[str]:
    """These parameters and the buffers of the layers that they belong to, sorted."""
    layers = {name.rpartition(".")[0] for name in names}
    buffers = {name for name, _ in module.named_buffers() if name.rpartition(".")[0] in layers}
    return sorted(names | buffers)
