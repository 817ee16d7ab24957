"""Downloads through torchvision, whole or not at all."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

TIMEOUT = 30.0  # seconds without a byte, after which a server counts as out of reach


def fetch(dataset: str, folder: Path) -> str | None:
    """Download the torchvision data set ``dataset`` to ``folder``; returns why it failed.

    It is fetched beside its place and renamed at the end, so that an interrupted download, or
    another process that downloads the same, leaves nothing half done.
    """
    from torchvision import datasets

    extra = {"split": "letters"} if dataset == "EMNIST" else {}
    before = socket.getdefaulttimeout()
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        socket.setdefaulttimeout(TIMEOUT)
        getattr(datasets, dataset)(temporary, download=True, **extra)
        for file in temporary.rglob("*"):
            # Archives lie unpacked beside themselves; EMNIST comes with five other splits.
            other = file.name.startswith("emnist-") and "letters" not in file.name
            if file.is_file() and (file.suffix in (".gz", ".zip") or other):
                file.unlink()
        if folder.exists():
            return None
        temporary.rename(folder)
    except (OSError, RuntimeError) as error:
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    finally:
        socket.setdefaulttimeout(before)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return None
