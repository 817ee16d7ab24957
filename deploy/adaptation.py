"""A change to Flower from outside, for functions that are letter for letter the known ones."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_log = logging.getLogger("augflower")


@dataclass(frozen=True)
class Adaptation:
    """What is changed in a process that has not started its servers yet.

    Attributes
    ----------
    name: one word, by which it is switched off.
    loss: what is lost without it, as a clause.
    fingerprints: SHA-256 of the source of each function that is changed or relied upon, by name.
    functions: gives these functions, by the same names; imports Flower.
    apply: makes the change; once a process.
    """

    name: str
    loss: str
    fingerprints: Mapping[str, str]
    functions: Callable[[], Mapping[str, Any]]
    apply: Callable[[], None]

    def differences(self) -> list[str]:
        """Names of the functions whose source is not the known one."""
        return changed(self.functions(), self.fingerprints)


def adapt(adaptations: Iterable[Adaptation]) -> None:
    """Make each change for which Flower is the known one, and say which are not made."""
    # All are compared before any is made: two may change the same function.
    compared = [(adaptation, adaptation.differences()) for adaptation in adaptations]
    for adaptation, found in compared:
        if found:
            _log.warning(
                "Flower's %s differ from those of flwr 1.39.0: without the adaptation %r, %s",
                ", ".join(found),
                adaptation.name,
                adaptation.loss,
            )
        else:
            adaptation.apply()


def changed(functions: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
    """Names of those ``functions`` whose source has another SHA-256 than ``fingerprints`` say."""
    return [
        name for name, function in functions.items() if fingerprint(function) != fingerprints[name]
    ]


def fingerprint(function: Any) -> str:
    """SHA-256 of the source of a function or class."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()
