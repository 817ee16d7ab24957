"""The server half that methods without a global model share: clients have models of their own."""

from __future__ import annotations

from typing import Any

from common.task import Task
from server_app.aggregation.expected import Specs
from server_app.aggregation.replies import EMPTY
from server_app.method import Method, Setup


class OwnModels(Method):
    """No global model; what the server keeps instead is the method's to say."""

    personal = True

    def __init__(self, settings: Any, setup: Setup) -> None:
        super().__init__(settings, setup)
        self.model, self.buffers = None, EMPTY

    @property
    def task(self) -> Task:
        """What is learned."""
        assert self.setup.task is not None
        return self.setup.task

    def of_classes(self, width: int) -> Specs:
        """One float32 vector a class, named by its label, as ``class_means`` on devices."""
        return tuple((str(label), (width,), "float32") for label in range(self.task.classes))


class Equally(OwnModels):
    """Tensors of all clients count the same in means, however many images are behind them."""

    def factor(self, client: int, up: Any) -> float:
        """All the same."""
        return 1.0
