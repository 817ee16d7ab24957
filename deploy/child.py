"""``python -m deploy.child PARENT COMMAND ...``: an augflower command that ends with its parent.

A parent that is killed outright can stop nobody; the kernel sends its children SIGTERM instead.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Get SIGTERM when the process ``parent``, which has started this one, is gone.

    Raises
    ------
    SystemExit: it is gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(f"process {parent}, which has started this one, is gone")


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    from deploy.cli import main

    main()
