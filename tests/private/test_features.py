"""The kept outputs of the private model: found, invalidated, torn, and without random views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from common.models.preprocessing import Preprocessing
from server_app.knowledge.features import cache_key, teacher_outputs
from server_app.private.pretrained import PretrainedModel
from tests.private.small import pixels, regularizer, student, teacher


class Counted(PretrainedModel):
    """Counts how many images it is shown."""

    seen = 0

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        Counted.seen += len(images)
        return super().__call__(images)


@pytest.fixture
def counted() -> PretrainedModel:
    Counted.seen = 0
    model = teacher()
    return Counted(model.architecture, model.module, model.classes, model.preprocessing)


def test_outputs_are_those_of_the_model_in_order(tmp_path: Path) -> None:
    images = pixels(150)
    outputs = teacher_outputs(teacher(), images, tmp_path)
    features, logits = teacher()(images)
    torch.testing.assert_close(outputs.features, features)
    torch.testing.assert_close(outputs.logits, logits)


def test_the_second_time_nothing_is_computed(tmp_path: Path, counted: PretrainedModel) -> None:
    first = teacher_outputs(counted, pixels(), tmp_path)
    second = teacher_outputs(counted, pixels(), tmp_path)
    assert Counted.seen == 24
    assert torch.equal(first.features, second.features)
    assert torch.equal(first.logits, second.logits)
    assert first.key == second.key


def test_any_change_computes_anew(tmp_path: Path, counted: PretrainedModel) -> None:
    keys = {teacher_outputs(counted, pixels(), tmp_path).key}
    keys.add(teacher_outputs(counted, pixels(seed=1), tmp_path).key)
    keys.add(teacher_outputs(counted, pixels().flip(0), tmp_path).key)
    other = Preprocessing(1, 8, (0.4,), (0.25,))
    keys.add(teacher_outputs(replace(counted, preprocessing=other), pixels(), tmp_path).key)
    with torch.no_grad():
        next(counted.module.parameters())[0, 0, 0, 0] += 1e-3
    keys.add(teacher_outputs(counted, pixels(), tmp_path).key)
    assert len(keys) == 5
    assert Counted.seen == 5 * 24


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty"])
def test_a_damaged_file_is_noticed_and_replaced(
    tmp_path: Path, counted: PretrainedModel, damage: str
) -> None:
    first = teacher_outputs(counted, pixels(), tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "foreign":
        teacher_outputs(counted, pixels(seed=1), tmp_path / "other")
        (foreign,) = (tmp_path / "other").iterdir()
        foreign.replace(path)
        (tmp_path / "other").rmdir()
    else:
        broken = {"torn": whole[:-9], "flipped": whole[:-1] + b"\x7f", "empty": b""}[damage]
        path.write_bytes(broken)
    Counted.seen = 0
    console = Console(record=True, quiet=False, width=200)
    again = teacher_outputs(counted, pixels(), tmp_path, console)
    assert Counted.seen == 24
    assert "torn or not of this model" in console.export_text()
    assert torch.equal(first.features, again.features)
    # What replaces it is whole.
    third = teacher_outputs(counted, pixels(), tmp_path)
    assert Counted.seen == 24
    assert torch.equal(first.logits, third.logits)


def test_random_views_change_what_the_student_sees_and_not_what_is_kept(tmp_path: Path) -> None:
    model = student()
    vector = model.vector.clone()
    plain, views = regularizer(model), regularizer(model, augment="crop-flip")
    assert not torch.equal(plain.gradient(vector)[0], views.gradient(vector)[0])
    assert plain.state()["private"] == views.state()["private"] == cache_key(teacher(), pixels())
