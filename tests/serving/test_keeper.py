"""The model at work: whole, the newest, and never one that is worse on the device's own images."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError, ModelError
from common.files import write_atomic
from common.serving import IMAGES, save_images
from deploy.serving import Serving
from tests.conftest import ROOT
from tests.serving.made import CLASSES, SIZE, graph, picture, place, softmax, weights


def serving(source: Path) -> Serving:
    return Serving(source, source.parent, threads=1)


def hold_out(folder: Path, labels: list[int]) -> None:
    pixels = np.zeros((len(labels), 1, SIZE, SIZE), np.uint8)
    save_images(folder / IMAGES, (pixels, np.asarray(labels, np.int64)))


def test_it_answers_with_names_probabilities_and_a_version(tmp_path: Path) -> None:
    kept = serving(place(tmp_path, (2, 1, 0)))
    assert kept.take()
    version, answers = kept.classify([picture(), picture()])
    assert len(answers) == 2
    assert answers[0].label == "cat"
    assert list(answers[0].probabilities) == list(CLASSES)
    np.testing.assert_allclose(
        list(answers[0].probabilities.values()), softmax((2, 1, 0)), rtol=1e-5
    )
    assert kept.model is not None
    assert version == kept.model.version


def test_pixels_are_scaled_as_the_card_says(tmp_path: Path) -> None:
    source = place(tmp_path)
    weight = np.zeros((3, SIZE * SIZE), np.float32)
    weight[0, 0] = 1.0
    write_atomic(source, weights((0, 0, 0), weight))
    kept = serving(source)
    kept.take()
    _, (answer,) = kept.classify([picture(204)])
    expected = softmax(((204 / 255 - 0.5) / 0.25, 0, 0))
    np.testing.assert_allclose(list(answer.probabilities.values()), expected, rtol=1e-5)


def test_before_the_first_model_it_says_what_it_waits_for(tmp_path: Path) -> None:
    kept = serving(tmp_path / "model.safetensors")
    assert not kept.take()
    with pytest.raises(ModelError, match=r"no model yet: .*model\.safetensors is awaited"):
        kept.classify([picture()])


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    kept = serving(place(tmp_path))
    kept.take()
    with pytest.raises(DataError, match="image 2 cannot be read"):
        kept.classify([picture(), b"none"])


@pytest.mark.parametrize("swaps", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_swaps_lose_no_request_and_mix_no_two_models(tmp_path: Path, swaps: int) -> None:
    source = place(tmp_path)
    kept = serving(source)
    kept.take()
    biases = {k: (0.05 * k, 0.0, -0.03 * k) for k in range(swaps + 1)}
    expected = {round(float(softmax(bias)[0]), 5): softmax(bias) for bias in biases.values()}
    expected[round(float(softmax((2, 0, 0))[0]), 5)] = softmax((2, 0, 0))
    stop, wrong, answered = threading.Event(), [], [0] * 3

    def ask(number: int) -> None:
        while not stop.is_set():
            try:
                _, (answer,) = kept.classify([picture()])
                found = list(answer.probabilities.values())
                np.testing.assert_allclose(found, expected[round(found[0], 5)], atol=2e-5)
                answered[number] += 1
            except Exception as error:
                wrong.append(repr(error))
                return

    askers = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
    [asker.start() for asker in askers]
    for k in range(1, swaps + 1):
        write_atomic(source, weights(biases[k]))
        assert kept.take()
    stop.set()
    [asker.join() for asker in askers]
    assert wrong == []
    assert kept.swaps == swaps + 1
    assert min(answered) > 1


def test_one_that_is_worse_on_held_out_images_is_refused(tmp_path: Path) -> None:
    source = place(tmp_path, (2, 0, 0))
    hold_out(source.parent, [0] * 20)
    kept = serving(source)
    assert kept.take()
    write_atomic(source, weights((0, 2, 0)))  # names all of them wrongly
    assert not kept.take()
    assert (kept.refused, kept.swaps) == (1, 1)
    assert kept.classify([picture()])[1][0].label == "cat"
    again = serving(source)  # nor after a restart
    assert not again.take()
    assert again.classify([picture()])[1][0].label == "cat"


def test_a_difference_within_chance_is_no_reason_to_refuse(tmp_path: Path) -> None:
    source = place(tmp_path, (2, 0, 0))
    hold_out(source.parent, [0] * 11 + [1] * 9)
    kept = serving(source)
    assert kept.take()
    write_atomic(source, weights((0, 2, 0)))  # 9 rightly where it was 11
    assert kept.take()


def test_small_losses_do_not_add_up(tmp_path: Path) -> None:
    """Each step is within chance of the one before, the third is not of the best."""
    source = place(tmp_path)
    labels = [0] * 10
    pixels = np.zeros((10, 1, SIZE, SIZE), np.uint8)
    pixels[np.arange(10), 0, np.arange(10) // SIZE, np.arange(10) % SIZE] = 255
    save_images(source.parent / IMAGES, (pixels, np.asarray(labels, np.int64)))

    kept = serving(source)

    def half_wrong(wrong: int) -> bytes:
        """A model that names the images with a white pixel among the first ``wrong`` as dogs."""
        weight = np.zeros((3, SIZE * SIZE), np.float32)
        weight[1, :wrong] = 10.0
        black = 10.0 * wrong * (0 - 0.5) / 0.25
        return weights((0.0, -black - 20.0, 0.0), weight)

    taken = []
    for wrong in (0, 2, 4, 6):
        write_atomic(source, half_wrong(wrong))
        taken.append(kept.take())
        kept = serving(source)  # what is the best outlives the process
    assert taken == [True, True, True, False]


def test_a_torn_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    source = place(tmp_path)
    kept = serving(source)
    kept.take()
    source.write_bytes(weights((0, 2, 0))[:-10])
    assert not kept.take()
    assert "damaged" in kept.problem
    assert kept.classify([picture()])[1][0].label == "cat"
    write_atomic(source, weights((0, 2, 0)))
    assert kept.take()
    assert kept.problem == ""


def test_it_begins_with_what_was_at_work_last(tmp_path: Path) -> None:
    source = place(tmp_path)
    serving(source).take()
    source.unlink()
    kept = serving(source)
    assert kept.classify([picture()])[1][0].label == "cat"
    (source.parent / "serving.onnx").write_bytes(graph()[:100])
    assert serving(source).model is None


def test_an_exported_file_is_followed_as_well(tmp_path: Path) -> None:
    source = place(tmp_path, (0, 2, 0))
    serving(source).take()
    exported = tmp_path / "exported.onnx"
    exported.write_bytes((source.parent / "serving.onnx").read_bytes())
    kept = Serving(exported, tmp_path / "other", threads=1)
    assert kept.take()
    assert kept.classify([picture()])[1][0].label == "dog"


def test_neither_torch_nor_flower_is_in_the_process(tmp_path: Path) -> None:
    source = place(tmp_path)
    (tmp_path / "image.png").write_bytes(picture())
    code = (
        "import sys; from pathlib import Path; import deploy.serving.__main__; "
        "from deploy.serving import Serving; "
        f"kept = Serving(Path({str(source)!r}), Path({str(source.parent)!r})); assert kept.take(); "
        f"kept.classify([Path({str(tmp_path / 'image.png')!r})]); "
        "print([name for name in ('torch', 'torchvision', 'flwr', 'grpc') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_graph_that_takes_too_long_to_draw_does_not_end_the_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place(tmp_path, (2, 1, 0))
    (source.parent / "graph.onnx").unlink()

    def late(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 1800)

    monkeypatch.setattr(subprocess, "run", late)
    with serving(source) as kept:
        end = time.monotonic() + 10
        while not kept.problem and time.monotonic() < end:
            time.sleep(0.01)
        assert "timed out after 1800 seconds" in kept.problem
        assert kept._thread.is_alive()
