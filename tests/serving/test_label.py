"""The page that sorts images: it moves what it is told, within its folders, for its owner alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import DataError
from deploy.serving.label import make_app
from tests.monitoring.visitor import Visitor
from tests.serving.made import picture


def page(folder: Path, host: str = "127.0.0.1") -> Visitor:
    aside, own = folder / "aside", folder / "own"
    aside.mkdir()
    for name in ("cat", "<dog>"):
        (own / name).mkdir(parents=True)
    for value in (1, 2, 3):
        (aside / f"{value}.png").write_bytes(picture(value))
    (folder / "secret.png").write_bytes(picture(9))
    return Visitor(make_app(aside, own), host)


def send(visitor: Visitor, **form: str) -> int:
    if "token" not in form:
        found = re.search(r'name="token" value="([^"]+)"', visitor.get("/").text)
        assert found
        form["token"] = found[1]
    return visitor.post("/label", data=form).status_code


def test_it_moves_and_discards(tmp_path: Path) -> None:
    visitor = page(tmp_path)
    assert "3 images to label" in visitor.get("/").text
    assert "&lt;dog&gt;" in visitor.get("/").text
    assert visitor.get("/image/1.png").content == picture(1)
    assert send(visitor, **{"image": "1.png", "class": "cat"}) == 303
    assert send(visitor, **{"image": "2.png", "class": ""}) == 303
    assert (tmp_path / "own" / "cat" / "1.png").read_bytes() == picture(1)
    assert [path.name for path in (tmp_path / "aside").iterdir()] == ["3.png"]


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"image": "1.png", "class": "owl"}, 400),
        ({"image": "1.png", "class": "../cat"}, 400),
        ({"image": "../secret.png", "class": "cat"}, 303),
        ({"image": "1.png", "class": "cat", "token": "guessed"}, 403),
        ({"image": "x" * 5000, "class": "cat"}, 413),
    ],
)
def test_what_it_was_not_asked_for_it_does_not(
    tmp_path: Path, form: dict[str, str], code: int
) -> None:
    visitor = page(tmp_path)
    assert send(visitor, **form) == code
    assert len(list((tmp_path / "aside").iterdir())) == 3
    assert (tmp_path / "secret.png").exists()


def test_nothing_else_is_shown(tmp_path: Path) -> None:
    visitor = page(tmp_path)
    for path in ("/image/..%2fsecret.png", "/image/none.png"):
        assert visitor.get(path).status_code == 404
    (tmp_path / "other").mkdir()
    assert page(tmp_path / "other", "evil.example").get("/").status_code == 400


def test_it_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make one for each class"):
        make_app(tmp_path, tmp_path / "none")
