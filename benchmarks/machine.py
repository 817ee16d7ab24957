"""What every table says beneath it: machine, versions, date."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import date

import torch


def footer(command: str) -> str:
    """One line for the end of a table."""
    name = platform.processor() or platform.machine()
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return (
        f"`{command}` · {name}, {os.cpu_count()} cores · Python {platform.python_version()}, "
        f"PyTorch {torch.__version__} · {date.today().isoformat()}"
    )


def milliseconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
