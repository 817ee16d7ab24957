"""Free memory, and teachers that do not fit into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_app.teachers import room
from client_app.teachers.room import MIB, RESERVE, NoRoom, check_room, free_memory, needed


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_machines_own(tmp_path: Path):
    root = machine(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 2048 kB\n"})
    assert free_memory(root) == 2 * MIB


def test_the_tightest_control_group_counts(tmp_path: Path):
    group = "sys/fs/cgroup/system.slice/node.service"
    root = machine(
        tmp_path,
        {
            "proc/meminfo": f"MemAvailable: {900 * 1024} kB\n",
            "proc/self/cgroup": "0::/system.slice/node.service\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/memory.max": f"{512 * MIB}\n",
            "sys/fs/cgroup/system.slice/memory.current": f"{300 * MIB}\n",
            "sys/fs/cgroup/system.slice/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
        },
    )
    assert free_memory(root) == (512 - 300 + 100) * MIB


def test_this_machine_has_some():
    assert free_memory() > 50 * MIB


def test_weights_count_twice_and_full_tuning_more():
    assert needed(100, 60, "none") == 800 + RESERVE
    assert needed(100, 60, "full") == 400 + 720 + RESERVE


def test_refusal_names_both_numbers_and_the_tighter_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "free_memory", lambda: 1000 * MIB)
    with pytest.raises(NoRoom, match="ViT-L-14 needs 3000 MiB, and 512 MiB are granted"):
        check_room("ViT-L-14", 3000 * MIB, 512 * MIB)
    for limit in (0, 4000 * MIB):
        with pytest.raises(NoRoom, match="ViT-L-14 needs 3000 MiB, and 1000 MiB are free"):
            check_room("ViT-L-14", 3000 * MIB, limit)
    check_room("ViT-L-14", 512 * MIB, 512 * MIB)
    check_room("ViT-L-14", 1000 * MIB)
