"""What a method is told of a node that has introduced itself."""

from common import enrolment
from common.capacity import Measured
from server_app.method import Source


def source(examples: int, told: enrolment.Up) -> Source:
    """A client with this number of images that count."""
    measured = Measured(told.free_memory, told.step_seconds)
    return Source(examples, told.architecture, told.width, measured)
