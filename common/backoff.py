"""How soon Flower asks again for a part of a message that is still on its way.

Messages travel in parts, and their heads are visible before all parts have arrived. Flower 1.39
waits 1, 2, 4 ... 10 seconds then, while parts of small models arrive within milliseconds; a process
that looks often meets this in every other round. The waits are default values of two functions.
"""

from __future__ import annotations

FIRST = 0.03
LONGEST = 0.5
"""Seconds before the second look, and between two looks at most."""


def shorten_backoff() -> bool:
    """Shorten the waits in this process; False, and no change, where Flower differs."""
    from flwr.supercore.inflatable import inflatable_utils

    values = {"initial_backoff": FIRST, "backoff_cap": LONGEST, "max_tries_per_object": None}
    defaults = [
        inflatable_utils.pull_objects.__kwdefaults__ or {},
        inflatable_utils.pull_and_inflate_object_from_tree.__kwdefaults__ or {},
    ]
    if any(not values.keys() <= found.keys() for found in defaults):
        return False
    for found in defaults:
        # Without a limit of tries, Flower's limit of time (two hours) is what ends the waiting.
        found.update(values)
    return True
