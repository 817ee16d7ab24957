"""Partitions of all images, by the rules and with the published counts of PFLlib.

Their clients differ in size by orders of magnitude and hold classes of a single image; nothing is
cut to the size of a device's collection. PFLlib: Zhang et al., JMLR 26(50), 2025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from common.config import DataSettings
from common.data.images import Indices
from common.data.random import stream
from common.errors import DataError

BATCH = 10
"""PFLlib's size of a mini-batch, by which its smallest client has one of test images."""

DRAWS = 10_000
"""Draws of a Dirichlet partition before it is given up; PFLlib's have no end."""

DIR01 = (
    (67, 1, 0, 0, 0, 0, 2, 0, 5, 7),
    (0, 157, 0, 19, 0, 0, 35, 15, 0, 94),
    (14, 0, 0, 0, 0, 29, 0, 318, 514, 0),
    (0, 0, 2498, 69, 3, 0, 3, 0, 0, 30),
    (1, 0, 680, 662, 0, 2, 8, 0, 0, 102),
    (5473, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    (298, 0, 20, 0, 9, 4058, 0, 0, 0, 0),
    (285, 23, 7, 2024, 0, 170, 1952, 0, 0, 0),
    (5, 236, 429, 381, 0, 0, 4509, 0, 0, 0),
    (0, 0, 11, 2269, 5, 369, 0, 439, 463, 0),
    (44, 1324, 8, 0, 1, 0, 0, 940, 3853, 0),
    (268, 1, 0, 221, 6313, 0, 0, 0, 0, 0),
    (13, 1, 781, 135, 0, 66, 106, 684, 0, 6765),
    (0, 1, 148, 6, 0, 244, 220, 4, 2, 1),
    (10, 0, 215, 915, 0, 0, 0, 188, 0, 0),
    (46, 4, 5, 4, 0, 0, 120, 0, 16, 0),
    (1, 0, 322, 21, 191, 0, 6, 249, 2147, 0),
    (71, 4761, 0, 0, 0, 0, 0, 0, 0, 0),
    (403, 0, 0, 7, 477, 2, 38, 4163, 0, 0),
    (1, 491, 1876, 267, 1, 2060, 1, 0, 0, 1),
)
"""Images of each class of Fashion-MNIST (columns) that each of 20 clients (rows) holds: the split
by Dir(0.1) that is published with DBE (Zhang et al., NeurIPS 2023; github.com/TsingZ0/DBE,
dataset/fmnist-0.1/config.json). Which images they are is not; the seed decides."""


def deal_all(labels: Indices, pool: Indices, settings: DataSettings) -> list[Indices]:
    """Assign every image of ``pool`` to a client.

    Returns
    -------
    One array of indices a client, sources first.

    Raises
    ------
    DataError: the clients, or the images that the server leaves them, do not fit the partition.
    """
    clients = settings.sources + settings.targets
    queues = [pool[labels[pool] == label] for label in range(int(labels.max()) + 1)]
    sizes = list(map(len, queues))
    match settings.partition:
        case "pfllib-dirichlet":
            counts = dirichlet(sizes, clients, settings)
        case "pfllib-pathological":
            counts = pathological(sizes, clients, settings)
        case _:
            counts = _published(sizes, clients, settings)
    cuts = [np.split(queue, np.cumsum(n)[:-1]) for queue, n in zip(queues, counts.T, strict=True)]
    return [np.concatenate(parts) for parts in zip(*cuts, strict=True)]


def dirichlet(sizes: Sequence[int], clients: int, settings: DataSettings) -> Indices:
    """Counts, shape (clients, classes): each class partitioned by a draw from Dir(alpha).

    A client that has its equal share of all images gets nothing of the classes that follow. All is
    drawn anew until every client has ``least`` images.

    flwr-datasets' partitioner follows the same rule and gives up after eleven draws; with 100
    clients and alpha = 0.1 one draw in a hundred succeeds.
    """
    random = stream(settings.seed, "pfllib-dirichlet")
    equal, needed = sum(sizes) / clients, least(sum(sizes), clients, settings.test_fraction)
    for _ in range(DRAWS):
        counts = np.zeros((clients, len(sizes)), np.int64)
        for label, size in enumerate(sizes):
            drawn = random.dirichlet([settings.dirichlet_alpha] * clients)
            shares = np.where(counts.sum(1) < equal, drawn, 0)
            if not shares.sum() > 0:  # all of it went to clients that are full
                break
            ends = np.rint(np.cumsum(shares / shares.sum()) * size).astype(np.int64)[:-1]
            counts[:, label] = np.diff(ends, prepend=0, append=size)
        else:
            if counts.sum(1).min() >= needed:
                return counts
    raise DataError(
        f"{settings.name}, partition {settings.partition}: none of {DRAWS} draws gave each of "
        f"{clients} clients {needed} images: lower sources or targets, or raise dirichlet-alpha"
    )


def least(images: int, clients: int, test_fraction: float) -> int:
    """Images that the smallest client of a Dirichlet partition has: 40 of 70,000 for 20 clients."""
    batch = BATCH / test_fraction if test_fraction else math.inf
    return int(min(batch, images / clients / 2))


def pathological(sizes: Sequence[int], clients: int, settings: DataSettings) -> Indices:
    """Counts, shape (clients, classes): class by class to the first clients that may have more.

    Each class goes to ``classes_per_client`` N / C clients: a tenth to all of an equal share to
    each, drawn uniformly, and the rest to the last. Of 20 clients of 10 classes, two each, four
    share the classes 0 and 1, four 2 and 3, and so on. Clients are then shuffled, so that targets
    are not those of the last classes.
    """
    random, classes = stream(settings.seed, "pfllib-pathological"), len(sizes)
    if settings.classes_per_client > classes:
        raise DataError(
            f"{settings.name} has {classes} classes: lower classes-per-client="
            f"{settings.classes_per_client}"
        )
    together = math.ceil(clients / classes * settings.classes_per_client)
    counts = np.zeros((clients, classes), np.int64)
    for label, size in enumerate(sizes):
        owners = np.flatnonzero((counts > 0).sum(1) < settings.classes_per_client)[:together]
        if not len(owners):
            raise DataError(
                f"{settings.name}, partition {settings.partition}: nobody may have class {label}, "
                f"for {clients} clients have classes-per-client={settings.classes_per_client}: "
                "raise that, sources or targets"
            )
        equal = size / len(owners)
        least_of_all = least(sum(sizes), clients, settings.test_fraction)
        bounds = int(max(equal / 10, least_of_all / classes, 1)), int(equal)
        if bounds[0] >= bounds[1] and len(owners) > 1:
            raise DataError(
                f"{settings.name}, partition {settings.partition}: {size} images of class {label} "
                f"are too few for {len(owners)} clients: lower sources, targets or "
                "classes-per-client"
            )
        drawn = random.randint(*bounds, len(owners) - 1, dtype=np.int64) if owners[1:].size else 0
        counts[owners[:-1], label] = drawn
        counts[owners[-1], label] = size - counts[:, label].sum()
    return counts[stream(settings.seed, "users").permutation(clients)]


def _published(sizes: Sequence[int], clients: int, settings: DataSettings) -> Indices:
    counts = np.array(DIR01, np.int64)
    if settings.name != "fashion-mnist":
        raise DataError(
            f"data.partition={settings.partition} is one of fashion-mnist: set data.name, or "
            f"choose another partition, such as pfllib-dirichlet with dirichlet-alpha=0.1"
        )
    if clients != len(counts) or sizes != counts.sum(0).tolist():
        raise DataError(
            f"data.partition={settings.partition} divides all images of fashion-mnist among "
            f"{len(counts)} clients: set pretrain-images=0 and server-images=0, not "
            f"{settings.pretrain_images} and {settings.server_images}, and sources and targets "
            f"that make {len(counts)}, not {settings.sources} and {settings.targets}"
        )
    return counts


def cut(
    share: Indices, settings: DataSettings, random: np.random.RandomState
) -> tuple[Indices, Indices, Indices]:
    """Support, query and test images of a client, drawn without regard to their classes.

    Raises
    ------
    DataError: there are too few for one of each.
    """
    share = random.permutation(share)
    learned = int((1 - settings.test_fraction) * len(share))
    if learned < 2:
        raise DataError(
            f"{settings.name}, partition {settings.partition}: a client has {len(share)} images: "
            "lower sources, targets or test-fraction"
        )
    first = min(max(round(settings.support_fraction * learned), 1), learned - 1)
    return share[:first], share[first:learned], share[learned:]
