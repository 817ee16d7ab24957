import hashlib
import html
import itertools
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FileError, RunError
from server_app.report import templates, write
from server_app.report.templates import library
from server_app.report.write import write_report
from tests.runs.synthetic import write_meta, write_run

VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that tags are balanced; collects ids, tags, attributes and visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def build(tmp_path: Path, *folders: Path) -> str:
    """The page without the library that it carries."""
    page = write_report(list(folders), tmp_path / "report.html").read_text(encoding="utf-8")
    before, carried, after = page.partition(str(library()))
    assert carried
    return before + after


def words(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Outline(page).text))


def headline(page: str) -> str:
    match = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert match
    return html.unescape(match[1]).replace("\u00a0", " ")


def sections(page: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', page)


def record(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_one_run_has_all_sections_and_the_headline_says_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    page = build(tmp_path, folder)
    assert sections(page) == [
        "accuracy", "clients", "losses", "agreement", "traffic", "time", "replies", "settings",
    ]  # fmt: skip
    first, final = (record(folder)[i]["evaluation"] for i in (0, -1))
    gain = 100 * (final["accuracy_after"] - first["accuracy_after"])
    assert headline(page) == (
        f"{100 * final['accuracy_after']:.1f} % after adaptation on 40 clients that never took "
        f"part, +{gain:.1f} points over the untrained model"
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_the_page_is_whole_and_needs_nothing_else(tmp_path: Path, count: int) -> None:
    folders = [write_run(tmp_path / f"r{i}", seed=i, rounds=10 + i) for i in range(count)]
    page = build(tmp_path, *folders)
    outline = Outline(page)
    assert len(outline.ids) == len(set(outline.ids))
    assert not re.search(r"https?:|(?<!path:)//\w|@import|url\(", page)
    loading = {"src", "href", "srcset", "data", "poster", "action"}
    assert not [a for a in outline.attributes if a[1] in loading]
    labels = [value for tag, name, value in outline.attributes if name == "aria-labelledby"]
    assert labels
    assert all(part in outline.ids for value in labels for part in value.split())


def test_runs_of_a_folder_share_the_script_and_a_broken_one_is_replaced(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    page = write_report([folder], folder / "report.html", tmp_path).read_text(encoding="utf-8")
    script = tmp_path / templates.LIBRARY
    assert f'<script src="../{script.name}"></script>' in page
    assert str(library()) not in page
    script.write_text("half of")
    write_report([folder], folder / "report.html", tmp_path)
    assert script.read_text(encoding="utf-8") == str(library())


def test_the_library_that_draws_is_the_one_that_was_released() -> None:
    script = Path(write.__file__).parent / "page" / "echarts.min.js"
    assert hashlib.sha256(script.read_bytes()).hexdigest() == (
        "61f13280aba3161f77fc801bf5f9c786f55f10432153a0683fc5cc0700b013d5"
    )


def test_the_numbers_are_those_of_the_record(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=20, loses=0.2)
    page, lines = build(tmp_path, folder), record(folder)
    sources = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    drawn = {line["name"]: line for chart in map(json.loads, sources) for line in chart["series"]}
    losses = {x["round"]: x["train"]["loss"] for x in lines if x.get("train")}
    assert drawn["Training loss"]["x"] == list(losses)
    assert drawn["Training loss"]["y"] == pytest.approx(list(losses.values()), rel=1e-5)
    text = words(page)
    missing = sum(len(x.get("missing", [])) for x in lines)
    rejected = sum(len(x.get("rejected", [])) for x in lines)
    assert missing > 0
    assert rejected > 0
    asked = sum(x.get("asked", 0) for x in lines)
    admitted = asked - missing - rejected
    assert f"Of {asked} requests to train, {admitted} were answered and admitted" in text
    assert f"{rejected} replies did not pass the checks" in text
    up = sum(x["bytes_up"] for x in lines)
    assert drawn["up"]["y"][-1] == pytest.approx(up / 1e6, rel=1e-5)
    assert drawn["Rho"]["y"][-1] == lines[-1]["method"]["rho"]
    assert f"{up / 1e6:.3g}\u00a0MB came up".replace("\u00a0", " ") in text
    assert "increment: 3 of 10314 values not finite" in text


def test_with_and_without_the_private_model(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "with")
    base = write_run(tmp_path / "without", private=False, final=0.90)
    page = build(tmp_path, base, ours)
    after = [record(f)[-1]["evaluation"]["accuracy_after"] for f in (ours, base)]
    gain = 100 * (after[0] - after[1])
    assert headline(page) == (
        f"The private model adds {gain:.1f} points: {100 * after[0]:.1f} % with it, "
        f"{100 * after[1]:.1f} % without, on 40 clients that never took part"
    )
    clients = [record(f)[-1]["evaluation"]["clients"] for f in (ours, base)]
    pairs = zip(*clients, strict=True)
    each = np.array([a["accuracy_after"] - b["accuracy_after"] for a, b in pairs])
    weights = np.array([c["examples"] for c in clients[0]], float)
    weights /= weights.sum()
    deviation = each - weights @ each
    error = 100 * np.sqrt(40 / 39 * np.sum((weights * deviation) ** 2))
    assert f"+{gain:.1f} ± {error:.1f}" in words(page)
    differing = re.search(r'<section id="differences".*?</section>', page, re.DOTALL)
    assert differing
    assert re.findall(r"augfl\.\w+|data\.\w+", words(differing[0])) == ["augfl.lambda"]
    assert "by-client" in sections(page)


def test_a_difference_within_the_error_is_not_called_one(tmp_path: Path) -> None:
    ours = write_run(tmp_path / "with", seed=3)
    base = write_run(tmp_path / "without", private=False, seed=4)
    assert headline(build(tmp_path, ours, base)).startswith(
        "The private model makes no clear difference"
    )


def test_other_comparisons_name_the_best(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", method="fedavg", private=False, final=0.7)
    b = write_run(tmp_path / "b", method="per_fedavg", private=False, final=0.9)
    assert headline(build(tmp_path, a, b)).startswith("per_fedavg ends highest: 8")
    page = build(tmp_path, a, write_run(tmp_path / "c", method="x", targets=0, private=False))
    assert headline(page).startswith("fedavg ends highest")


def test_names_from_devices_are_escaped(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    folder = write_run(tmp_path / "a", rounds=2)
    line = {
        "round": 3, "asked": 4, "replies": 1,
        "clients": [{"node": evil, "client": evil, "seconds": 1, "loss": 1, "examples": 1}],
        "missing": [{"node": evil, "reason": evil}],
        "rejected": [{"node": evil, "field": evil, "reason": "</script>" + evil}],
        "train": {evil: 1.0}, "method": {evil: 1.0}, "seconds": {evil: 1.0},
        "evaluation": {
            "accuracy_before": 0.1, "accuracy_after": 0.2,
            "clients": [{"node": evil, "client": evil, "accuracy_after": v} for v in (0.2, 0.3)],
        },
    }  # fmt: skip
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    write_meta(folder, evil, True, "finished", 3, 1, 1, {evil: evil, "data.name": evil})
    for folders in ([folder], [folder, folder]):
        page = build(tmp_path, *folders)
        outline = Outline(page)
        assert "alert(1)" in words(page)
        tags = re.findall(r"<(script|img)\b[^>]*>", page)
        assert "img" not in tags
        bodies = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
        assert not [b for b in bodies if b.strip().startswith("alert")]
        assert not [a for a in outline.attributes if a[1].startswith("on")]


def test_a_run_without_any_round(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", status="running")
    (folder / "metrics.jsonl").write_text("")
    page = build(tmp_path, folder)
    assert headline(page) == "The run has begun"
    assert sections(page) == ["settings"]
    other = write_run(tmp_path / "b")
    assert "ends highest" in headline(build(tmp_path, folder, other))
    assert "none with an evaluation" in headline(build(tmp_path, folder, folder))


def test_sections_without_data_do_not_appear(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", targets=0, method="fedavg", private=False)
    page = build(tmp_path, folder)
    assert sections(page) == ["losses", "traffic", "time", "replies", "settings"]
    assert headline(page) == "40 rounds of training, the trained model was never evaluated"


def test_a_diverged_run_says_so_and_draws_no_nan(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", diverges=23, status="failed")
    page = build(tmp_path, folder)
    reached = max(
        x["evaluation"]["accuracy_after"] or 0 for x in record(folder) if "evaluation" in x
    )
    assert headline(page) == (
        f"The run diverged in round 23; before that it reached {100 * reached:.1f} %"
    )
    assert not re.search(r"\bnan\b|\binf\b", page, re.IGNORECASE)
    both = build(tmp_path, folder, write_run(tmp_path / "b", private=False))
    assert "diverged in round 23" in words(both)
    assert not re.search(r"\bnan\b|\binf\b", both, re.IGNORECASE)


@pytest.mark.parametrize("loss", [1e308, -1e308, 1e-308, 0.0])
def test_extreme_values_draw(tmp_path: Path, loss: float) -> None:
    folder = write_run(tmp_path / "a", rounds=3)
    line = {"round": 4, "asked": 1, "replies": 1, "train": {"loss": loss}, "method": {"rho": -loss}}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    page = build(tmp_path, folder)
    assert not re.search(r"\bnan\b|\binf\b", page, re.IGNORECASE)


def test_a_failed_run_gives_its_reason(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=10, status="failed")
    meta = json.loads((folder / "run.json").read_text())
    meta["error"] = "round 11: the model is no longer finite"
    (folder / "run.json").write_text(json.dumps(meta))
    page = build(tmp_path, folder)
    assert headline(page).startswith("The run failed after 10 rounds, at ")
    assert "the model is no longer finite" in words(page)


def test_only_a_running_page_reloads_itself(tmp_path: Path) -> None:
    running = write_run(tmp_path / "a", status="running")
    finished = write_run(tmp_path / "b")
    page = build(tmp_path, running)
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "running, round 13 of 40" in words(page)
    assert 'aria-valuenow="32"' in page
    assert headline(page).startswith("Round 10: ")
    assert 'http-equiv="refresh"' in build(tmp_path, running, finished)
    for status in ("finished", "failed", "stopped"):
        page = build(tmp_path, write_run(tmp_path / status, status=status))
        assert 'http-equiv="refresh"' not in page


def test_without_adaptation_steps_nothing_is_said_of_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", settings={"evaluation.steps": 0})
    assert re.fullmatch(
        r"9\d\.\d % on 40 clients that never took part, .* over the untrained model",
        headline(build(tmp_path, folder)),
    )


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="at least one"):
        write_report([], tmp_path / "report.html")


def test_a_failing_report_leaves_the_old_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=2)
    out = tmp_path / "pages" / "report.html"
    assert write_report([folder], out) == out
    before = out.read_bytes()
    (folder / "run.json").write_text("{")
    with pytest.raises(RunError):
        write_report([folder], out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_a_place_for_the_page_that_is_none_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    for place in (tmp_path, folder / "run.json" / "page.html", Path("/proc/page.html")):
        with pytest.raises(FileError, match=re.escape(f"cannot write {place}: ")):
            write_report([folder], place)


def test_the_same_record_gives_the_same_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    assert build(tmp_path, folder) == build(tmp_path, folder)


def test_a_long_run_of_many_clients_is_quick_and_small(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=300, every=1, targets=50, sources=50, loses=0.03)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        page = build(tmp_path, folder)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.6  # a quarter of a second where nothing else runs
    assert len(page) < 500_000


def test_a_very_long_run_is_thinned_and_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=1500, every=500, targets=3, sources=1)
    page = build(tmp_path, folder)
    assert "Charts draw one round in 3; totals count all." in words(page)
    assert len(page) < 500_000
    assert "All 1 500 requests" in words(page).replace("\u202f", " ").replace("\u00a0", " ")


def palette(mode: str) -> dict[str, np.ndarray]:
    """Linear RGB of the paper and of every colour that carries meaning."""
    css = (Path(write.__file__).parent / "page" / "report.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark")
    text = light if mode == "light" else dark.split("}")[0]
    names = ["paper", "ink", "quiet", "base", *(f"s{i}" for i in range(7))]
    colours = {}
    for name in names:
        match = re.search(rf"--{name}: #(\w\w)(\w\w)(\w\w)", text)
        assert match
        c = np.array([int(part, 16) / 255 for part in match.groups()])
        colours[name] = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return colours


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_in_every_colour_has_enough_contrast(mode: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: at least 4.5."""
    colours = palette(mode)
    luminance = {k: float(v @ [0.2126, 0.7152, 0.0722]) + 0.05 for k, v in colours.items()}
    paper = luminance.pop("paper")
    for name, value in luminance.items():
        assert max(value, paper) / min(value, paper) >= 4.5, name


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_differ_for_colour_blind_readers(mode: str) -> None:
    """CIELAB distance over 15 as seen with normal, deuteranopic and protanopic vision.

    Matrices: Machado, Oliveira and Fernandes 2009, severity 1.
    """
    views = [
        np.eye(3),
        np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
        np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    ]
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    colours = {k: v for k, v in palette(mode).items() if k not in ("paper", "ink", "quiet")}
    for view in views:
        lab = {}
        for name, colour in colours.items():
            xyz = to_xyz @ np.clip(view @ colour, 0, 1) / [0.9505, 1, 1.089]
            f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
            lab[name] = np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
        for a, b in itertools.combinations(lab, 2):
            assert np.linalg.norm(lab[a] - lab[b]) > 15, (a, b)


def test_every_style_has_a_dash_of_its_own() -> None:
    css = (Path(write.__file__).parent / "page" / "report.css").read_text()
    dashes = re.findall(r"^\.s(?:\d|base) \{.*--dash: ([^;]+);", css, re.MULTILINE)
    assert len(dashes) == len(set(dashes)) == 8


def with_sources(folder: Path, *, targets: bool) -> Path:
    """A run in which clients that train have evaluated as well, or alone; one target was silent."""
    lines = record(folder)
    for line in lines:
        if line.get("evaluation"):
            line["evaluation_sources"] = {**line["evaluation"], "accuracy_after": 0.4321}
            line["evaluation_missing"] = [{"node": "77", "reason": "no room for the model"}]
            if not targets:
                line["evaluation"] = None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_clients_that_train_may_judge_as_well(tmp_path: Path) -> None:
    text = words(build(tmp_path, with_sources(write_run(tmp_path / "a"), targets=True)))
    assert "Accuracy on clients that never took part" in text
    assert "Accuracy on clients that train" in text
    assert "43.2 %" in text


def test_clients_that_train_may_be_all_that_judge(tmp_path: Path) -> None:
    folder = with_sources(write_run(tmp_path / "a", targets=5), targets=False)
    meta = json.loads((folder / "run.json").read_text())
    meta["clients"]["targets"] = 0
    (folder / "run.json").write_text(json.dumps(meta))
    page = build(tmp_path, folder)
    assert "43.2 % after adaptation on 5 clients" in headline(page)
    assert page.count("Accuracy on clients") == 1


def test_who_did_not_judge_is_listed(tmp_path: Path) -> None:
    text = words(build(tmp_path, with_sources(write_run(tmp_path / "a"), targets=True)))
    assert "not evaluated no room for the model" in text
