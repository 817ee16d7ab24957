"""The fuzzer's seeds, and single flipped bits of them, through the fuzzer's target."""

from __future__ import annotations

import numpy as np

from fuzz.make_corpus import CORPUS, seeds
from fuzz.target import CONTRACTS, decode


def test_the_corpus_is_that_of_the_script():
    assert {path.read_bytes() for path in CORPUS.iterdir()} == set(seeds())


def test_seeds_do_what_they_should():
    found = [decode(path.read_bytes()) for path in CORPUS.iterdir()]
    assert {type(up) for up in found if up is not None} == set(CONTRACTS)
    assert any(up is None for up in found)


def test_flipped_bits_raise_nothing():
    dice = np.random.default_rng(0)
    for path in sorted(CORPUS.iterdir()):
        seed = path.read_bytes()
        for position in dice.integers(0, len(seed), 20):
            flipped = bytearray(seed)
            flipped[position] ^= 1 << int(dice.integers(8))
            decode(bytes(flipped))
