"""What a class of hardware means for a kit; figures for the smallest usual board of a class."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.provision.settings import Hardware


@dataclass(frozen=True)
class HardwareClass:
    """Defaults of a class of hardware."""

    image: str  # container image
    platform: str  # of the image
    threads: int  # of torch; one core of a shared board stays free for the rest
    groups: str  # system groups that give access to the accelerator
    nvidia: bool  # needs NVIDIA's container runtime
    note: str  # for the kit's README


HARDWARE: dict[Hardware, HardwareClass] = {
    "raspberry-pi": HardwareClass(
        image="augflower-device:arm64",
        platform="linux/arm64",
        threads=3,
        groups="video",
        nvidia=False,
        note="Use a 64-bit system, the official power supply and active cooling: a Pi slows "
        "down from 80 degrees Celsius. `augflower doctor` says when it does.",
    ),
    "jetson": HardwareClass(
        image="augflower-device:jetson",
        platform="linux/arm64",
        threads=4,
        groups="video render",
        nvidia=True,
        note="Choose the power mode with `nvpmodel` before a run, and keep swap on NVMe. The "
        "image must match the board's JetPack.",
    ),
    "pc": HardwareClass(
        image="augflower-device:amd64",
        platform="linux/amd64",
        threads=2,
        groups="",
        nvidia=False,
        note="Give the machine a fixed clock source (NTP); nothing else is special.",
    ),
}
