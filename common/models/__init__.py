"""Public model architectures."""

from common.models.build import MODELS, build, register
from common.models.flat import FlatModel
from common.models.parts import features_and_logits

__all__ = ["MODELS", "FlatModel", "build", "features_and_logits", "register"]
