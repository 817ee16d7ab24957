import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from client_app.teachers import weights
from common.data import image_files
from common.models import build
from deploy.doctor import processor, widths
from deploy.doctor.board import check_temperature, check_throttling
from deploy.doctor.finding import Finding, error, exit_code, ok, skipped, to_json, warning
from deploy.doctor.folders import check_data_folder, check_database_folder, check_state_folder
from deploy.doctor.resources import MIB, check_disk, check_memory, disk_needed, memory_needed
from deploy.doctor.sizes import weigh_models, weigh_private_model
from deploy.doctor.table import findings_table, summary
from deploy.doctor.teacher import check_teachers
from deploy.doctor.versions import PACKAGES, check_flower, check_packages, check_python


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1
    return findings[0]


def test_the_doctor_does_not_import_torch_itself():
    program = (
        "import sys; import deploy.doctor.commands, deploy.provision.commands; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_python_and_flower():
    assert check_python((3, 12, 1)).status == "ok"
    assert "needs 3.11" in check_python((3, 10, 9)).cause
    assert check_flower("1.39").status == "ok"
    other = check_flower("1.40")
    assert other.status == "error"
    assert "1.40 on the server" in other.cause
    assert other.remedy == "pip install 'flwr==1.40.*'"


def test_another_package_of_the_same_name_is_told(tmp_path: Path):
    assert check_packages().status == "ok"
    site, home = tmp_path / "site-packages", str(Path(__file__).parents[2])
    for name in PACKAGES:
        other = site / name
        other.mkdir(parents=True)
        (other / "__init__.py").touch()
        found = check_packages([str(site), home])
        assert found.status == "error"
        assert f"Python takes {name!r} from {other}" in found.cause
        assert "an environment of its own" in found.remedy
        assert check_packages([home, str(site)]).status == "ok"
        (other / "__init__.py").unlink()
        other.rmdir()


def test_a_module_of_the_same_name_is_told(tmp_path: Path):
    (tmp_path / "common.py").touch()
    found = check_packages([str(tmp_path), str(Path(__file__).parents[2])])
    assert f"Python takes 'common' from {tmp_path / 'common.py'}" in found.cause


def test_another_package_in_the_same_folder_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    facts = tmp_path / "commons-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: commons\nVersion: 1.0\n")
    (facts / "top_level.txt").write_text("common\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = check_packages([str(tmp_path)], tmp_path)
    assert found.cause == f"the package commons has put its own 'common' into {tmp_path}, too"
    assert check_packages([str(Path(__file__).parents[2])]).status == "ok"


def test_a_device_has_no_server_half_and_is_well(tmp_path: Path):
    for name in ("common", "client_app"):
        (tmp_path / name).symlink_to(Path(__file__).parents[2] / name)
    assert check_packages([str(tmp_path)]).status == "ok"


def test_torch_works_here():
    finding = processor.check_torch()
    assert finding.status == "ok"
    assert finding.cause.startswith("torch 2")


def dies_from(number: signal.Signals) -> Finding:
    return processor.check_torch(f"import os; os.kill(os.getpid(), {int(number)})")


def test_an_illegal_instruction_does_not_kill_the_doctor():
    finding = dies_from(signal.SIGILL)
    assert finding.status == "error"
    assert "SIGILL" in finding.cause
    assert "2.9.1" in finding.remedy


def test_other_deaths_of_the_trial_are_named():
    assert "memory runs out" in dies_from(signal.SIGKILL).cause
    assert "SIGSEGV" in dies_from(signal.SIGSEGV).cause
    missing = processor.check_torch("import no_such_torch")
    assert "No module named 'no_such_torch'" in missing.cause
    assert "more than 0 s" in processor.check_torch("import time; time.sleep(60)", 0.3).cause


def test_a_processor_without_atomics_is_warned_of(tmp_path: Path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n")
    assert processor.check_atomics(cpuinfo, "aarch64").status == "warning"
    cpuinfo.write_text("processor : 0\nFeatures\t: fp asimd evtstrm atomics cpuid\n")
    assert processor.check_atomics(cpuinfo, "aarch64").status == "ok"
    assert processor.check_atomics(cpuinfo, "x86_64").status == "ok"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with 2048 MiB free, 1024 MiB of it swap, and a container's limit."""
    (tmp_path / "proc").mkdir()
    text = f"MemAvailable: {1024 * 1024} kB\nSwapFree: {1024 * 1024} kB\nHugePages_Total: 0\n"
    (tmp_path / "proc/meminfo").write_text(text)
    return tmp_path


def limit(root: Path, maximum: str, current: int = 0) -> None:
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(maximum)
    (group / "memory.current").write_text(str(current))


def test_memory_is_weighed_against_the_need(root: Path):
    assert check_memory(1000 * MIB, root).status == "ok"
    assert check_memory(2000 * MIB, root).status == "warning"
    assert check_memory(3000 * MIB, root).status == "error"


def test_a_containers_limit_counts(root: Path):
    limit(root, str(600 * MIB), 400 * MIB)
    finding = check_memory(300 * MIB, root)
    assert finding.cause.startswith("200 MiB free, 300 MiB needed")
    assert finding.status == "warning"


def test_no_limit_is_no_limit(root: Path):
    limit(root, "max\n")
    assert check_memory(1000 * MIB, root).status == "ok"


def test_unknown_memory_is_skipped(tmp_path: Path):
    assert check_memory(1, tmp_path).status == "skipped"


def test_memory_needed_grows_with_the_model():
    assert memory_needed() == 525 * MIB
    assert memory_needed(10_000_000) - memory_needed() == 4 * 5.5 * 10_000_000
    assert memory_needed(private=MIB) - memory_needed() == 2 * MIB
    assert disk_needed(10_000_000) - disk_needed() == 4 * 4 * 10_000_000


def test_models_are_weighed_by_name_and_by_number():
    finding, count = weigh_models("resnet18", own="1000")
    built = build("resnet18", classes=10, channels=3, image_size=64)
    assert count == sum(p.numel() for p in built.parameters()) + 1000
    assert finding.cause == f"resnet18: {count - 1000:,} parameters, 1000: 1,000 parameters"
    assert weigh_models("") == (skipped("model", weigh_models("")[0].cause), 0)
    wrong, count = weigh_models("resnet19")
    assert (wrong.status, count) == ("error", 0)
    assert "near: resnet18" in wrong.cause


def test_a_private_model_is_weighed_where_it_is(tmp_path: Path):
    variable = "AUGFLOWER_PRIVATE_MODEL"
    assert weigh_private_model({})[0].status == "skipped"
    assert weigh_private_model({variable: "timm:resnet18.a1_in1k"})[0].status == "skipped"
    assert weigh_private_model({variable: str(tmp_path / "gone")})[0].status == "error"
    (tmp_path / "weights-1.safetensors").write_bytes(bytes(1000))
    without_card = weigh_private_model({variable: str(tmp_path)})
    assert (without_card[0].status, without_card[1]) == ("error", 0)
    (tmp_path / "card.json").write_text("{}")
    for place in (str(tmp_path), f"resnet18@{tmp_path}/weights-1.safetensors"):
        finding, size = weigh_private_model({variable: place})
        assert (finding.status, size) == ("ok", 1000)


def test_disk(tmp_path: Path):
    assert check_disk(tmp_path / "not/yet/there").status == "ok"
    full = check_disk(tmp_path, 10**18)
    assert full.status == "error"
    assert "FLWR_HOME/apps" in full.remedy


def test_a_state_folder(tmp_path: Path):
    assert check_state_folder(tmp_path).status == "ok"
    assert list(tmp_path.iterdir()) == []
    fresh = check_state_folder(tmp_path / "none/yet")
    assert fresh.status == "ok"
    assert f"can be made in {tmp_path}" in fresh.cause
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    missing = check_state_folder(tmp_path / "file/none")
    assert missing.status == "error"
    assert "mkdir -p" in missing.remedy


def test_an_unwritable_state_folder():
    # Not even root may make files in /proc.
    finding = check_state_folder(Path("/proc"))
    assert finding.status == "error"
    assert "cannot be written" in finding.cause


def test_a_database_on_a_network_share(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw 0 0\nnas:/x /srv/share nfs4 rw 0 0\n")
    assert "nfs4" in check_database_folder(Path("/srv/share/state"), mounts).cause
    assert check_database_folder(Path("/srv/shared"), mounts).status == "ok"


def images(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.PNG").write_bytes(b"image")
    return folder


def test_the_doctor_counts_the_same_files_as_the_data_code(tmp_path: Path):
    images(tmp_path, cat=3, dog=2)
    (tmp_path / "cat/notes.txt").write_text("x")
    (tmp_path / "cat/.hidden.png").write_text("x")
    counted = sum(len(files) for files in image_files.list_classes(tmp_path).values())
    finding = only(check_data_folder(tmp_path))
    assert (finding.status, counted) == ("ok", 5)
    assert "5 images of 2 classes" in finding.cause


def test_unlabelled_images_are_an_error(tmp_path: Path):
    (tmp_path / "1.png").write_bytes(b"x")
    finding = only(check_data_folder(tmp_path))
    assert "no subfolders" in finding.cause
    assert "one subfolder for each class" in finding.remedy


def test_an_empty_class_and_a_class_of_one_are_named(tmp_path: Path):
    images(tmp_path, cat=3, dog=0)
    assert "no images in dog" in only(check_data_folder(tmp_path)).cause
    (tmp_path / "dog/1.png").write_bytes(b"x")
    assert [f.status for f in check_data_folder(tmp_path)] == ["ok", "error"]


def test_a_missing_data_folder(tmp_path: Path):
    assert "does not exist" in only(check_data_folder(tmp_path / "none")).cause


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_an_unreadable_data_folder(tmp_path: Path):
    images(tmp_path, cat=3)
    (tmp_path / "cat").chmod(0)
    assert "cannot be read" in only(check_data_folder(tmp_path)).cause


def test_an_unreadable_image_is_named(tmp_path: Path, monkeypatch):
    images(tmp_path, cat=2)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "1.PNG")
    finding = only(check_data_folder(tmp_path))
    assert "1.PNG cannot be read" in finding.cause


def teachers_finding(tmp_path: Path, text: str) -> Finding:
    path = tmp_path / "teachers.toml"
    path.write_text(text, encoding="utf-8")
    return only(check_teachers(path))


def test_a_teachers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("open_clip")
    assert only(check_teachers(None)).status == "skipped"
    assert "cannot be read" in only(check_teachers(tmp_path / "gone.toml")).cause
    vit = '[[teacher]]\nmodel = "ViT-B-32"\n'
    wrong = {
        '[[teacher]]\nmodel = "ViT-B32"\npretrained = "openai"': "near: .*ViT-B-32",
        vit + 'pretrained = "opena"': "no weights 'opena'; near: openai",
        vit: "has no weights: give checkpoint",
        vit + 'checkpoint = "gone.pt"': "gone.pt is not a file",
        vit + 'checkpoint = "stub.pt"': "stub.pt is damaged",
        'prompts = ["a photo"]\n' + vit: "has no placeholder",
        vit + 'pretraind = "openai"': "unknown setting",
        '[[teacher]]\nmodel = "local-dir:gone"': "open_clip_config.json cannot be read",
    }
    (tmp_path / "stub.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    for text, message in wrong.items():
        finding = teachers_finding(tmp_path, text)
        assert finding.status == "error"
        assert re.search(message, finding.cause), finding.cause
    tagged = teachers_finding(tmp_path, vit + 'pretrained = "openai"')
    assert tagged.status == "warning"
    assert "fetched before its first run" in tagged.cause
    torch.save({"weight": torch.zeros(3)}, tmp_path / "whole.pt")
    foreign = teachers_finding(tmp_path, vit + 'checkpoint = "whole.pt"')
    assert foreign.status == "error"
    assert "does not hold its weights" in foreign.cause
    cramped = teachers_finding(tmp_path, "memory = 100\n" + vit + 'checkpoint = "whole.pt"')
    assert cramped.status == "warning"
    assert "trains without it" in cramped.cause
    monkeypatch.setattr(weights, "check_file", lambda *_: None)
    doubtful = teachers_finding(tmp_path, vit + 'checkpoint = "whole.pt"')
    assert doubtful.status == "warning"
    assert "quick_gelu=false" in doubtful.cause
    sure = teachers_finding(tmp_path, vit + 'checkpoint = "whole.pt"\npretrained = "openai"')
    assert sure.status == "ok"


def test_a_teachers_cache(tmp_path: Path):
    pytest.importorskip("open_clip")
    rest = '\n[[teacher]]\nmodel = "ViT-B-32"\npretrained = "openai"'
    (tmp_path / "file").touch()
    for place in ("file", "/proc/no/such"):
        path = tmp_path / "teachers.toml"
        path.write_text(f'cache = "{place}"' + rest, encoding="utf-8")
        first, *_ = check_teachers(path)
        assert first.status == "error"
        assert "cannot be written" in first.cause
    teachers_finding(tmp_path, 'cache = "a/b"' + rest)
    assert not (tmp_path / "a").exists(), "the doctor leaves no folder behind that is root's"


def test_a_teacher_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "open_clip is not installed" in only(check_teachers(tmp_path)).cause


def pi(root: Path, report: str = "") -> Path:
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    if report:
        firmware = root / "sys/devices/platform/soc/soc:firmware"
        firmware.mkdir(parents=True)
        (firmware / "get_throttled").write_text(report)
    return root


def test_throttling_is_not_applicable_elsewhere(tmp_path: Path):
    assert check_throttling(tmp_path).status == "skipped"


def test_a_pi_at_full_speed(tmp_path: Path):
    assert check_throttling(pi(tmp_path, "0\n")).status == "ok"


def test_a_pi_that_slows_down_says_why(tmp_path: Path):
    finding = check_throttling(pi(tmp_path, "50005\n"))
    assert finding.status == "warning"
    assert "voltage is too low" in finding.cause
    assert "is throttled" in finding.cause
    assert "earlier" not in finding.cause  # both still go on
    assert "power supply" in finding.remedy
    assert "cooling" in finding.remedy


def test_a_pi_that_was_hot_earlier(tmp_path: Path):
    finding = check_throttling(pi(tmp_path, "80000"))
    assert "soft temperature limit is active, earlier" in finding.cause
    assert "power supply" not in finding.remedy


def test_vcgencmd_is_asked_where_sysfs_is_silent(tmp_path: Path, monkeypatch):
    program = tmp_path / "bin/vcgencmd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho throttled=0x1\n")
    program.chmod(0o755)
    pi(tmp_path)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    finding = check_throttling(tmp_path)
    assert "voltage is too low" in finding.cause
    assert "cooling" not in finding.remedy
    program.write_text("#!/bin/sh\necho 'VCHI initialization failed' >&2; exit 1\n")
    assert check_throttling(tmp_path).status == "skipped"


def test_temperature(tmp_path: Path):
    assert check_temperature(tmp_path).status == "skipped"
    for number, value in enumerate(("41000", "not a number", "83500")):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(value)
    finding = check_temperature(tmp_path)
    assert finding.status == "warning"
    assert finding.cause.startswith("84 degrees")


def test_findings_for_people_and_programs():
    findings = [ok("a", "fine"), warning("b", "[soon]", "renew"), skipped("c", "n/a")]
    assert exit_code(findings) == 0
    assert summary(findings) == "1 warning"
    findings.append(error("d", "broken", "repair"))
    assert exit_code(findings) == 1
    assert summary(findings) == "1 error, 1 warning"
    content = json.loads(to_json(findings))
    assert content["healthy"] is False
    assert content["findings"][3] == {
        "check": "d", "status": "error", "cause": "broken", "remedy": "repair",
    }  # fmt: skip
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(findings_table(findings))
    text = console.export_text()
    assert "[soon]" in text
    assert "→ repair" in text


def test_the_width_that_memory_allows(monkeypatch: pytest.MonkeyPatch):
    run = {"method": "raffm", "data.image-size": 28, "raffm.sgd.batch-size": 10}
    for free, width in ((2**30, "1"), (8 * MIB, "0.5"), (MIB, "0.25")):
        monkeypatch.setattr(widths, "free_memory", lambda free=free: free)
        found = widths.check_width("cnn-small", {}, run)
        assert found.status == "ok"
        assert found.cause.startswith(f"{width} with 10 images a step: ")
    assert widths.check_width("cnn-small", {"width": 0.5}, run).cause.startswith("0.5, as set")
    assert widths.check_width("", {}, run).status == "skipped"
    refused = widths.check_width("resnet8x4-gn", {}, run)
    assert refused.status == "warning"
    assert "no units that could be left out" in refused.cause
