"""PyTorch on this processor, tried in a process of its own: a bad build dies, the doctor lives."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from deploy.doctor.finding import Finding, error, ok, warning

TRIAL = """
import time
start = time.perf_counter()
import torch
product = torch.randn(64, 64) @ torch.randn(64, 64)
loss = torch.nn.functional.conv2d(torch.randn(1, 1, 8, 8), torch.randn(1, 1, 3, 3)).sum()
assert product.isfinite().all() and loss.isfinite()
print(torch.__version__, f"{time.perf_counter() - start:.1f}", torch.get_num_threads())
"""
OTHER_BUILD = (
    "install torch 2.9.1, or 2.11 and later from PyTorch's own CPU index: the aarch64 wheel of "
    "2.10.0 needs atomics that a Raspberry Pi 4, 3 or Zero 2 does not have"
)


def check_torch(program: str = TRIAL, timeout: float = 180) -> Finding:
    """Import torch and multiply two matrices in a subprocess.

    Parameters
    ----------
    program: what to run; it prints version, seconds and threads.
    timeout: seconds after which the import is called stuck; a Pi may need one minute.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONFAULTHANDLER": "0"},
        )
    except subprocess.TimeoutExpired:
        return error(
            "torch",
            f"importing torch took more than {timeout:.0f} s",
            "look for a full or slow SD card and for swapping (`free -m`); reinstall torch",
        )
    if done.returncode < 0:
        return _killed(-done.returncode)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return error(
            "torch",
            f"torch does not work: {lines[-1]}",
            "install torch and torchvision of matching releases in this environment",
        )
    version, seconds, threads = done.stdout.split()[-3:]
    return ok("torch", f"torch {version}, {threads} threads, imported in {seconds} s")


def check_atomics(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = "") -> Finding:
    """Whether a 64-bit ARM processor has the atomics of ARMv8.1, which some builds need."""
    machine = machine or platform.machine()
    if machine not in {"aarch64", "arm64"} or not cpuinfo.exists():
        return ok("processor", f"{machine}, {os.cpu_count()} cores")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    features = next((line.split() for line in lines if line.startswith("Features")), [])
    if not features or "atomics" in features:
        return ok("processor", f"{machine} with ARMv8.1 atomics, {os.cpu_count()} cores")
    return warning(
        "processor",
        f"{machine} without ARMv8.1 atomics, such as a Raspberry Pi 4",
        f"if torch stops with an illegal instruction: {OTHER_BUILD}",
    )


def _killed(number: int) -> Finding:
    name = signal.Signals(number).name
    if number == signal.SIGILL:
        return error(
            "torch",
            "torch uses an instruction that this processor does not have (SIGILL)",
            OTHER_BUILD,
        )
    if number == signal.SIGKILL:
        return error(
            "torch",
            "the system killed the trial (SIGKILL), as it does when memory runs out",
            "add swap, raise the container's memory limit, or stop other programs",
        )
    return error(
        "torch",
        f"the trial died from {name}",
        "reinstall torch, its build does not fit this system",
    )
