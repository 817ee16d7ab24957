"""Contract: what a node tells the server before it takes part."""

from dataclasses import dataclass
from typing import Annotated

from common.contract import Between, Count, Positive


@dataclass(frozen=True)
class Down:
    """A request to introduce oneself."""

    run: str  # name of the run, for the node's log
    token: str  # of this run; what an earlier run of that name left on the device is not its own
    parameters: int  # size d of the model that the server will send
    narrowest: float  # width of the network of which a step is to be timed; 0: of none
    batch: int  # images of that step
    backbone: str  # SHA-256 of what of the model nobody trains; empty if all of it is trained


@dataclass(frozen=True)
class Up:
    """A node introduces itself."""

    role: str  # "source": trains; "target": only adapts and is evaluated
    clients: list[int]  # numbers of the clients that this node plays; a device plays one
    support: int  # images to adapt on, over all its clients
    query: int  # images to evaluate the adaptation on
    test: int  # images that nobody learns from
    architecture: str  # of the model that it keeps for itself, in methods that have one
    classes: list[str]  # class names, in the order of the labels
    parameters: int  # size d of the model that this node has built
    plan: str  # digest of the partition, empty for a device's own folder
    release: str  # AugFlower's version
    width: Annotated[float, Between(0, 1)]  # of the network that its operator lets it train; 0: any
    free_memory: Count  # bytes; 0 if it was not asked, or the system does not say
    step_seconds: Positive  # of the step that was to be timed; 0 if none was
