"""Public model architectures."""

from common.models.flat import FlatModel
from common.models.parts import features_and_logits
from common.models.zoo import MODELS, build, register

__all__ = ["MODELS", "FlatModel", "build", "features_and_logits", "register"]
