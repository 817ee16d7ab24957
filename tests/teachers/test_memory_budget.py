"""Free memory, and teachers that do not fit into it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client_app.teachers import memory_budget
from client_app.teachers.memory_budget import MIB, RESERVE, NotEnoughMemory, check_memory, needed
from common.files import write_json


def test_weights_count_twice_and_full_tuning_more():
    assert needed(100) == 800 + RESERVE
    assert needed(100, 60, 5) == 400 + 720 + 60 + RESERVE


PEAK = """
import sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from client_app.teachers import tuning
from client_app.teachers.clip import Clip
from client_app.teachers.settings import TeacherSettings
from client_app.teachers.source import describe

folder, how, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
source = describe(TeacherSettings(model=f"local-dir:{folder}", tuning=how, tuning_epochs=1))
torch.set_num_threads(1)
def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

if step == "write":
    weights = {name: value.contiguous() for name, value in source.create().state_dict().items()}
    save_file(weights, folder / "model.safetensors")
else:
    expected = source.bytes_needed()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far counts no more
    base = peak()
    clip = Clip(source, folder / "model.safetensors")
    classifier = clip.classifier([["a"], ["b"]])
    pixels = np.zeros((16, 3, 28, 28), np.uint8)
    if how == "full":
        tuning.tune_full(source.settings, clip, pixels, torch.arange(16) % 2, classifier)
    clip.embed(pixels[:8])
    print(peak() - base, expected)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize("tuning", ["none", "full"])
def test_what_is_asked_for_is_what_is_taken(tmp_path: Path, tower: str, tuning: str):
    """Peak of the resident memory of a process that does it, for towers of some 100 MB."""
    towers: dict[str, dict[str, Any]] = {
        "vit": {"layers": 6, "width": 576, "head_width": 64, "patch_size": 16},
        "resnet": {"layers": [2, 2, 2, 2], "width": 56, "patch_size": None},
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    config = {"embed_dim": 64, "vision_cfg": {"image_size": 224, **towers[tower]}, "text_cfg": text}
    write_json(tmp_path / "open_clip_config.json", {"model_cfg": config})
    for step in ("write", "measure"):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(tmp_path), tuning, step],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    taken, expected = map(int, done.stdout.split())
    assert taken <= expected
    assert expected - RESERVE < 1.3 * taken + 64 * MIB


def test_refusal_names_both_numbers_and_the_tighter_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory_budget, "free_memory", lambda: 1000 * MIB)
    with pytest.raises(NotEnoughMemory, match="ViT-L-14 needs 3000 MiB, and 512 MiB are granted"):
        check_memory("ViT-L-14", 3000 * MIB, 512 * MIB)
    for limit in (0, 4000 * MIB):
        with pytest.raises(NotEnoughMemory, match="ViT-L-14 needs 3000 MiB, and 1000 MiB are free"):
            check_memory("ViT-L-14", 3000 * MIB, limit)
    check_memory("ViT-L-14", 512 * MIB, 512 * MIB)
    check_memory("ViT-L-14", 1000 * MIB)
