"""Teachers answer once; what has changed, and nothing else, is asked again."""

from __future__ import annotations

import gc
import io
import logging
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client_app.teachers import clip as clip_module
from client_app.teachers.answers import Teachers
from client_app.teachers.clip import Clip
from client_app.teachers.memory_budget import NotEnoughMemory
from client_app.teachers.settings import TeacherSettings
from client_app.teachers.source import describe
from client_app.teachers.weights import find_weights
from common.data.load import load
from common.data.plan import plan
from common.errors import ModelError, SettingsError
from tests.tiny_teacher import DATA, teachers_file, tiny_teacher

CLASSES = tuple("0123456789")


@dataclass
class Asked:
    """What the image and text towers were asked."""

    loads: int = 0
    images: int = 0
    sentences: list[str] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    for backbone in ("resnet", "vit"):
        tiny_teacher(backbone)
    count = Asked()
    start, embed, classifier = Clip.__init__, Clip.embed, Clip.classifier

    def counted_start(self: Clip, *arguments: Any) -> None:
        count.loads += 1
        start(self, *arguments)

    def counted_embed(self: Clip, pixels: np.ndarray) -> torch.Tensor:
        count.images += len(pixels)
        return embed(self, pixels)

    def counted_classifier(self: Clip, texts: list[list[str]]) -> torch.Tensor:
        count.sentences += [sentence for row in texts for sentence in row]
        return classifier(self, texts)

    monkeypatch.setattr(Clip, "__init__", counted_start)
    monkeypatch.setattr(Clip, "embed", counted_embed)
    monkeypatch.setattr(Clip, "classifier", counted_classifier)
    return count


def digits(n: int = 24) -> tuple[np.ndarray, torch.Tensor]:
    """Pictures, shape (n, 3, 8, 8), and labels that no teacher was trained on."""
    images = load("digits", channels=3)
    shares = plan(images.labels, DATA).clients
    chosen = np.concatenate([np.concatenate([c.support, c.query]) for c in shares])[:n]
    return images.pixels(chosen), torch.from_numpy(images.labels[chosen])


def teachers(path: Path, pixels: np.ndarray, labels: torch.Tensor) -> Teachers:
    return Teachers(path, "digits", CLASSES, labels, lambda size: pixels)


def table(backbone: str = "resnet", more: str = "") -> str:
    return f'model = "local-dir:{tiny_teacher(backbone)}"\n{more}'  # type: ignore[arg-type]


def test_zero_shot_by_definition(tmp_path: Path):
    """logits = scale * cos(image, mean direction of the class's sentences), and mostly right."""
    pixels, labels = digits()
    answers = teachers(teachers_file(tmp_path, table()), pixels, labels).answers(embeddings=True)
    source = describe(TeacherSettings(model=f"local-dir:{tiny_teacher()}"))
    clip = Clip(source, find_weights(source))
    with torch.inference_mode():
        images = F.normalize(clip.model.encode_image(clip.prepare(pixels)), dim=1)
        import open_clip

        tokenizer = open_clip.get_tokenizer(source.model)
        rows = []
        for name in CLASSES:
            prompts = [
                f"a handwritten {name}.",
                f"the digit {name}.",
                f"a photo of the number {name}.",
            ]
            each = F.normalize(clip.model.encode_text(tokenizer(prompts)), dim=1)
            rows.append(F.normalize(each.mean(0), dim=0))
        expected = clip.model.logit_scale.exp() * images @ torch.stack(rows).T
    assert answers.logits.shape == (1, len(labels), 10)
    torch.testing.assert_close(answers.logits[0], expected, atol=0.03, rtol=2e-3)
    torch.testing.assert_close(answers.embeddings[0], images, atol=1e-3, rtol=1e-3)
    assert float((answers.logits[0].argmax(1) == labels).float().mean()) > 0.5


def test_asked_once_and_cached_as_float16(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    path = teachers_file(tmp_path, table())
    first = teachers(path, pixels, labels).answers()
    assert (asked.loads, asked.images, len(asked.sentences)) == (1, len(labels), 30)
    again = teachers(path, pixels, labels).answers()
    assert asked.loads == 1
    torch.testing.assert_close(first.logits, again.logits, rtol=0, atol=0)
    (kept,) = (tmp_path / "cache").rglob("logits-*")
    half = first.logits[0].numpy().astype("<f2")
    assert all(row.tobytes() in kept.read_bytes() for row in half)


def test_cached_answers_need_no_open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, table())
    first = teachers(path, pixels, labels).answers()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    torch.testing.assert_close(teachers(path, pixels, labels).answers().logits, first.logits)
    (tmp_path / "cache" / "sources.json").write_text("torn {", encoding="utf-8")
    with pytest.raises(ModelError, match="needs open_clip"):
        teachers(path, pixels, labels).answers()


def test_new_images_alone_are_asked(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    path = teachers_file(tmp_path, table())
    before = teachers(path, pixels[:20], labels[:20]).answers()
    after = teachers(path, pixels[::-1].copy(), labels.flip(0)).answers()
    assert asked.images == len(labels)
    assert len(asked.sentences) == 30
    torch.testing.assert_close(after.logits.flip(1)[:, :20], before.logits, rtol=0, atol=0)
    teachers(path, pixels[3:9], labels[3:9]).answers()
    assert asked.loads == 2


def test_changed_labels_alone_change_nothing(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    path = teachers_file(tmp_path, table())
    teachers(path, pixels, labels).answers()
    teachers(path, pixels, (labels + 1) % 10).answers()
    assert asked.loads == 1


def test_new_prompts_ask_no_image_again(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    old = teachers(teachers_file(tmp_path, table()), pixels, labels).answers()
    path = teachers_file(tmp_path, table(), head='prompts = ["one {}"]')
    new = teachers(path, pixels, labels).answers()
    assert asked.images == len(labels)
    assert asked.sentences[30:] == [f"one {name}" for name in CLASSES]
    assert not torch.equal(old.logits, new.logits)
    path = teachers_file(tmp_path, table(), head='prompts = ["one {}"]\n[class-names]\n7 = "seven"')
    teachers(path, pixels, labels).answers()
    assert asked.sentences[40:] == ["one seven"]
    assert asked.images == len(labels)


def test_new_weights_and_new_preprocessing_ask_everything_again(tmp_path: Path, asked: Asked):
    pixels, labels = digits(10)
    folder = shutil.copytree(tiny_teacher(), tmp_path / "clip")
    path = teachers_file(tmp_path, 'model = "local-dir:clip"')
    teachers(path, pixels, labels).answers()
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace("bicubic", "bilinear"))
    teachers(path, pixels, labels).answers()
    assert (asked.images, len(asked.sentences)) == (20, 60)
    shutil.copy(tiny_teacher() / "open_clip_model.safetensors", folder)
    teachers(path, pixels, labels).answers()
    assert asked.images == 20
    weights = folder / "open_clip_model.safetensors"
    from safetensors.torch import load_file, save_file

    changed = load_file(weights)
    changed["visual.conv1.weight"] *= 1.5
    save_file(changed, weights)
    teachers(path, pixels, labels).answers()
    assert (asked.images, len(asked.sentences)) == (30, 90)


@pytest.mark.parametrize("kind", ["logits", "embeddings", "classifier"])
def test_a_torn_file_is_rebuilt(tmp_path: Path, asked: Asked, kind: str):
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, table())
    whole = teachers(path, pixels, labels).answers(embeddings=True)
    (file,) = (tmp_path / "cache").rglob(f"{kind}-*")
    file.write_bytes(file.read_bytes()[:-7])
    again = teachers(path, pixels, labels).answers(embeddings=True)
    torch.testing.assert_close(again.logits, whole.logits, rtol=0, atol=0)
    torch.testing.assert_close(again.embeddings, whole.embeddings, rtol=0, atol=0)
    assert asked.images == (20 if kind == "embeddings" else 10)


def test_unloaded_before_anything_is_trained(tmp_path: Path):
    pixels, labels = digits(10)
    owner = teachers(teachers_file(tmp_path, table()), pixels, labels)
    answers = owner.answers()
    gc.collect()
    kinds = Counter(type(thing).__name__ for thing in gc.get_objects())
    assert kinds["Clip"] == kinds["ModifiedResNet"] == 0
    assert not answers.logits.requires_grad


def test_several_teachers_are_weighted_and_asked_one_by_one(tmp_path: Path, asked: Asked):
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, table(more="weight = 3.0"), table("vit", "weight = 1.0"))
    answers = teachers(path, pixels, labels).answers(embeddings=True)
    assert answers.logits.shape == (2, 10, 10)
    assert [tuple(e.shape) for e in answers.embeddings] == [(10, 32), (10, 32)]
    torch.testing.assert_close(answers.weights, torch.tensor([0.75, 0.25]))
    assert asked.loads == 2


def test_a_tuned_head_follows_the_local_labels(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    zero = teachers(teachers_file(tmp_path, table("vit")), pixels, labels).answers()
    more = 'tuning = "head"\ntuning-epochs = 60\ntuning-lr = 0.05'
    path = teachers_file(tmp_path, table("vit", more))
    tuned = teachers(path, pixels, labels).answers()
    before, after = (F.cross_entropy(a.logits[0], labels) for a in (zero, tuned))
    assert float(after) < 0.6 * float(before)
    assert asked.images == len(labels)  # the head needs the embeddings alone, which are there
    absent = sorted(set(range(10)) - set(labels.tolist()))
    assert absent, "the fixture must lack a class"
    # Tuning on few classes unlearns the others: the paper's reason for zero-shot teachers.
    share = [F.softmax(a.logits[0], 1)[:, absent].sum(1).mean() for a in (zero, tuned)]
    assert float(share[1]) < float(share[0])
    teachers(path, pixels, (labels + 1) % 10).answers()
    assert len(list((tmp_path / "cache").rglob("logits-*"))) == 3


def test_a_fully_tuned_teacher_has_embeddings_of_its_own(tmp_path: Path, asked: Asked):
    pixels, labels = digits()
    plain = teachers(teachers_file(tmp_path, table("vit")), pixels, labels).answers(True)
    path = teachers_file(tmp_path, table("vit", 'tuning = "full"\ntuning-lr = 0.01'))
    tuned = teachers(path, pixels, labels).answers(True)
    before, after = (F.cross_entropy(a.logits[0], labels) for a in (plain, tuned))
    assert float(after) < float(before)
    assert not torch.allclose(plain.embeddings[0], tuned.embeddings[0], atol=0.01)
    loads = asked.loads
    again = teachers(path, pixels, labels).answers(True)
    assert asked.loads == loads
    torch.testing.assert_close(again.logits, tuned.logits, rtol=0, atol=0)
    untouched = teachers(teachers_file(tmp_path, table("vit")), pixels, labels).answers(True)
    torch.testing.assert_close(untouched.logits, plain.logits, rtol=0, atol=0)


def test_without_room_nothing_is_loaded(tmp_path: Path, asked: Asked):
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, table(), head="memory = 50")
    with pytest.raises(NotEnoughMemory, match="50 MiB are granted"):
        teachers(path, pixels, labels).answers()
    assert asked.loads == 0
    teachers(teachers_file(tmp_path, table()), pixels, labels).answers()
    teachers(path, pixels, labels).answers()  # all of it is cached now
    assert asked.loads == 1


def test_the_teachers_that_fit_go_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    pixels, labels = digits(10)
    big = describe(TeacherSettings(model="ViT-B-32", pretrained="openai"))
    weights = tmp_path / "big.safetensors"
    weights.write_bytes(b"never read")
    limit = 300
    assert sum(big.skeleton()) * 8 > limit * 2**20
    path = teachers_file(
        tmp_path, f'model = "ViT-B-32"\ncheckpoint = "{weights}"', table(), head=f"memory = {limit}"
    )
    with caplog.at_level(logging.WARNING):
        answers = teachers(path, pixels, labels).answers()
    assert answers.weights.tolist() == [1.0]
    assert answers.left_out == 1
    assert "teacher ViT-B-32 needs" in caplog.text


def test_a_teacher_left_out_comes_back_and_the_others_are_not_asked_again(
    tmp_path: Path, asked: Asked
):
    pixels, labels = digits(10)
    folder = shutil.copytree(tiny_teacher("vit"), tmp_path / "vit")
    weights = folder / "open_clip_model.safetensors"
    owner = teachers(
        teachers_file(tmp_path, table(), f'model = "local-dir:{folder}"'), pixels, labels
    )
    away = weights.rename(tmp_path / "away.safetensors")
    assert (owner.answers().left_out, asked.loads) == (1, 1)
    away.rename(weights)
    answers = owner.answers()
    assert (answers.left_out, len(answers.weights), asked.loads) == (0, 2, 2)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/no/such"])
def test_a_cache_that_cannot_be_written_is_found_before_the_run(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("here already")
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, table())
    path.write_text(path.read_text().replace(str(tmp_path / "cache"), str(tmp_path / place)))
    with pytest.raises(SettingsError, match=r"teachers\.toml: cache = .* cannot be written"):
        teachers(path, pixels, labels).check()


def test_where_the_disk_fails_answers_stay_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pixels, labels = digits(10)
    whole = teachers(teachers_file(tmp_path / "good", table()), pixels, labels).answers(True)
    path = teachers_file(tmp_path, table())
    (tmp_path / "cache").write_text("no folder")
    owner = teachers(path, pixels, labels)
    torch.testing.assert_close(owner.answers(True).logits, whole.logits)
    assert "kept in memory alone" in caplog.text
    caplog.clear()
    torch.testing.assert_close(owner.answers(True).embeddings, whole.embeddings)
    assert not caplog.text


def test_check_reads_the_file_again(tmp_path: Path):
    pixels, labels = digits(10)
    path = teachers_file(tmp_path, 'model = "local-dir:nowhere"')
    owner = teachers(path, pixels, labels)
    with pytest.raises(ModelError, match="nowhere"):
        owner.check()
    teachers_file(tmp_path, table(), head='prompts = ["no place"]')
    with pytest.raises(SettingsError, match="placeholder"):
        owner.check()
    teachers_file(tmp_path, table())
    owner.check()
    assert owner.answers().logits.shape == (1, 10, 10)


def test_how_good_a_teacher_is_here_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "client_app")
    pixels, labels = digits()
    path = teachers_file(tmp_path, table())
    said = teachers(path, pixels, labels).answers().logits[0]
    share = 100 * float((said.argmax(1) == labels).float().mean())
    teachers(path, pixels, labels).answers()
    (record,) = [record for record in caplog.records if "right for" in record.message]
    assert f"right for {share:.0f} % of this device's 24 images" in record.message
    assert record.levelno == (logging.INFO if share > 10 else logging.WARNING)


def test_a_teacher_that_knows_nothing_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    pixels, labels = digits()
    path = teachers_file(tmp_path, table())
    wrong = (teachers(path, pixels, labels).answers().logits[0].argmax(1) + 1) % 10
    for file in tmp_path.rglob("logits-*"):
        file.unlink()
    teachers(path, pixels, wrong).answers()
    assert "right for 0 % of this device's 24 images; guessing, for 10 %" in caplog.text


def test_progress_is_logged_where_there_is_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "client_app")
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(clip_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for part in clip_module.batches(range(40), "teacher T"):
        assert len(part) == 8
    told = [record.message for record in caplog.records]
    # A batch takes 20 s; a line comes after 40 s and after 80 s.
    assert told == [
        "teacher T: 16 of 40 images, about 60 s left",
        "teacher T: 32 of 40 images, about 20 s left",
    ]


def test_progress_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pixels, labels = digits(10)
    for terminal, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", terminal)
        path = teachers_file(tmp_path / str(shown), table())
        teachers(path, pixels, labels).answers()
        assert ("100%" in terminal.getvalue()) is shown
