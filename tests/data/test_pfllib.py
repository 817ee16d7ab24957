"""PFLlib's partitions: every image has one holder, the counts are the rule's or the published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.config import DataSettings
from common.data.images import Indices
from common.data.load import load
from common.data.pfllib import DIR01, cut, least
from common.data.plan import ClientSplit, Plan, plan
from common.data.random import stream
from common.errors import DataError

FASHION = np.random.RandomState(0).permutation(np.repeat(np.arange(10), 7000))
"""Labels like those of Fashion-MNIST: 7,000 images of each of ten classes."""

ALL = {"pretrain_images": 0, "server_images": 0, "test_fraction": 0.25}
TWENTY = {"name": "fashion-mnist", "sources": 20, "targets": 0, **ALL}
PARTITIONS = ["pfllib-dirichlet", "pfllib-pathological", "pfllib-dir01"]


def made(partition: str, labels: Indices = FASHION, **changes: Any) -> Plan:
    return plan(labels, DataSettings(**{**TWENTY, "partition": partition, **changes}))


def held(client: ClientSplit) -> Indices:
    return np.concatenate([client.support, client.query, client.test])


def counts(shared: Plan, labels: Indices = FASHION) -> Indices:
    return np.array([np.bincount(labels[held(c)], minlength=10) for c in shared.clients])


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_image_has_one_holder_and_a_quarter_is_for_tests(partition: str):
    shared = made(partition)
    everything = np.concatenate([held(client) for client in shared.clients])
    assert np.array_equal(np.sort(everything), np.arange(70_000))
    for client in shared.clients:
        size = len(held(client))
        assert len(client.test) == size - int(0.75 * size)
        assert len(client.support) == round(0.2 * int(0.75 * size))
        learned = np.concatenate([client.support, client.query])
        assert client.classes == tuple(np.unique(FASHION[learned]))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_seed_decides_and_nothing_else(partition: str):
    shared = made(partition)
    assert made(partition, FASHION.copy(), samples_max=21).digest() == shared.digest()
    other = made(partition, seed=1)
    assert other.digest() != shared.digest()
    assert np.array_equal(counts(other), counts(shared)) == (partition == "pfllib-dir01")


def test_the_published_counts():
    """As published: 20 clients of 82 to 8,551 images, 7,000 of each class."""
    table = np.array(DIR01)
    assert table.shape == (20, 10)
    assert table.sum(0).tolist() == [7000] * 10
    assert (table.sum(1).min(), table.sum(1).max()) == (82, 8551)
    # Naming each client's commonest class is right for this share of all images.
    assert table.max(1).sum() / 70_000 == pytest.approx(0.766, abs=5e-4)
    assert np.array_equal(counts(made("pfllib-dir01")), table)
    assert np.array_equal(counts(made("pfllib-dir01", sources=15, targets=5)), table)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "mnist"}, "is one of fashion-mnist: set data.name"),
        ({"targets": 1}, "sources and targets that make 20, not 20 and 1"),
        ({"server_images": 300}, "set pretrain-images=0 and server-images=0, not 0 and 300"),
    ],
)
def test_the_published_split_is_of_one_data_set_and_twenty_clients(
    changes: dict[str, Any], words: str
):
    with pytest.raises(DataError, match=words):
        made("pfllib-dir01", **changes)


def test_a_run_over_the_published_split(small_run: Callable[..., Path]):
    """Of the real images, and naming the commonest class is as good as its counts say."""
    try:
        load("fashion-mnist")
    except DataError as error:
        pytest.skip(str(error))
    config = {
        "data.name": "fashion-mnist", "data.partition": "pfllib-dir01", "data.sources": 20,
        "data.targets": 0, "data.test-fraction": 0.25, "data.pretrain-images": 0,
        "data.server-images": 0, "evaluation.who": "sources", "rounds": 0, "evaluation.steps": 0,
        "round.deadline": 60.0,
    }  # fmt: skip
    record = (small_run("fedavg", config) / "metrics.jsonl").read_text().splitlines()
    found = json.loads(record[0])["evaluation_sources"]
    assert [client["client"] for client in found["clients"]] == [str(n) for n in range(20)]
    sizes = np.array(DIR01).sum(1)
    tested = sizes - (0.75 * sizes).astype(int)
    assert [client["examples"] for client in found["clients"]] == tested.tolist()
    assert found["accuracy_commonest"] == pytest.approx(0.766, abs=0.01)


@pytest.mark.parametrize(("clients", "alpha"), [(20, 0.1), (50, 0.1), (100, 0.5), (20, 100.0)])
def test_dirichlet_gives_each_client_the_least_that_it_must_have(clients: int, alpha: float):
    shared = made("pfllib-dirichlet", sources=clients, dirichlet_alpha=alpha)
    found = counts(shared)
    assert found.sum(0).tolist() == [7000] * 10
    assert found.sum(1).min() >= 40
    if alpha == 100.0:  # nearly all alike, until a client has its equal share
        assert found[:, :5].min() > 7000 / 20 / 2


def test_a_client_that_has_its_equal_share_gets_no_more_classes():
    for seed in range(5):
        found = counts(made("pfllib-dirichlet", dirichlet_alpha=0.1, seed=seed))
        before = np.cumsum(found, axis=1) - found
        assert not found[before >= 3500].any()


def test_concentration_decides_how_many_classes_a_client_has():
    few, many = (
        (counts(made("pfllib-dirichlet", dirichlet_alpha=a)) > 0).sum(1).mean() for a in (0.1, 10.0)
    )
    assert few < 7 < 9.5 < many


def test_the_least_is_a_batch_of_test_images_or_half_an_equal_share():
    assert least(70_000, 20, 0.25) == 40  # 10 / 0.25
    assert least(70_000, 2000, 0.25) == 17  # 70,000 / 2,000 / 2 = 17.5
    assert least(70_000, 20, 0.0) == 1750


def test_pathological_clients_share_pairs_of_classes_in_fours():
    found = counts(made("pfllib-pathological"))
    pairs = [tuple(np.flatnonzero(row)) for row in found]
    assert {pair: pairs.count(pair) for pair in pairs} == {(c, c + 1): 4 for c in range(0, 10, 2)}
    assert pairs != sorted(pairs)
    for label in range(10):
        *most, last = np.sort(found[found[:, label] > 0, label])
        assert sum(most) + last == 7000
        assert all(175 <= n < 1750 for n in most)  # of an equal share, 1,750, a tenth to all
        assert last > 1750  # the rest


def test_classes_that_nobody_may_have_are_an_error():
    with pytest.raises(DataError, match="nobody may have class 6"):
        made("pfllib-pathological", sources=3)
    with pytest.raises(DataError, match="10 classes: lower classes-per-client=11"):
        made("pfllib-pathological", classes_per_client=11)


def test_too_few_images():
    with pytest.raises(DataError, match="none of 10000 draws gave each of 30 clients 3 images"):
        made("pfllib-dirichlet", np.tile(np.arange(2), 90), sources=30, dirichlet_alpha=1e-4)
    with pytest.raises(DataError, match="10 images of class 0 are too few for 20 clients"):
        made("pfllib-pathological", np.tile(np.arange(10), 10), sources=100)
    with pytest.raises(DataError, match="a client has 1 images"):
        cut(np.arange(1), DataSettings(partition="pfllib-dirichlet"), stream(0, "test"))


def test_a_class_of_a_single_image_is_kept():
    support, query, test = cut(np.arange(5), DataSettings(test_fraction=0.25), stream(0, "test"))
    assert sorted([*support, *query, *test]) == list(range(5))
    assert [len(part) for part in (support, query, test)] == [1, 2, 2]
