"""FedAvg (McMahan et al., 2017): what crosses the wire."""

from dataclasses import dataclass

from common.tensors import Tensors


@dataclass(frozen=True)
class Down:
    """One round's work."""

    round: int  # t, from 1
    model: Tensors  # theta^t, shape (d,)
    buffers: Tensors  # BatchNorm statistics and the like; may be empty
    lr: float  # learning rate of local SGD
    momentum: float  # of local SGD
    epochs: int  # passes over the local data
    batch_size: int  # images a step; 0 takes all
    seed: int  # of the mini-batches


@dataclass(frozen=True)
class Up:
    """One client's result."""

    round: int  # t, as in Down
    change: Tensors  # theta_i - theta^t, shape (d,)
    buffers: Tensors  # after training
    examples: int  # images trained on; the weight in the average
    loss: float  # mean training loss, nats
