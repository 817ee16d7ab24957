"""LoRA with ranks by device, the server's half: what becomes of factors of unlike ranks.

Client i trains the first r_i ranks of A (r x in) and B (out x r), and W + s B A is what they mean.
With p_i its share of the images, the new factors are, by ``average``:

coverage  rank by rank the means over those that have it (raFLoRA, arXiv 2602.13486); where all
          ranks are the same, FedIT (arXiv 2305.05644)
zeros     the means over all, in which a missing rank counts as zero, so that the higher ranks
          shrink from round to round; for comparison
product   B = U S and A = V^T of the largest ranks of sum_i p_i B_i A_i (FlexLoRA,
          arXiv 2402.11505): exact but for the ranks that are cut off

Means of factors are not the factors of the mean: ``aggregation_error`` of the record is
||B A - sum_i p_i B_i A_i|| / ||sum_i p_i B_i A_i|| over all layers. What else is trained, such as
the head, is averaged as in FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from common.errors import SettingsError
from common.methods.lora import Down, Up
from common.sgd import LocalSgd
from common.tensors import Tensors
from server_app.aggregation.expected import Expected, Part, Where
from server_app.families.averaging import Averaging
from server_app.method import MethodSettings, Replies, Setup

Matrix = NDArray[np.float64]
_A, _B = ".a", ".b"


class Settings(MethodSettings):
    """How factors are averaged, who has which rank, and local SGD."""

    average: Literal["coverage", "zeros", "product"] = Field(
        "product", description="Of the factors: rank by rank, with zeros, or of their products."
    )
    ranks: str = Field(
        "",
        pattern=r"^(\d+(,\d+)*)?$",
        description="Of the clients, in turn; empty: that of the model.",
    )
    sgd: LocalSgd = LocalSgd(batch_size=10)


class Server(Averaging):
    """Slices of the factors, and their average."""

    down, up = Down, Up
    collects = frozenset({"change"})

    def __init__(self, settings: Settings, setup: Setup) -> None:
        super().__init__(settings, setup)
        tuning = setup.task.tuning if setup.task else None
        if tuning is None or tuning.mode != "lora":
            raise SettingsError(
                "method lora trains models named NAME+lora-N, such as "
                "timm:vit_tiny_patch16_224+lora-8"
            )
        self.rank = tuning.size
        self.ranks = [int(rank) for rank in settings.ranks.split(",") if rank] or [self.rank]
        if not all(1 <= rank <= self.rank for rank in self.ranks):
            raise SettingsError(
                f"lora.ranks={settings.ranks}: ranks are from 1 to that of the model, {self.rank}"
            )

    def rank_of(self, client: int) -> int:
        """What a client trains; the share of a network that its operator has set wins."""
        source = self.sources.get(client)
        if source is not None and source.width:
            return max(1, int(source.width * self.rank))
        return self.ranks[client % len(self.ranks)]

    def broadcast(self, round: int, client: int, **more: Any) -> Down:
        """The first ranks."""
        rank = self.rank_of(client)
        arrays = self.model.unpack()
        sent = {name: array[_first(name, array, rank)] for name, array in arrays.items()}
        return super().broadcast(round, client, model=Tensors.pack(sent), rank=rank, **more)

    def expects(self, client: int) -> Expected:
        """The change of what this client was sent."""
        rank = self.rank_of(client)
        where: Where = {
            name: tuple(
                np.arange(size)[part]
                for size, part in zip(array.shape, _first(name, array, rank), strict=True)
            )
            for name, array in self.model.unpack().items()
        }
        return {"change": Part(self.model.specs, where)}

    def about(self, client: int) -> dict[str, Any]:
        """The rank that it trained."""
        return {"rank": self.rank_of(client)}

    def step(self, round: int, replies: Replies) -> dict[str, float]:
        """The mean of what has no factors, and the average of the factors."""
        changes = replies.each("change")
        total = sum(replies.weight(client) for client in changes)
        shares = {client: replies.weight(client) / total for client in changes}
        arrays = {client: tensors.unpack() for client, tensors in changes.items()}
        new, wrong, whole = dict[str, Any](), 0.0, 0.0
        for name, old in self.model.unpack().items():
            if name.endswith(_B):
                continue
            if not name.endswith(_A):
                mean = np.sum([p * np.asarray(arrays[i][name]) for i, p in shares.items()], 0)
                new[name] = np.asarray(old + mean, np.float32)
                continue
            other = name.removesuffix(_A) + _B
            pairs = [(share, *self._factors(name, other, arrays[i])) for i, share in shares.items()]
            a, b = self._average(pairs, old, self.model.unpack()[other])
            new[name], new[other] = a.astype(np.float32), b.astype(np.float32)
            meant = sum(share * right @ left for share, left, right in pairs)
            wrong += float(np.square(b @ a - meant).sum())
            whole += float(np.square(meant).sum())
        before = self.model.vector
        self.model = Tensors.pack({name: new[name] for name, _, _ in self.model.specs})
        return {
            "step_norm": float(np.linalg.norm(self.model.vector - before)),
            "aggregation_error": (wrong / whole) ** 0.5 if whole else 0.0,
        }

    def _factors(self, a: str, b: str, change: Mapping[str, Any]) -> tuple[Matrix, Matrix]:
        """Of a client after training, A (r_i, in) and B (out, r_i)."""
        now = self.model.unpack()
        rank = len(change[a])
        return (
            now[a][:rank].astype(np.float64) + change[a],
            now[b][:, :rank].astype(np.float64) + change[b],
        )

    def _average(
        self, pairs: list[tuple[float, Matrix, Matrix]], a: Any, b: Any
    ) -> tuple[Matrix, Matrix]:
        """New A and B, of the shapes of the old ones."""
        if self.settings.average == "product":
            return _truncated(pairs, a)
        padded = [
            np.concatenate([share * left, share * right.T], 1) for share, left, right in pairs
        ]
        rows, held = np.zeros((len(a), a.shape[1] + len(b))), np.zeros((len(a), 1))
        for (share, left, _), part in zip(pairs, padded, strict=True):
            rows[: len(left)] += part
            held[: len(left)] += share
        if self.settings.average == "coverage":
            old = np.concatenate([a, b.T], 1)
            rows = np.where(held > 0, rows / np.where(held > 0, held, 1), old)
        return rows[:, : a.shape[1]], rows[:, a.shape[1] :].T


def _truncated(pairs: list[tuple[float, Matrix, Matrix]], old: Matrix) -> tuple[Matrix, Matrix]:
    """A, of the shape of the old one, and B of the best approximation of sum_i p_i B_i A_i.

    Through triangular factors of the stacked ones, so that no matrix is larger than they are.
    """
    rank = len(old)
    left = np.concatenate([a for _, a, _ in pairs])
    right = np.concatenate([share * b for share, _, b in pairs], 1)
    q_right, r_right = np.linalg.qr(right)
    q_left, r_left = np.linalg.qr(left.T)
    u, s, v = np.linalg.svd(r_right @ r_left.T, full_matrices=False)
    a, b = v[:rank] @ q_left.T, q_right @ (u[:, :rank] * s[:rank])
    # Fewer ranks than there may be: the others stay, with no part in the product.
    return np.concatenate([a, old[len(a) :]]), np.pad(b, ((0, 0), (0, rank - len(a))))


def _first(name: str, array: NDArray[Any], rank: int) -> tuple[slice, ...]:
    """The part of a tensor that a client of this rank has."""
    whole = tuple(slice(None) for _ in array.shape)
    if name.endswith(_A):
        return (slice(rank), *whole[1:])
    return (*whole[:-1], slice(rank)) if name.endswith(_B) else whole
