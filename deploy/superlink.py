"""The SuperLink of a fleet: Flower's own with its own options, and what of it is adapted.

``AUGFLOWER_SUPERLINK_WITHOUT`` names adaptations to leave out, separated by commas, or ``all``;
``AUGFLOWER_SUPERLINK_LARGEST_MESSAGE`` says how many megabytes a device may send at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from common.errors import AugFlowerError, SettingsError
from deploy.adaptation import Adaptation, adapt
from deploy.superlink_adaptations import (
    activation,
    bounds,
    database,
    messages,
    objects,
    polls,
    settings,
    signatures,
)

ADAPTATIONS: tuple[Adaptation, ...] = (
    activation.ADAPTATION,
    bounds.ADAPTATION,
    database.ADAPTATION,
    messages.ADAPTATION,
    objects.ADAPTATION,
    settings.ADAPTATION,
    signatures.ADAPTATION,
    polls.ADAPTATION,
)
WITHOUT = "AUGFLOWER_SUPERLINK_WITHOUT"


def chosen(environment: Mapping[str, str] = os.environ) -> list[Adaptation]:
    """The adaptations that are not left out.

    Raises
    ------
    SettingsError: one to be left out does not exist.
    """
    left_out = {name for name in environment.get(WITHOUT, "").replace(" ", "").split(",") if name}
    known = {adaptation.name for adaptation in ADAPTATIONS} | {"all"}
    if unknown := sorted(left_out - known):
        raise SettingsError(
            f"{WITHOUT} names {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    if "all" in left_out:
        return []
    return [adaptation for adaptation in ADAPTATIONS if adaptation.name not in left_out]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m deploy.superlink``: the options of ``flower-superlink``."""
    try:
        adapt(chosen())
    except AugFlowerError as error:
        sys.exit(f"error: {error}")
    from flwr.superlink.cli.flower_superlink import flower_superlink

    # Flower reads its options from here, and says them in its help.
    sys.argv = ["flower-superlink", *(sys.argv[1:] if arguments is None else arguments)]
    flower_superlink()


if __name__ == "__main__":
    main()
