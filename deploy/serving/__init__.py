"""The model at work on a device: it answers, is watched, and is replaced by a better one.

Nothing here imports torch but ``graph.py``, which is a process of its own.
"""

from deploy.serving.keeper import Serving
from deploy.serving.model import Answer

__all__ = ["Answer", "Serving"]
