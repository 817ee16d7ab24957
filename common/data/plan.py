"""Who holds which images: the server's own sets and each client's support and query set.

Every image has one holder at most. The published code of AugFL draws its clients' images, the
targets' query images too, from those that its private model and its server set have seen; here
the server's parts are cut off first, then the sources', then the targets'.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from common.config import PFLLIB, DataSettings
from common.data import pfllib
from common.data.images import Indices
from common.data.partition import divide, natural
from common.data.random import stream
from common.data.stratify import take
from common.errors import DataError


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """One client's images, by their index in the pool.

    Attributes
    ----------
    support: to adapt on, int64, shape (n_s,), in random order.
    query: to measure the adapted model on, int64, shape (n_q,), in random order.
    test: that nobody learns from, int64, shape (n_t,), in random order; may be empty.
    classes: that the client holds, ascending; each is in ``support`` and in ``query``, but for
        PFLlib's partitions, which leave out no class of a single image.
    """

    support: Indices
    query: Indices
    classes: tuple[int, ...]
    test: Indices = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Plan:
    """A partition of one pool.

    Attributes
    ----------
    pretrain: the private model's training images.
    server: D_s, the server's own set for the transfer of knowledge.
    clients: sources first, then targets.
    sources, targets: ranges of numbers of clients.
    """

    pretrain: Indices
    server: Indices
    clients: tuple[ClientSplit, ...]
    sources: range
    targets: range

    def digest(self) -> str:
        """SHA-256 of the whole plan: equal on two machines if and only if their plans are."""
        sha = hashlib.sha256(f"{self.sources} {self.targets}".encode())
        for part in self._parts():
            sha.update(len(part).to_bytes(8, "little"))
            sha.update(np.ascontiguousarray(part, "<i8").tobytes())
        return sha.hexdigest()

    def _parts(self) -> Iterator[Indices]:
        yield self.pretrain
        yield self.server
        for client in self.clients:
            yield client.support
            yield client.query
            yield np.asarray(client.classes, np.int64)
            if len(client.test):
                yield client.test


def plan(labels: Indices, settings: DataSettings, owners: Indices | None = None) -> Plan:
    """Divide a pool: a pure function of ``labels`` and ``settings``.

    The server's parts keep each class's share of the pool. They do not depend on ``targets``,
    and with random pairs the sources' images do not, either. The last plans are kept, for
    processes that simulate many clients.

    Parameters
    ----------
    labels: int64, shape (n,), from 0 to C - 1.
    owners: who holds each image, for a natural partition: its clients, in the order of their
        numbers, are the sources, then the targets.

    Raises
    ------
    DataError: too few images, or no owners where they are needed; the message says how many are
        there and which setting to change.
    """
    held = None
    if settings.partition == "natural":
        if owners is None:
            raise DataError(
                f"{settings.name} names no clients, which data.partition=natural needs: choose "
                "another partition"
            )
        held = np.ascontiguousarray(owners, np.int64).tobytes()
    return _plan(np.ascontiguousarray(labels, np.int64).tobytes(), held, settings)


@lru_cache(maxsize=4)
def _plan(content: bytes, held: bytes | None, settings: DataSettings) -> Plan:
    labels = np.frombuffer(content, np.int64)
    if held is None:
        _check(labels, settings)
        pretrain, server, rest = server_parts(labels, settings)
        shares = divide(labels, rest, settings)
    else:
        pretrain, server, shares = natural(labels, np.frombuffer(held, np.int64), settings)
    clients = tuple(
        _client(labels, share, settings, stream(settings.seed, "split", number))
        for number, share in enumerate(shares)
    )
    sources = range(settings.sources)
    return Plan(pretrain, server, clients, sources, range(len(sources), len(clients)))


def _client(
    labels: Indices, share: Indices, settings: DataSettings, random: np.random.RandomState
) -> ClientSplit:
    if settings.partition not in PFLLIB:
        return split(labels, share, settings.support_fraction, random, settings.test_fraction)
    support, query, test = pfllib.cut(share, settings, random)
    held = np.unique(labels[np.concatenate([support, query])])
    return ClientSplit(support, query, tuple(map(int, held)), test)


def server_parts(labels: Indices, settings: DataSettings) -> tuple[Indices, Indices, Indices]:
    """The private model's training images, D_s, and what is left for clients, in random order.

    Raises
    ------
    DataError: the pool is smaller than the server's parts.
    """
    wanted = settings.pretrain_images + settings.server_images
    if wanted > len(labels):
        raise DataError(
            f"the server's parts need {wanted} images (pretrain-images="
            f"{settings.pretrain_images}, server-images={settings.server_images}), but there are "
            f"{len(labels)}: lower either"
        )
    random = stream(settings.seed, "server")
    pool = np.arange(len(labels), dtype=np.int64)
    known = labels < (settings.server_classes or np.inf)
    pool, others = pool[known], pool[~known]
    if wanted > len(pool):
        raise DataError(
            f"the server's parts need {wanted} images, but the server-classes="
            f"{settings.server_classes} that it knows have {len(pool)}: raise that, or lower "
            "pretrain-images or server-images"
        )
    pretrain, pool = take(labels, pool, settings.pretrain_images, random)
    server, pool = take(labels, pool, settings.server_images, random)
    if len(others):
        pool = random.permutation(np.concatenate([pool, others]))
    return pretrain, server, pool


def split(
    labels: Indices,
    share: Indices,
    fraction: float,
    random: np.random.RandomState,
    test_fraction: float = 0.0,
) -> ClientSplit:
    """Split a client's images class by class: round(fraction * n), at least 1 and at most n - 1.

    A class of a single image cannot be in both halves and is left out. Of the images of a class,
    round(test_fraction * n) are cut off first, as many as leave two to learn from.
    """
    support, query, test = [], [], []
    share = random.permutation(share)
    held = [int(label) for label in np.unique(labels[share])]
    kept = []
    for label in held:
        of_class = share[labels[share] == label]
        if len(of_class) < 2:
            continue
        cut = min(int(test_fraction * len(of_class) + 0.5), len(of_class) - 2)
        test.append(of_class[:cut])
        of_class = of_class[cut:]
        cut = min(max(int(fraction * len(of_class) + 0.5), 1), len(of_class) - 1)
        support.append(of_class[:cut])
        query.append(of_class[cut:])
        kept.append(label)
    if not kept:
        raise DataError(
            f"a client's {len(share)} images hold no class twice, so that none can be both "
            "adapted on and asked: raise samples-min or samples-max"
        )
    return ClientSplit(
        random.permutation(np.concatenate(support)),
        random.permutation(np.concatenate(query)),
        tuple(kept),
        random.permutation(np.concatenate(test)),
    )


def _check(labels: Indices, settings: DataSettings) -> None:
    classes = len(np.unique(labels))
    if classes < 2 or labels.min() < 0:
        raise DataError(f"a plan needs labels from 0 of at least 2 classes, not {classes}")
    if settings.partition in PFLLIB:
        return
    least = (settings.sources + settings.targets) * settings.samples_min
    wanted = settings.pretrain_images + settings.server_images + least
    if wanted > len(labels):
        raise DataError(
            f"{settings.name} has {len(labels)} images, but at least {wanted} are needed: "
            f"pretrain-images={settings.pretrain_images}, server-images={settings.server_images}, "
            f"and {least} for sources={settings.sources} and targets={settings.targets} with "
            f"samples-min={settings.samples_min}. Lower one of these, or take a larger data set"
        )
