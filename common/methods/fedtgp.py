"""FedTGP (Zhang et al., AAAI 2024): what crosses the wire."""

from common.prototypes import Down, Up

__all__ = ["Down", "Up"]
