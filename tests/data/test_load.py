"""Where data sets are found, in which order, and what is said when they are not."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import logging
import pickle
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from common.data import load as module
from common.data.load import SYSTEM, load
from common.errors import DataError

CLOSED = "http://127.0.0.1:9/"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No system folders, no user cache, no network."""
    monkeypatch.setattr(module, "SYSTEM", (tmp_path / "system",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("AUGFLOWER_DATA", raising=False)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [CLOSED])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [CLOSED])
    monkeypatch.setattr(datasets.EMNIST, "url", CLOSED + "gzip.zip")
    monkeypatch.setattr(datasets.CIFAR10, "url", CLOSED + "cifar-10-python.tar.gz")


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(
    folder: Path, fill: int, *, prefix: str = "", test: str = "t10k", end: str = ".gz"
) -> None:
    """Six training images of classes 1..6 and four test images; the first pixel is the index."""
    for part, first, size in (("train", 0, 6), (test, 6, 4)):
        images = np.full((size, 28, 28), fill)
        images[:, 0, 0] = np.arange(first, first + size)
        images[:, 0, 1] = 200
        write_idx(folder / f"{prefix}{part}-images-idx3-ubyte{end}", images)
        labels = np.arange(first, first + size) % 6 + 1
        write_idx(folder / f"{prefix}{part}-labels-idx1-ubyte{end}", labels)


def test_order_is_argument_environment_system_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    places = {
        1: tmp_path / "mine" / "fashion-mnist",
        2: tmp_path / "environment" / "FashionMNIST" / "raw",
        3: tmp_path / "system" / "fashion-mnist",
        4: tmp_path / "cache" / "augflower" / "data" / "fashion-mnist" / "FashionMNIST" / "raw",
    }
    words = {1: "the folder given", 2: "AUGFLOWER_DATA", 3: "the system's", 4: "downloaded earlier"}
    for number, folder in places.items():
        write_mnist(folder, number, end=".gz" if number % 2 else "")
    monkeypatch.setenv("AUGFLOWER_DATA", str(tmp_path / "environment"))
    for number, folder in places.items():
        mine = tmp_path / "mine" if number == 1 else None
        found = load("fashion-mnist", mine)
        assert found.pixels(np.array([0]))[0, 0, 5, 5] == number
        assert found.found == f"found in {folder} ({words[number]})"
        assert found.found in caplog.text
        if number == 2:
            monkeypatch.delenv("AUGFLOWER_DATA")
        if number > 2:
            for file in folder.iterdir():
                file.unlink()
    with pytest.raises(DataError, match="was not found"):
        load("fashion-mnist")


def test_train_and_test_are_one_pool(tmp_path: Path) -> None:
    write_mnist(tmp_path / "fashion-mnist", 7)
    pool = load("fashion-mnist", tmp_path)
    assert pool.labels.tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    order = np.array([9, 0, 5, 6])
    assert pool.pixels(order)[:, 0, 0, 0].tolist() == order.tolist()
    assert pool.pixels(order).dtype == np.uint8
    assert pool.classes[9] == "Ankle boot"


def test_files_of_one_set_are_never_taken_for_another(tmp_path: Path) -> None:
    """MNIST and Fashion-MNIST have the same file names."""
    write_mnist(tmp_path / "mnist", 7)
    assert len(load("mnist", tmp_path / "mnist")) == 10
    for folder in (tmp_path / "mnist", tmp_path):
        with pytest.raises(DataError, match="Fashion-MNIST was not found"):
            load("fashion-mnist", folder)


def test_emnist_letters_are_turned_upright_and_counted_from_a(tmp_path: Path) -> None:
    write_mnist(tmp_path, 7, prefix="emnist-letters-", test="test")
    pool = load("emnist-letters", tmp_path)
    assert pool.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert (len(pool.classes), pool.classes[0], pool.classes[25]) == (26, "a", "z")
    pixels = pool.pixels(np.array([3, 8]))
    assert pixels[:, 0, 0, 0].tolist() == [3, 8]
    assert pixels[:, 0, 1, 0].tolist() == [200, 200]  # stored at row 0, column 1


def test_nothing_found_says_where_it_looked_and_what_to_bring(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", mine)
    message = str(caught.value)
    for words in (
        f"{mine} (the folder given)",
        f"{tmp_path / 'system'} (the system's)",
        f"{tmp_path / 'cache' / 'augflower' / 'data'} (downloaded earlier)",
        CLOSED,
        "train-images-idx3-ubyte.gz",
        f"into {mine / 'fashion-mnist'}",
        "apt install dataset-fashion-mnist",
    ):
        assert words in message
    assert f"{mine} does not hold Fashion-MNIST; looking further" in caplog.text
    assert list((tmp_path / "cache").rglob("*")) == [
        tmp_path / "cache" / "augflower",
        tmp_path / "cache" / "augflower" / "data",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mnist", "t10k-labels-idx1-ubyte.gz"),
        ("emnist-letters", "emnist-letters-test-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-batches-py"),
        ("tiny-imagenet", "none is offered for it.\nBring the unpacked folder tiny-imagenet-200"),
    ],
)
def test_nothing_found_names_the_files_of_each_set(name: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        load(name)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["fashion-mnist", "folder"])
def test_a_folder_that_is_named_must_exist(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"nowhere \(the folder given\) is not a folder"):
        load(name, tmp_path / "nowhere", image_size=8)
    monkeypatch.setenv("AUGFLOWER_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone \(AUGFLOWER_DATA\) is not a folder"):
        load(name, image_size=8)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_damaged_files_are_named(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "mnist"
    write_mnist(folder, 7, end=end)
    images = folder / f"train-images-idx3-ubyte{end}"
    images.write_bytes(images.read_bytes()[:-9])
    pool = load("mnist", tmp_path)  # labels are whole
    with pytest.raises(DataError, match=f"{images} is damaged"):
        pool.pixels(np.array([0]))
    (folder / f"t10k-labels-idx1-ubyte{end}").write_bytes(b"not an IDX file")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.* is damaged"):
        load("mnist", tmp_path)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    folder = tmp_path / "mnist"
    write_mnist(folder, 7)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(5))
    with pytest.raises(DataError, match="but its labels are 5"):
        load("mnist", tmp_path).pixels(np.array([0]))
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.arange(6) + 9)
    with pytest.raises(DataError, match=r"labels are not in 0\.\.9"):
        load("mnist", tmp_path)


@pytest.fixture
def server() -> Iterator[str]:
    """The Debian package's files over HTTP, as a mirror would serve them."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(DEBIAN))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_download_is_kept(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server])
    sums = [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in sorted(DEBIAN.iterdir())]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", sums)  # Debian packs them anew
    first = load("fashion-mnist")
    place = tmp_path / "cache" / "augflower" / "data" / "fashion-mnist" / "FashionMNIST" / "raw"
    assert first.found == f"downloaded to {place}"
    assert sorted(path.suffix for path in place.iterdir()) == [""] * 4
    assert [path.name for path in (tmp_path / "cache" / "augflower" / "data").iterdir()] == [
        "fashion-mnist"
    ]
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [CLOSED])
    again = load("fashion-mnist")
    assert again.found == f"found in {place} (downloaded earlier)"
    monkeypatch.setattr(module, "SYSTEM", SYSTEM)
    packaged = load("fashion-mnist")
    assert packaged.found == f"found in {DEBIAN} (the system's)"
    some = np.array([0, 1, 59_999, 60_000, 69_999])
    assert np.array_equal(again.pixels(some), packaged.pixels(some))
    assert np.array_equal(first.labels, packaged.labels)
    assert np.bincount(packaged.labels).tolist() == [7000] * 10


def test_half_a_download_in_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cache" / "augflower" / "data" / "mnist"
    place.mkdir(parents=True)
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: None)
    monkeypatch.setattr(datasets.MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: (None, None))
    with pytest.raises(DataError, match="mnist is in its way, and not complete: remove it"):
        load("mnist")


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, size in (("data_batch_1", 4), ("test_batch", 2)):
        data = np.arange(size * 3072).reshape(size, 3072) % 251
        entry = {"data": data.astype(np.uint8), "labels": list(range(size))}
        (folder / name).write_bytes(pickle.dumps(entry))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [*names, "truck"]}))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    meta = {**datasets.CIFAR10.meta, "md5": None}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        pool = load("cifar10", folder)
        assert (pool.channels, pool.image_size, pool.classes[9]) == (3, 32, "truck")
        assert pool.labels.tolist() == [0, 1, 2, 3, 0, 1]
        row = np.arange(4 * 3072).reshape(4, 3, 32, 32) % 251
        assert np.array_equal(pool.pixels(np.array([5, 2])), [row[1], row[2]])


def test_cifar_is_not_unpickled_unless_it_is_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = datasets.CIFAR10.train_list
    write_cifar(tmp_path, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", published)
    with pytest.raises(DataError, match=r"unpack cifar-10-python\.tar\.gz again"):
        load("cifar10", tmp_path)


def write_tiny_imagenet(root: Path) -> None:
    ids = ["n02", "n01"]
    for number, wnid in enumerate(sorted(ids)):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (64, 64), (100 * number, index, 7)).save(images / f"{index}.png")
    (root / "val" / "images").mkdir(parents=True)
    Image.new("L", (64, 64), 9).save(root / "val" / "images" / "val_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    (root / "wnids.txt").write_text("\n".join(ids))
    (root / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane\nn03\tapple\n")


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    write_tiny_imagenet(root)
    for folder in (tmp_path, root):
        pool = load("tiny-imagenet", folder)
        assert pool.classes == ("crane (n01)", "crane (n02)")
        assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
        pixels = pool.pixels(np.array([4, 6]))
        assert pixels.shape == (2, 3, 64, 64)
        assert pixels[:, :, 0, 0].tolist() == [[100, 1, 7], [9, 9, 9]]
    (root / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"tiny-imagenet-200 is not complete .*val_annotations"):
        load("tiny-imagenet", tmp_path)


def test_any_folder_of_images(tmp_path: Path) -> None:
    for name, colour in (("cats", (10, 20, 30)), ("dogs", (40, 50, 60))):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (20 + index, 31), colour).save(tmp_path / name / f"{index}.PNG")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("not an image")
    pool = load("folder", tmp_path, image_size=12)
    assert (pool.classes, pool.labels.tolist()) == (("cats", "dogs"), [0, 0, 1, 1])
    assert pool.pixels(np.array([0, 3]))[:, :, 6, 6].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert load("folder", tmp_path, image_size=12, channels=1).pixels(np.arange(4)).shape == (
        (4, 1, 12, 12)
    )
    with pytest.raises(DataError, match="give image-size"):
        load("folder", tmp_path)
    with pytest.raises(DataError, match="needs a folder: give one, or set AUGFLOWER_DATA"):
        load("folder", image_size=12)
