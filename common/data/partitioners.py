"""Pathological, Dirichlet and IID clients through flwr-datasets' partitioners.

A partitioner divides a whole pool, so a client's share grows with the data set. It is cut to
the size of an edge device's collection afterwards:

- pathological: samples-min to samples-max images of each of its classes, as for pairs;
- Dirichlet and IID: at most samples-max images times the number of classes in its share, every
  class in proportion, so that the mix of classes stays the partitioner's; at least samples-min
  images in all.

A pool that is larger than all clients together can hold is thinned first, in the same way.
Images that are left over belong to nobody.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from common.config import DataSettings
from common.data.images import Indices
from common.data.random import stream
from common.data.stratify import take
from common.errors import DataError

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner


def deal_with_partitioner(labels: Indices, pool: Indices, settings: DataSettings) -> list[Indices]:
    """Partition the sources' and the targets' part of ``pool``; see ``common.data.partition``.

    Raises
    ------
    DataError: too few images of a class or for a client.
    """
    clients = settings.sources + settings.targets
    classes = len(np.unique(labels))
    if settings.partition == "pathological" and settings.classes_per_client > classes:
        raise DataError(
            f"{settings.name} has {classes} classes: lower classes-per-client="
            f"{settings.classes_per_client}"
        )
    random = stream(settings.seed, "groups")
    share = len(pool) * settings.sources // clients
    for_sources, for_targets = take(labels, pool, share, random)
    shares = _shares(labels, for_sources, settings.sources, settings, "sources")
    if settings.targets:
        shares += _shares(labels, for_targets, settings.targets, settings, "targets")
    return [
        _cut(labels, share, stream(settings.seed, "counts", number), number, settings)
        for number, share in enumerate(shares)
    ]


def _shares(
    labels: Indices, pool: Indices, clients: int, settings: DataSettings, group: str
) -> list[Indices]:
    from datasets import Dataset

    random = stream(settings.seed, group)
    pool = _thin(labels, pool, clients, random, settings)
    seed = int(random.randint(0, 2**31, dtype=np.int64))
    partitioner = _partitioner(settings, clients, seed)
    partitioner.dataset = Dataset.from_dict({"index": pool, "label": labels[pool]})
    try:
        with warnings.catch_warnings():
            # The Dirichlet partitioner warns of each draw that it repeats.
            warnings.simplefilter("ignore", UserWarning)
            parts = [partitioner.load_partition(number)["index"] for number in range(clients)]
    except ValueError as error:
        raise DataError(
            f"{settings.name}, partition {settings.partition}: the {len(pool)} images of the "
            f"{group} cannot be assigned to {clients} clients of at least samples-min="
            f"{settings.samples_min}: lower {group}, samples-min or the server's parts"
            + (", or raise dirichlet-alpha" if settings.partition == "dirichlet" else "")
        ) from error
    return [np.asarray(part, np.int64) for part in parts]


def _thin(
    labels: Indices,
    pool: Indices,
    clients: int,
    random: np.random.RandomState,
    settings: DataSettings,
) -> Indices:
    """What ``clients`` clients could hold at most; the partitioners' time grows with the pool."""
    most = clients * settings.samples_max
    present = np.unique(labels[pool])
    if settings.partition == "pathological":
        of_each = [pool[labels[pool] == label][:most] for label in present]
        return np.concatenate(of_each)
    return take(labels, pool, min(len(pool), most * len(present)), random)[0]


def _partitioner(settings: DataSettings, clients: int, seed: int) -> Partitioner:
    from flwr_datasets import partitioner as kinds

    if settings.partition == "pathological":
        return kinds.PathologicalPartitioner(
            clients,
            "label",
            settings.classes_per_client,
            class_assignment_mode="first-deterministic",
            seed=seed,
        )
    if settings.partition == "dirichlet":
        return kinds.DirichletPartitioner(
            clients,
            "label",
            settings.dirichlet_alpha,
            min_partition_size=settings.samples_min,
            seed=seed,
        )
    return kinds.IidPartitioner(clients)


def _cut(
    labels: Indices,
    share: Indices,
    random: np.random.RandomState,
    number: int,
    settings: DataSettings,
) -> Indices:
    held = np.unique(labels[share])
    if settings.partition != "pathological":
        most = settings.samples_max * len(held)
        return take(labels, share, min(len(share), most), random)[0]
    parts = []
    for label in held:
        of_class = share[labels[share] == label]
        if len(of_class) < settings.samples_min:
            raise DataError(
                f"{settings.name}, partition pathological: client {number} would get "
                f"{len(of_class)} images of class {label}, under samples-min="
                f"{settings.samples_min}: lower sources, targets, classes-per-client, samples-min "
                "or the server's parts"
            )
        size = random.randint(settings.samples_min, settings.samples_max + 1, dtype=np.int64)
        parts.append(of_class[:size])
    return np.concatenate(parts)
