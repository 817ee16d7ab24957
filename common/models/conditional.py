"""Networks whose features are changed before the head, by what is known of client and classes."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import parts


class Valve(nn.Module):
    """GPFL's conditional valve (arXiv 2308.10279, equations (5) and (6)).

    ReLU((gamma(c) + 1) f + beta(c)), with gamma and beta of a context c, shape (K,).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = (
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)) for _ in range(2)
        )

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        """Features, shape (n, K)."""
        return torch.relu((self.gamma(context) + 1) * features + self.beta(context))


class Guided(nn.Module):
    """GPFL's network: a classifier, embeddings of the classes, and the valve between.

    Attributes
    ----------
    classes: embeddings e_c that all share, shape (C, K).
    shares: of a client's images by class, shape (C,); no buffer, for those travel.
    fixed: the embeddings that contexts are made of, shape (C, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        head = parts.head(network)
        self.network = network
        self.classes = nn.Parameter(torch.randn(head.out_features, head.in_features))
        self.valve = Valve(head.in_features)
        self.hold(torch.full((head.out_features,), 1 / head.out_features))

    def hold(self, shares: Tensor) -> None:
        """Contexts are made of the embeddings as they are now, and of these shares of classes."""
        self.shares = shares
        self.fixed = self.classes.detach().clone()

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """f_G and f_P, shape (n, K): features under the global and the personal context."""
        body, _ = parts.split(self.network)
        features = body(images)
        contexts = self.fixed.mean(0), self.shares @ self.fixed
        general, personal = (self.valve(features, context) for context in contexts)
        return general, personal

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the personal features, shape (n, C)."""
        logits: Tensor = parts.head(self.network)(self.both(images)[1])
        return logits


class Shifted(nn.Module):
    """FedDBE's network (arXiv 2311.14975): head(body(x) + bias), the bias being a client's own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.bias = nn.Parameter(torch.zeros(parts.feature_size(network)))

    def features(self, images: Tensor) -> Tensor:
        """Of the body, without the bias, shape (n, K)."""
        found: Tensor = parts.split(self.network)[0](images)
        return found

    def logits(self, features: Tensor) -> Tensor:
        """Shape (n, C)."""
        logits: Tensor = parts.head(self.network)(features + self.bias)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n, C)."""
        return self.logits(self.features(images))


class Policy(nn.Module):
    """FedCP's conditional policy network: how much of each feature is personal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        """Shape (n, K), from 0 to 1; soft Gumbel samples of temperature 1 in training."""
        pairs = self.layers(inputs).unflatten(1, (2, inputs.shape[1]))
        if self.training:
            return F.gumbel_softmax(pairs, tau=1.0, dim=1)[:, 1]
        return F.softmax(pairs, dim=1)[:, 1]


class Separated(nn.Module):
    """FedCP's network: two heads, each of which sees its share of every feature.

    Attributes
    ----------
    network: the classifier with the personal head.
    general: the global head, which training leaves as it is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        head = parts.head(network)
        self.network = network
        self.general = copy.deepcopy(head)
        self.policy = Policy(head.in_features)

    def features(self, images: Tensor) -> Tensor:
        """Of the body, shape (n, K)."""
        found: Tensor = parts.split(self.network)[0](images)
        return found

    def logits(self, features: Tensor) -> Tensor:
        """h_i(s f) + h_g((1 - s) f) with s of the policy, shape (n, C)."""
        head = parts.head(self.network)
        context = F.normalize(head.weight.detach().sum(0), dim=0)
        share = self.policy(features * context)
        logits: Tensor = head(share * features) + self.general((1 - share) * features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n, C)."""
        return self.logits(self.features(images))
