"""Every error that AugFlower raises on purpose.

    AugFlowerError
    ├── SettingsError   a setting is unknown, of the wrong type or out of bounds
    ├── DataError       a data set, folder, image or label is not what it must be
    ├── ModelError      a model, checkpoint or architecture cannot be used
    │   └── MemoryLackError     an accelerator has too little memory
    ├── FileError       a file cannot be written; an OSError as well
    ├── WireError       a message does not fit its contract
    ├── FleetError      a node, a process or a connection failed
    └── RunError        a run cannot go on, or cannot be resumed
        └── DivergedError   its model is lost

Each message names the thing that is wrong and the way out.
"""

import difflib
from collections.abc import Sequence


class AugFlowerError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback."""


class SettingsError(AugFlowerError):
    """A setting is unknown, of the wrong type or out of bounds."""


class DataError(AugFlowerError):
    """A data set, folder, image or label is not what it must be."""


class ModelError(AugFlowerError):
    """A model, checkpoint or architecture cannot be used."""


class MemoryLackError(ModelError):
    """An accelerator has too little memory for a model and its batch."""


class FileError(AugFlowerError, OSError):
    """A file cannot be written; made, like an OSError, of its number, its reason and the path."""

    def __str__(self) -> str:
        return (
            f"cannot write {self.filename}: {self.strerror}; name another place, or mend this one"
        )


class WireError(AugFlowerError):
    """A message does not fit its contract.

    Attributes
    ----------
    field: the part that does not.
    excessive: whether it is a number that is too large or not finite.
    """

    def __init__(self, message: str, field: str = "", excessive: bool = False) -> None:
        super().__init__(message)
        self.field = field
        self.excessive = excessive


class FleetError(AugFlowerError):
    """A node, a process or a connection failed."""


class RunError(AugFlowerError):
    """A run cannot go on, or cannot be resumed."""


class DivergedError(RunError):
    """The model of a run is lost: its loss has grown out of all bounds."""


def unknown_model(what: str, name: str, known: Sequence[str]) -> ModelError:
    """The error to raise for a name that nobody knows, with those that are near."""
    near = difflib.get_close_matches(name, known, n=4) or known[:4]
    return ModelError(f"{what}; near: {', '.join(near) or 'none'}")
