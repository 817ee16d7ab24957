"""Plans: no image is used twice, counts as published, the same plan on every machine."""

from __future__ import annotations

import numpy as np
import pytest

from common.config import DataSettings
from common.data.images import Indices
from common.data.load import load
from common.data.partition import random_pairs
from common.data.plan import Plan, plan
from common.data.random import stream
from common.data.stratify import take
from common.errors import DataError

PARTITIONS = ["cyclic-pairs", "random-pairs", "pathological", "dirichlet", "iid"]
SMALL = {"sources": 6, "targets": 8, "server_images": 200, "pretrain_images": 300}


@pytest.fixture(scope="module", params=["digits", "fashion-mnist"])
def labels(request: pytest.FixtureRequest) -> Indices:
    try:
        return load(request.param).labels
    except DataError as error:
        pytest.skip(str(error))


def uniform(classes: int, of_each: int) -> Indices:
    return np.tile(np.arange(classes), of_each)


def all_indices(made: Plan) -> Indices:
    parts = [made.pretrain, made.server]
    parts += [half for client in made.clients for half in (client.support, client.query)]
    return np.concatenate(parts)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_no_image_has_two_holders(labels: Indices, partition: str) -> None:
    for seed in range(4):
        settings = DataSettings(partition=partition, seed=seed, samples_max=15, **SMALL)
        made = plan(labels, settings)
        used = all_indices(made)
        assert len(np.unique(used)) == len(used)
        assert used.min() >= 0
        assert used.max() < len(labels)
        assert (len(made.pretrain), len(made.server)) == (300, 200)
        assert (made.sources, made.targets) == (range(6), range(6, 14))
        assert len(made.clients) == 14
        for client in made.clients:
            assert set(labels[client.support]) == set(labels[client.query]) == set(client.classes)


def test_the_server_may_lack_classes_that_clients_have() -> None:
    labels = load("digits").labels
    made = plan(labels, DataSettings(server_classes=5, **SMALL))
    assert set(labels[made.pretrain]) == set(labels[made.server]) == set(range(5))
    assert {label for client in made.clients for label in client.classes} == set(range(10))
    used = all_indices(made)
    assert len(np.unique(used)) == len(used)
    with pytest.raises(DataError, match=r"server-classes=2 that it knows have 360"):
        plan(labels, DataSettings(server_classes=2, **SMALL))


def test_published_partition_has_the_published_counts() -> None:
    """Fashion-MNIST, 50 users: 20 to 40 images, 30 on average, 4-8 support and 16-32 query."""
    labels = uniform(10, 7000)
    settings = DataSettings(
        partition="cyclic-pairs", sources=40, targets=10, server_images=10_000, pretrain_images=0
    )
    sizes = []
    for seed in range(10):
        made = plan(labels, settings.model_copy(update={"seed": seed}))
        assert {client.classes for client in made.clients} == {
            (first, first + 1) for first in range(0, 10, 2)
        }
        for client in made.clients:
            sizes.append(len(client.support) + len(client.query))
            assert 4 <= len(client.support) <= 8
            assert 16 <= len(client.query) <= 32
            per_class = np.bincount(labels[np.concatenate([client.support, client.query])])
            assert all(10 <= per_class[label] <= 20 for label in client.classes)
    assert min(sizes) >= 20
    assert max(sizes) <= 40
    # A client's size is the sum of two uniform draws from 10..20: mean 30, variance 20.
    assert abs(np.mean(sizes) - 30) < 4 * np.sqrt(20 / len(sizes))
    assert np.var(sizes) == pytest.approx(20, rel=0.25)


def test_cyclic_users_go_round_the_classes() -> None:
    settings = DataSettings(
        partition="cyclic-pairs", sources=20, targets=30, server_images=0, pretrain_images=0
    )
    made = plan(uniform(100, 60), settings)
    assert sorted(client.classes for client in made.clients) == [
        (c, c + 1) for c in range(0, 100, 2)
    ]


def test_random_pairs_use_every_class_about_equally() -> None:
    pairs = random_pairs(26, 100, seed=3)
    assert all(first != second for first, second in pairs)
    counts = np.bincount(np.ravel(pairs), minlength=26)
    assert counts.max() - counts.min() <= 1
    assert len({tuple(sorted(pair)) for pair in pairs}) > 50


def test_more_targets_leave_the_server_and_the_sources_alone() -> None:
    labels = uniform(10, 200)
    few = plan(labels, DataSettings(targets=4))
    more = plan(labels, DataSettings(targets=12))
    assert np.array_equal(few.pretrain, more.pretrain)
    assert np.array_equal(few.server, more.server)
    for one, other in zip(few.clients, more.clients, strict=False):
        assert np.array_equal(one.support, other.support)
        assert np.array_equal(one.query, other.query)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_same_settings_same_plan_other_seed_other_plan(partition: str) -> None:
    labels = uniform(10, 300)
    settings = DataSettings(partition=partition, **SMALL)
    state = np.random.get_state()[1].copy()
    digest = plan(labels, settings).digest()
    assert plan(labels.copy(), settings).digest() == digest
    assert plan(labels, settings.model_copy(update={"seed": 1})).digest() != digest
    assert plan(np.roll(labels, 1), settings).digest() != digest
    assert np.array_equal(np.random.get_state()[1], state)


def test_plan_is_the_same_for_ever() -> None:
    """Devices and server meet on this number, whatever NumPy each of them runs."""
    digest = plan(uniform(10, 200), DataSettings(targets=2)).digest()
    assert digest == "8d021ba49dbb17dc03365b4e1ceafa72dfd8f2ea71eb1ec4a8940147c12242fc"


def test_server_parts_keep_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    settings = DataSettings(sources=2, targets=1, server_images=100, pretrain_images=200)
    made = plan(labels, settings)
    assert np.bincount(labels[made.pretrain]).tolist() == [120, 60, 20]
    assert np.bincount(labels[made.server]).tolist() == [60, 30, 10]


def test_take_draws_by_share_and_leaves_the_rest() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    pool = np.array([6, 0, 3, 1, 4, 2, 5])
    random = stream(0, "test")
    taken, left = take(labels, pool, 3, random)
    assert sorted([*taken, *left]) == list(range(7))
    assert np.bincount(labels[taken]).tolist() == [1, 1, 1]
    assert [len(part) for part in take(labels, pool, 0, random)] == [0, 7]
    assert [len(part) for part in take(labels, pool[:0], 0, random)] == [0, 0]


@pytest.mark.parametrize(("fraction", "support"), [(0.2, 2), (0.5, 5), (0.01, 1), (0.99, 9)])
def test_support_fraction(fraction: float, support: int) -> None:
    settings = DataSettings(
        samples_min=10, samples_max=10, support_fraction=fraction, sources=2, targets=2
    )
    for client in plan(uniform(4, 400), settings).clients:
        assert (len(client.support), len(client.query)) == (2 * support, 20 - 2 * support)


def test_pathological_holds_the_classes_asked_for() -> None:
    settings = DataSettings(partition="pathological", classes_per_client=3, **SMALL)
    for client in plan(uniform(10, 600), settings).clients:
        assert len(client.classes) == 3
        assert 30 <= len(client.support) + len(client.query) <= 60


def test_dirichlet_concentration_sets_how_many_classes() -> None:
    labels = uniform(10, 2000)

    def mean_classes(alpha: float) -> float:
        made = plan(labels, DataSettings(partition="dirichlet", dirichlet_alpha=alpha, **SMALL))
        for client in made.clients:
            size = len(client.support) + len(client.query)
            assert 10 <= size <= 200
        return float(np.mean([len(client.classes) for client in made.clients]))

    assert mean_classes(0.1) < mean_classes(100.0) == 10


def test_iid_has_every_class_and_is_capped() -> None:
    made = plan(uniform(10, 2000), DataSettings(partition="iid", **SMALL))
    for client in made.clients:
        assert client.classes == tuple(range(10))
        assert len(client.support) + len(client.query) == 200


def test_no_targets() -> None:
    for partition in PARTITIONS:
        settings = DataSettings(partition=partition, sources=4, targets=0)
        made = plan(uniform(10, 300), settings)
        assert (len(made.clients), made.targets) == (4, range(4, 4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": 1000}, "digits has 2000 images, but at least 10860 are needed"),
        ({"targets": 60}, "images after the server's parts (pretrain-images=500"),
        ({"pretrain_images": 1900, "server_images": 101}, "Lower one of these"),
        ({"partition": "dirichlet", "dirichlet_alpha": 0.01}, "or raise dirichlet-alpha"),
        (
            {"partition": "pathological", "targets": 94},
            "under samples-min=10: lower sources, targets, classes-per-client",
        ),
        (
            {"partition": "pathological", "classes_per_client": 11},
            "10 classes: lower classes-per-client=11",
        ),
    ],
)
def test_too_few_images(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError) as caught:
        plan(uniform(10, 200), DataSettings(**changes))
    assert words in str(caught.value)


def test_labels_of_one_class_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 classes, not 1"):
        plan(np.zeros(5000, np.int64), DataSettings())


def test_many_clients_in_one_process_share_one_plan() -> None:
    labels = uniform(10, 200)
    assert plan(labels, DataSettings()) is plan(labels.copy(), DataSettings())
    labels[:2] = labels[1::-1]
    assert plan(labels, DataSettings()).digest() != plan(uniform(10, 200), DataSettings()).digest()
