"""What a network of a width costs a device, and which width a device can hold.

    memory(w)  = 24 P(w) + batch a(w)          at most 0.6 of what is free
    seconds(w) = steps t(w_min) f(w) / f(w_min)   at most 0.5 of the deadline

P are the parameters, of which a device has six times four bytes: the network, its gradient, the
start and the moving point of local SGD, its velocity, and the message that brought it. a is what
one image saves for the backward pass, f the operations of a forward pass, both counted; t is one
step of the smallest network, timed on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.task import Task, hollow

BYTES = 24
"""Of memory for a parameter that is trained."""

MEMORY_SHARE = 0.6
"""Of the free memory that training may take."""

TIME_SHARE = 0.5
"""Of a round's deadline that training may last."""


@dataclass(frozen=True)
class Cost:
    """What a network of one width costs.

    Attributes
    ----------
    parameters: that travel and are trained.
    activations: bytes that one image saves for the backward pass.
    operations: of one image's forward pass.
    """

    width: float
    parameters: int
    activations: int
    operations: int

    def memory(self, batch: int) -> int:
        """Bytes that training takes with ``batch`` images a step."""
        return BYTES * self.parameters + batch * self.activations


@dataclass(frozen=True)
class Measured:
    """What a device has measured of itself.

    Attributes
    ----------
    free_memory: bytes; 0 where the system does not say.
    step_seconds: of one step of the smallest network; 0 if it was not timed.
    """

    free_memory: int = 0
    step_seconds: float = 0.0


@dataclass(frozen=True)
class Load:
    """A round's work: images a step, steps, and the deadline in seconds; 0 for none."""

    batch: int
    steps: int
    deadline: float = 0.0


def cost(task: Task, width: float) -> Cost:
    """Counted on one image, without memory for the weights: nothing is computed.

    Raises
    ------
    ModelError: the network cannot be cut.
    """
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        kept.append(tensor)  # an id is of something that lives
        return tensor

    network = hollow(task, width).train()
    with torch.device("meta"):
        image = torch.zeros(2, task.channels, task.image_size, task.image_size)
        kept: list[Tensor] = []
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            FlopCounterMode(display=False) as counter,
        ):
            network(image)
    weights = sum(parameter.numel() for parameter in network.parameters())
    own = {id(p.untyped_storage()) for p in (*network.parameters(), *network.buffers())}
    activations = sum(size for storage, size in saved.items() if storage not in own)
    return Cost(width, weights, activations // 2, counter.get_total_flops() // 2)


def widest(costs: Sequence[Cost], measured: Measured, load: Load) -> tuple[float, str]:
    """The largest width that a device can hold and train in time, and why it is that one.

    Parameters
    ----------
    costs: of all widths that there are. The smallest is taken where not even that one fits.
    """
    ordered = sorted(costs, key=lambda each: -each.width)
    smallest, reasons = ordered[-1], list[str]()
    if not measured.free_memory and not measured.step_seconds:
        return ordered[0].width, "nothing was measured"
    for each in ordered:
        memory = each.memory(load.batch)
        seconds = load.steps * measured.step_seconds * each.operations / smallest.operations
        within = MEMORY_SHARE * measured.free_memory
        problem = ""
        if measured.free_memory and memory > within:
            problem = f"{each.width:g} takes {_size(memory)} of {_size(measured.free_memory)} free"
        elif load.deadline and seconds > TIME_SHARE * load.deadline:
            problem = f"{each.width:g} takes {seconds:.3g} s of {load.deadline:g} s"
        if not problem:
            told = f"{_size(memory)} of {_size(measured.free_memory)} free, {seconds:.3g} s a round"
            return each.width, "; ".join([*reasons, told])
        reasons.append(problem)
    return smallest.width, "; ".join([*reasons, "the smallest there is"])


def _size(count: float) -> str:
    return f"{count / 2**20:.3g} MiB" if count < 2**30 else f"{count / 2**30:.3g} GiB"
