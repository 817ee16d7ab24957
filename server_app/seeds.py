"""Seeds that depend on what they are for, and on nothing else."""

import hashlib


def seed_for(*parts: object) -> int:
    """A 63-bit seed from the run's seed, a round, a node: the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
