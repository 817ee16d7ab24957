"""Local: every client trains alone. What crosses the wire is how, and where it begins."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work."""

    model: Tensors  # theta^0, for a client that has no model yet, shape (d,)
    buffers: Tensors  # likewise
    own: list[str]  # names of all of them
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """Nothing but the loss."""
