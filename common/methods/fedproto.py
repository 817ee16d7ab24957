"""FedProto (Tan et al., AAAI 2022): what crosses the wire."""

from common.prototypes import Down, Up

__all__ = ["Down", "Up"]
