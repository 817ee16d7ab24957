"""FedDistill, federated distillation (Jeong et al., 2018): what crosses the wire."""

from dataclasses import dataclass

from common.contract import Result, Work
from common.sgd import LocalSgd
from common.tensors import Tensors


@dataclass(frozen=True)
class Down(Work):
    """One round's work; the seed is also that of an own model that is new."""

    logits: Tensors  # mean for the images of each class that has one, by label, shape (classes,)
    pull: float  # lambda
    sgd: LocalSgd


@dataclass(frozen=True)
class Up(Result):
    """One client's result; the loss is its cross-entropy in training."""

    logits: Tensors  # mean for the images of each of its classes, by label, shape (classes,)
