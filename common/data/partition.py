"""How images are divided among clients: pairs of classes, or what flwr-datasets or PFLlib do.

Cyclic pairs are those of AugFL's experiments: user u has the classes 2u and 2u + 1 modulo C,
samples-min to samples-max images of each, and the users are shuffled before the sources are
separated from the targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from common.config import PFLLIB, DataSettings
from common.data.images import Indices
from common.data.own import SERVER
from common.data.pfllib import deal_all
from common.data.random import stream
from common.data.stratify import take
from common.errors import DataError


def divide(labels: Indices, pool: Indices, settings: DataSettings) -> list[Indices]:
    """Divide ``pool`` among the sources, then to the targets.

    Pair partitions take each client's images off the pool, class by class; PFLlib's divide all of
    it. The others first cut the pool in two, by the numbers of sources and targets, then partition
    each part.

    Returns
    -------
    One array of indices a client; no index is in two of them, and some may be in none.

    Raises
    ------
    DataError: too few images of a class or for a client.
    """
    if settings.partition in ("cyclic-pairs", "random-pairs"):
        return _deal_pairs(labels, pool, settings)
    if settings.partition in PFLLIB:
        return deal_all(labels, pool, settings)
    from common.data.partitioners import deal_with_partitioner

    return deal_with_partitioner(labels, pool, settings)


def natural(
    labels: Indices, owners: Indices, settings: DataSettings
) -> tuple[Indices, Indices, list[Indices]]:
    """The private model's images and D_s, of those that are the server's, and each client's.

    Raises
    ------
    DataError: the set has fewer clients, or fewer images of the server, than are asked for.
    """
    wanted, there = settings.sources + settings.targets, int(owners.max()) + 1
    if wanted > there:
        raise DataError(
            f"{settings.name} has {there} clients of its own: lower sources={settings.sources} or "
            f"targets={settings.targets}"
        )
    random = stream(settings.seed, "server")
    pool = np.flatnonzero(owners == SERVER)
    if settings.pretrain_images + settings.server_images > len(pool):
        raise DataError(
            f"{settings.name} has {len(pool)} images for the server: lower pretrain-images="
            f"{settings.pretrain_images} or server-images={settings.server_images}"
        )
    pretrain, pool = take(labels, pool, settings.pretrain_images, random)
    server, _ = take(labels, pool, settings.server_images, random)
    return pretrain, server, [np.flatnonzero(owners == number) for number in range(wanted)]


def _deal_pairs(labels: Indices, pool: Indices, settings: DataSettings) -> list[Indices]:
    clients = settings.sources + settings.targets
    classes = int(labels.max()) + 1
    if settings.partition == "cyclic-pairs":
        users = stream(settings.seed, "users").permutation(clients)
        pairs = [(2 * int(u) % classes, (2 * int(u) + 1) % classes) for u in users]
    else:
        pairs = random_pairs(classes, clients, settings.seed)
    counts = [_counts(settings, number, len(pair)) for number, pair in enumerate(pairs)]
    queues = {label: pool[labels[pool] == label] for label in range(classes)}
    _check(queues, pairs, counts, settings)
    start: Counter[int] = Counter()
    shares = []
    for pair, sizes in zip(pairs, counts, strict=True):
        parts = []
        for label, size in zip(pair, sizes, strict=True):
            parts.append(queues[label][start[label] : start[label] + size])
            start[label] += size
        shares.append(np.concatenate(parts))
    return shares


def random_pairs(classes: int, clients: int, seed: int) -> list[tuple[int, int]]:
    """Two different classes a client, partitioned from a shuffled deck of all classes.

    The deck is renewed when it runs out, so that no class is used much more often than another.
    """
    random = stream(seed, "pairs")
    deck: list[int] = []
    pairs = []
    for _ in range(clients):
        if len(deck) < 2:
            deck += random.permutation(classes).tolist()
        first = deck.pop(0)
        second = deck.pop(next(i for i, label in enumerate(deck) if label != first))
        pairs.append((first, second))
    return pairs


def _counts(settings: DataSettings, number: int, classes: int) -> list[int]:
    """How many images of each of its classes a client gets."""
    random = stream(settings.seed, "counts", number)
    bounds = (settings.samples_min, settings.samples_max + 1)
    return [int(n) for n in random.randint(*bounds, size=classes, dtype=np.int64)]


def _check(
    queues: dict[int, Indices],
    pairs: Sequence[tuple[int, int]],
    counts: Sequence[Sequence[int]],
    settings: DataSettings,
) -> None:
    need: Counter[int] = Counter()
    for pair, sizes in zip(pairs, counts, strict=True):
        need.update(dict(zip(pair, sizes, strict=True)))
    short = {label: n for label, n in need.items() if n > len(queues[label])}
    if short:
        worst = max(short, key=lambda label: short[label] - len(queues[label]))
        raise DataError(
            f"{settings.name}, partition {settings.partition}: class {worst} has "
            f"{len(queues[worst])} images after the server's parts (pretrain-images="
            f"{settings.pretrain_images}, server-images={settings.server_images}), but "
            f"sources={settings.sources} and targets={settings.targets} with samples-min="
            f"{settings.samples_min} and samples-max={settings.samples_max} need {need[worst]} of "
            f"it; {len(short)} classes are short. Lower targets, samples-max or the server's parts"
        )
