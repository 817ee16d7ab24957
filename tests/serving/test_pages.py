"""What the model's server answers, counts and keeps."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from common.data.image_files import list_images
from common.errors import SettingsError
from common.serving import IMAGES, save_images
from deploy.serving import Serving
from deploy.serving.__main__ import places
from deploy.serving.aside import Aside
from deploy.serving.pages import loopback, make_app
from deploy.serving.seen import Seen
from tests.monitoring.visitor import Visitor
from tests.serving.made import CLASSES, SIZE, picture, place

Bias = tuple[float, float, float]


def visitor(
    folder: Path, bias: Bias = (2, 0, 0), aside: Aside | None = None, host: str = "127.0.0.1"
) -> Visitor:
    source = place(folder, bias)
    kept = Serving(source, source.parent, threads=1)
    assert kept.take()
    return Visitor(make_app(kept, aside), host)


def test_one_image_and_a_batch(tmp_path: Path) -> None:
    page = visitor(tmp_path)
    one = page.post("/classify", content=picture()).json()
    assert one["answers"][0]["label"] == "cat"
    assert list(one["answers"][0]["probabilities"]) == list(CLASSES)
    encoded = [base64.b64encode(picture(value)).decode() for value in (0, 128, 255)]
    batch = page.post("/classify", json={"images": encoded}).json()
    assert batch["version"] == one["version"]
    assert len(batch["answers"]) == 3


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "image/png", "send the content"),
        (b"nothing", "image/png", "cannot be read as an image"),
        (b"{}", "application/json", "images"),
        (b'{"images": ["%%"]}', "application/json", "base64"),
        (b'{"images": []}', "application/json", "1 to 256"),
    ],
)
def test_what_it_cannot_read_it_says(tmp_path: Path, content: bytes, kind: str, said: str) -> None:
    headers = {"Content-Type": kind}
    answer = visitor(tmp_path).post("/classify", content=content, headers=headers)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_a_request_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.serving.pages.LARGEST", 1000)
    assert visitor(tmp_path).post("/classify", content=bytes(1001)).status_code == 413


def test_health_is_that_there_is_a_model(tmp_path: Path) -> None:
    assert visitor(tmp_path / "a").get("/healthz").status_code == 200
    none = Visitor(make_app(Serving(tmp_path / "b.safetensors", tmp_path)), "127.0.0.1")
    assert none.get("/healthz").status_code == 503
    answer = none.post("/classify", content=picture())
    assert answer.status_code == 503
    assert "no model yet" in answer.json()["error"]


def test_other_names_of_this_machine_are_not_answered(tmp_path: Path) -> None:
    assert visitor(tmp_path, host="evil.example").get("/metrics").status_code == 400


def test_it_listens_on_loopback_alone() -> None:
    assert loopback("127.0.0.1:8070") == ("127.0.0.1", 8070)
    for address in ("0.0.0.0:8070", "192.0.2.1:80", "127.0.0.1", "127.0.0.1:99999"):
        with pytest.raises(SettingsError, match=r"give 127\.0\.0\.1:PORT"):
            loopback(address)


def test_what_it_may_follow(tmp_path: Path) -> None:
    state = places(tmp_path, None)
    assert state == (tmp_path / "serving" / "model.safetensors", tmp_path / "serving")
    assert places(Path("a/m.onnx"), None) == (Path("a/m.onnx"), Path("a/serving"))
    with pytest.raises(SettingsError, match="name a device's state folder"):
        places(Path("m.txt"), None)


def test_metrics_tell_the_model_and_what_it_said(tmp_path: Path) -> None:
    page = visitor(tmp_path)
    version = page.post("/classify", content=picture()).json()["version"]
    text = page.get("/metrics").text
    assert f'augflower_serve_model_info{{version="{version}"}} 1.0' in text
    assert 'augflower_serve_day_answers{class="cat"} 1.0' in text
    assert "augflower_serve_swaps_total 1.0" in text
    assert "augflower_serve_shift_alarm 0.0" in text


@pytest.mark.parametrize(("seen", "alarm"), [([0.5, 0.5], 0.0), ([0.95, 0.05], 1.0)])
def test_an_alarm_where_classes_come_in_other_shares(
    tmp_path: Path, seen: list[float], alarm: float
) -> None:
    """White images are dogs, black ones cats; held-out images are half and half."""
    from tests.serving.made import weights

    source = place(tmp_path)
    weight = np.zeros((3, SIZE * SIZE), np.float32)
    weight[1] = 0.3
    source.write_bytes(weights((0, 0, -9), weight))
    pixels = np.zeros((200, 1, SIZE, SIZE), np.uint8)
    pixels[100:] = 255
    save_images(source.parent / IMAGES, (pixels, np.repeat([0, 1], 100)))
    kept = Serving(source, source.parent, threads=1)
    assert kept.take()
    for value, share in zip((0, 255), seen, strict=True):
        kept.classify([picture(value)] * round(300 * share))
    text = Visitor(make_app(kept), "127.0.0.1").get("/metrics").text
    assert f"augflower_serve_shift_alarm {alarm}" in text


def test_small_samples_of_one_population_raise_no_alarm() -> None:
    """Of 300 draws of 100 answers each, 10 classes, under one in a hundred is over the limit."""
    from deploy.serving.seen import ALARM, _index

    draw = np.random.default_rng(0)
    then, alarms = np.full(10, 20), 0
    for _ in range(300):
        now = np.bincount(draw.integers(0, 10, 100), minlength=10)
        alarms += _index(now.tolist(), then.tolist()) > ALARM
    assert alarms <= 3


def test_counts_outlive_the_process(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen.json")
    seen.add(CLASSES, np.asarray([[0.9, 0.1, 0], [0.2, 0.8, 0]], np.float32))
    seen.save()
    again = Seen(tmp_path / "seen.json").last()
    assert again["classes"] == {"cat": 1, "dog": 1}
    assert again["sure"] == [0] * 8 + [1, 1]
    (tmp_path / "seen.json").write_text("{")
    assert Seen(tmp_path / "seen.json").last()["classes"] == {}


def test_unsure_images_are_put_aside_where_the_owner_allows_it(tmp_path: Path) -> None:
    aside = Aside(tmp_path / "aside", below=0.6, most=2)
    page = visitor(tmp_path, (0.1, 0, 0), aside)
    for value in (1, 1, 2, 3):
        page.post("/classify", content=picture(value))
    kept = list_images(tmp_path / "aside")
    assert sorted(path.read_bytes() for path in kept) == sorted([picture(1), picture(2)])
    assert "augflower_serve_aside_total 2.0" in page.get("/metrics").text
    sure = visitor(tmp_path / "sure", (9, 0, 0), Aside(tmp_path / "none"))
    sure.post("/classify", content=picture())
    assert not (tmp_path / "none").exists()
