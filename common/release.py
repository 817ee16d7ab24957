"""Which release of AugFlower this is."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Version of the installed package; empty where the code runs without being installed."""
    try:
        return version("augflower")
    except PackageNotFoundError:
        return ""
