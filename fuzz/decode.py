"""Fuzz the decoder with atheris: ``make fuzz``, or

python -m fuzz.decode fuzz/corpus -max_total_time=300 -timeout=5 -rss_limit_mb=2048
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["common", "server_app", "flwr.common", "flwr.app"]):
    from fuzz.target import decode


def main() -> None:
    """Run until something is found, or the time is up."""
    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
