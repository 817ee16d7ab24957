"""How much memory a process may still take: one probe for the doctor and for teachers."""

from __future__ import annotations

from pathlib import Path


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that are free on the machine and within each control group (v2) of this process.

    What the kernel gives back on demand counts as free: file pages that are in a cache. Returns
    None where the system does not say.
    """
    free = [value for value in (meminfo(root).get("MemAvailable"),) if value is not None]
    base = root / "sys/fs/cgroup"
    own = base
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            own = base / line.removeprefix("0::").strip().lstrip("/")
    for group in (own, *own.parents):
        limit = _read(group / "memory.max").strip()
        if limit.isdigit():
            free.append(int(limit) - _used(group))
        if group == base:
            break
    return max(min(free), 0) if free else None


def meminfo(root: Path = Path("/")) -> dict[str, int]:
    """``/proc/meminfo`` in bytes; empty where there is none."""
    pairs = (line.split(":") for line in _read(root / "proc/meminfo").splitlines() if ":" in line)
    return {key: int(value.split()[0]) * 1024 for key, value in pairs if value.split()}


def _used(group: Path) -> int:
    used = int(_read(group / "memory.current").strip() or 0)
    for line in _read(group / "memory.stat").splitlines():
        # Not "file", which counts shared memory as well; that stays until it is deleted.
        if line.startswith(("inactive_file ", "active_file ")):
            used -= int(line.split()[1])
    return used


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
