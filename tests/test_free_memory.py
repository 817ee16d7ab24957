"""Free memory, of the machine and within control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from client_app.teachers import memory_budget
from common.free_memory import free_memory
from deploy.doctor.finding import ok
from deploy.doctor.resources import check_memory

MIB = 2**20


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
            "sys/fs/cgroup/system.slice/memory.stat": (
                f"anon 1\nfile 9\ninactive_file {100 * MIB}\nactive_file {50 * MIB}\n"
            ),
        },
    )
    assert free_memory(root) == (512 - 300 + 150) * MIB


def test_this_machine_has_some():
    free = free_memory()
    assert free is not None
    assert free > 50 * MIB


def test_a_system_that_does_not_say(tmp_path: Path):
    assert free_memory(tmp_path) is None


def test_the_doctor_sees_what_teachers_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A container whose page cache has filled its limit."""
    cgroup = tmp_path / "sys/fs/cgroup"
    root = machine(
        tmp_path,
        {
            "proc/meminfo": f"MemAvailable: {4000 * 1024} kB\n",
            "proc/self/cgroup": "0::/\n",
            f"{cgroup}/memory.max": f"{2048 * MIB}\n",
            f"{cgroup}/memory.current": f"{1900 * MIB}\n",
            f"{cgroup}/memory.stat": f"inactive_file {1000 * MIB}\nactive_file {500 * MIB}\n",
        },
    )
    monkeypatch.setattr(memory_budget, "free_memory", lambda: free_memory(root))
    with pytest.raises(memory_budget.NotEnoughMemory, match="1648 MiB are free"):
        memory_budget.check_memory("large", 1700 * MIB)
    assert check_memory(1600 * MIB, root) == ok("memory", "1648 MiB free, 1600 MiB needed")
