"""Where networks compute: the CPU, or an accelerator that PyTorch knows.

On an accelerator all that is made inside ``computing`` is made there, as PyTorch's default device
says; what travels, is kept on disk or added up stays on the CPU. On the CPU nothing is different.
CUDA is looked for when work begins, never before: a process that forks must not have touched it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.errors import MemoryLackError, SettingsError

CPU = torch.device("cpu")


def accelerator(name: str) -> torch.device:
    """The device that a setting names; ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    SettingsError: there is no such one.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    wanted = torch.device("cuda:0" if name in ("auto", "cuda") else name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (wanted.index or 0) >= found:
        raise SettingsError(
            f"device={name}: PyTorch finds {found} CUDA devices here; set device=auto or cpu, or "
            "install a driver and a PyTorch that was built for it"
        )
    return wanted


@contextmanager
def computing(where: torch.device, batch: str, share: float = 1.0) -> Iterator[None]:
    """Inside, new tensors and networks are made on ``where``.

    Parameters
    ----------
    batch: what is computed at once, in words, for the error.
    share: of the accelerator's memory that this process may take.

    Raises
    ------
    MemoryLackError: the accelerator's memory does not suffice; what was taken of it is given back.
    """
    if where.type == "cpu":
        yield
        return
    if where.type == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share, where)
    try:
        with where:
            yield
    except torch.OutOfMemoryError as error:
        said = str(error).partition(". ")[0]
        raise MemoryLackError(
            f"{where} has too little memory for {batch}: {said}. Take smaller batches or a smaller "
            "model, let fewer processes share it, or set device=cpu for this node"
        ) from error
    finally:
        if where.type == "cuda":
            torch.cuda.empty_cache()  # others may share it
