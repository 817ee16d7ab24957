"""Public model architectures."""

from common.models.build import MODELS, build, features_and_logits, register
from common.models.flat import FlatModel

__all__ = ["MODELS", "FlatModel", "build", "features_and_logits", "register"]
