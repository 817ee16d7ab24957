"""Cross-entropy of the student on the labels of D_s."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from server_app.knowledge.terms.batch import Batch


class CrossEntropy:
    """Mean over the batch of -log softmax(logits)[label]."""

    def __call__(self, batch: Batch) -> Tensor:
        """The value for labelled images."""
        if batch.labels is None:
            raise TypeError("cross-entropy needs labels")
        return functional.cross_entropy(batch.logits, batch.labels)
