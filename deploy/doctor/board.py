"""Heat and power of a small board: the Raspberry Pi says when it slows itself down."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from deploy.doctor.finding import Finding, ok, skipped, warning

# Bits of the firmware's report; 16 higher: it has happened since the last start.
BITS = {
    0: "the supply voltage is too low",
    1: "the processor's frequency is capped",
    2: "the processor is throttled",
    3: "the soft temperature limit is active",
}
SUPPLY = "use the official power supply (Pi 5: 5 V, 5 A) and a short, thick cable"
COOLING = "add active cooling; from 80 degrees Celsius a Pi slows down"
HOT = 80.0  # degrees Celsius


def check_throttling(root: Path = Path("/")) -> Finding:
    """What a Raspberry Pi's firmware reports about voltage and throttling."""
    model = _model(root)
    if "raspberry pi" not in model.lower():
        return skipped("throttling", "not a Raspberry Pi")
    report = _report(root)
    if report is None:
        return skipped(
            "throttling", f"{model}: neither vcgencmd nor sysfs gives the firmware's report"
        )
    now = [number for number in BITS if report >> number & 1]
    past = [number for number in BITS if report >> 16 + number & 1 and number not in now]
    if not now and not past:
        return ok("throttling", f"{model}: full speed since its start")
    texts = [BITS[number] for number in now]
    texts += [f"{BITS[number]}, earlier since the start" for number in past]
    remedies = [SUPPLY] if 0 in [*now, *past] else []
    remedies += [COOLING] if {*now, *past} - {0} else []
    return warning("throttling", f"{model}: {'; '.join(texts)}", "; ".join(remedies))


def check_temperature(root: Path = Path("/")) -> Finding:
    """The hottest thermal zone."""
    readings = []
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*/temp")):
        try:
            readings.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):  # a zone that is off refuses to be read
            continue
    if not readings:
        return skipped("temperature", "this system shows no thermal zones")
    hottest = max(readings)
    text = f"{hottest:.0f} degrees Celsius at the hottest place"
    return ok("temperature", text) if hottest < HOT else warning("temperature", text, COOLING)


def _model(root: Path) -> str:
    try:
        return (root / "proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        return ""


def _report(root: Path) -> int | None:
    sysfs = root / "sys/devices/platform/soc/soc:firmware/get_throttled"
    try:
        return int(sysfs.read_text(), 16)
    except (OSError, ValueError):
        pass
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    done = subprocess.run(
        [program, "get_throttled"], capture_output=True, text=True, timeout=10, check=False
    )
    _, _, value = done.stdout.strip().partition("=")
    return int(value, 16) if done.returncode == 0 and value else None
