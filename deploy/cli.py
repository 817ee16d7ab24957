"""The command line: ``augflower COMMAND``."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from common.errors import AugFlowerError, RunError, SettingsError
from deploy.connection import Certificates, Insecure, Kit, SuperLink, connected
from deploy.doctor.commands import doctor
from deploy.follow import follow
from deploy.leaf import leaf
from deploy.progress import RunProgress
from deploy.provision import commands as provision
from deploy.research import explain, lists, runs, sweep
from deploy.stop import stop
from deploy.up import up
from deploy.watch.commands import watch

app = typer.Typer(
    name="augflower",
    help="Federated learning for small devices, helped by large pretrained models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Paths, settings and devices' words are shown as they are: a [ in them is no markup.
console = Console(highlight=False, markup=False, emoji=False)


def say(text: str) -> None:
    """Print one line; the terminal breaks it, so that a copy of it is whole."""
    console.print(text, soft_wrap=True)


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="A public setting; may be repeated.",
        autocompletion=explain.complete,
    ),
]  # fmt: skip


Clients = Annotated[
    Path | None,
    typer.Option(help="Images of your own: a subfolder a client, and in it one a class."),
]


Processes = Annotated[
    int | None,
    typer.Option(min=1, help="That share the clients; without it, one for each core."),
]

DeviceName = Annotated[
    str, typer.Option(help="That clients compute on: cpu, cuda, cuda:N, or auto for the best.")
]


def _version(asked: bool) -> None:
    if asked:
        print(f"augflower {metadata.version('augflower')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Federated learning for small devices, helped by large pretrained models."""


@app.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each run.")] = 10,
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
) -> None:
    """Start a fleet on this machine and compare fleet and server, alone and together."""
    from deploy.demo import demo as run_demo

    run_demo(rounds, folder, console)


@app.command()
def pretrain(
    out: Annotated[Path, typer.Argument(help="Folder for the private model.")],
    settings: Settings = None,
    architecture: Annotated[str, typer.Option(help="A model's name, see the README.")] = "cnn-wide",
    start: Annotated[
        str,
        typer.Option(
            help="A model to train further instead: a folder, NAME@FILE, torchvision:NAME/TAG, "
            "timm:NAME or open_clip:NAME/TAG."
        ),
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="The server's own labelled images, one folder a class.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd")] = "adamw",
    learning_rate: Annotated[float, typer.Option(help="Largest of the schedule.")] = 0.002,
    weight_decay: Annotated[float, typer.Option()] = 0.01,
    validation_fraction: Annotated[float, typer.Option(help="Share held out.")] = 0.1,
    augment: Annotated[str, typer.Option(help="none, crop or crop-flip")] = "none",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a model.")] = False,
    generator: Annotated[
        bool, typer.Option("--generator", help="A generator of images instead, for fedktl.")
    ] = False,
) -> None:
    """Train the private model on the server's own data."""
    from common.config import parse
    from deploy.assignments import parse_assignments
    from deploy.pretrain import pretrain_generator, pretrain_model
    from server_app.private.settings import PretrainSettings

    values = {
        "epochs": epochs, "batch-size": batch_size, "optimizer": optimizer,
        "learning-rate": learning_rate, "weight-decay": weight_decay,
        "validation-fraction": validation_fraction, "augment": augment,
    }  # fmt: skip
    options = parse(PretrainSettings, values, "--")
    if generator:
        loss = pretrain_generator(
            out, parse_assignments(settings or []), epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, seed=seed, replace=replace, images=images,
        )  # fmt: skip
        say(f"loss {loss:.1f} nats an image; runs find it with AUGFLOWER_GENERATOR={out}")
        return
    pretrain_model(
        out, parse_assignments(settings or []), architecture, options,
        start=start, seed=seed, replace=replace, images=images, console=console,
    )  # fmt: skip
    say(f"runs find it with AUGFLOWER_PRIVATE_MODEL={out}")


@app.command()
def simulate(
    settings: Settings = None,
    clients: Clients = None,
    processes: Processes = None,
    device: DeviceName = "cpu",
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve a live page, also after the run's end.")
    ] = False,
) -> None:
    """Run on this machine: the same code and messages as a fleet, without a network."""
    from deploy.assignments import parse_assignments
    from deploy.simulate import DEVICES, cores
    from deploy.simulate import simulate as run_simulation
    from server_app.monitoring.watch import Watch
    from server_app.place import Place
    from server_app.settings import read_server_settings

    overrides = parse_assignments(settings or [])
    overrides["run-name"] = overrides.get("run-name") or time.strftime("%Y%m%d-%H%M%S")
    server = read_server_settings()
    memory = server.runs / str(overrides["run-name"]) / DEVICES
    if watch and server.watch is None:
        server = replace(server, watch=Place("127.0.0.1", 8080))
    with RunProgress(console) as show, Watch(server, show) as watching:
        folder = run_simulation(
            overrides, server, show, clients=clients, memory=memory, status=watching.status,
            processes=processes or cores(), device=device,
        )  # fmt: skip
        show(f"report: {folder / 'report.html'}")
        if watch and watching.url:
            with contextlib.suppress(KeyboardInterrupt):
                show(f"{watching.url} stays until Ctrl-C")
                threading.Event().wait()


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or that hold such.")],
    out: Annotated[Path | None, typer.Option(help="The page; by default beside the run.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also rounds and clients as CSV.")] = False,
    svg: Annotated[bool, typer.Option("--svg", help="Also the line charts as SVG.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Also the results as LaTeX.")] = False,
) -> None:
    """Write a page about a run, or compare several; beside it what a paper needs."""
    from deploy.run_folder import runs_in
    from server_app.report import paper
    from server_app.report.write import write_report

    runs = [folder for path in runs for folder in (runs_in(path) or [path])]
    target = out or (runs[0] / "report.html" if len(runs) == 1 else Path("comparison.html"))
    written = [write_report(runs, target)]
    written += paper.write_csv(runs, target) if csv else []
    written += paper.write_figures(runs, target) if svg else []
    written += paper.write_latex(runs, target) if latex else []
    for path in written:
        say(f"wrote {path}")


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder of a run, or a model file.")],
    folder: Annotated[Path, typer.Argument(help="Labelled images, one subfolder for each class.")],
    out: Annotated[Path, typer.Option(help="The adapted model.")] = Path("adapted.safetensors"),
    steps: Annotated[int | None, typer.Option(min=0, help="Gradient steps.")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, help="Step size.")] = None,
    support_fraction: Annotated[float, typer.Option(help="Share of images to adapt on.")] = 0.5,
) -> None:
    """Adapt a model to a few labelled images: what a new device does."""
    from deploy.adapt import adapt_model

    done = adapt_model(
        model, folder, out, steps=steps, alpha=alpha, support_fraction=support_fraction
    )
    say(
        f"adapted on {done.support} images, evaluated on {done.query} others: "
        f"{100 * done.before:.1f} % before, {100 * done.after:.1f} % after"
    )
    say(f"wrote {done.path}")


@app.command()
def run(
    settings: Settings = None,
    name: Annotated[str, typer.Option(help="Folder of the run; empty takes the time.")] = "",
    kit: Kit = None,
    superlink: SuperLink = None,
    root_certificates: Certificates = None,
    insecure: Insecure = False,
) -> None:
    """Run on a fleet that is up; goes on by itself if the server's process is killed."""
    from deploy.assignments import parse_assignments

    config = parse_assignments(settings or [])
    config["run-name"] = name or config.get("run-name") or time.strftime("%Y%m%d-%H%M%S")
    _run_on_fleet(config, kit, superlink, root_certificates, insecure)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="A new last round.")] = None,
    settings: Settings = None,
    clients: Clients = None,
    processes: Processes = None,
    device: DeviceName = "cpu",
    kit: Kit = None,
    superlink: SuperLink = None,
    root_certificates: Certificates = None,
    insecure: Insecure = False,
) -> None:
    """Go on from a run's last checkpoint: here, or with --kit on a fleet that is up."""
    from deploy.assignments import parse_assignments
    from deploy.simulate import DEVICES, cores
    from deploy.simulate import simulate as run_simulation
    from server_app.monitoring.watch import Watch
    from server_app.runs.folder import META, read_settled
    from server_app.settings import read_server_settings

    if not (run / META).is_file():
        raise RunError(f"{run} is not the folder of a run")
    config = dict(read_settled(run)["settings"]) | parse_assignments(settings or [])
    config |= {"resume": True, "run-name": run.absolute().name}
    config |= {"rounds": rounds} if rounds else {}
    if kit or superlink:
        _run_on_fleet(config, kit, superlink, root_certificates, insecure)
        return
    server = replace(read_server_settings(), runs=run.absolute().parent)
    with RunProgress(console) as show, Watch(server, show) as watching:
        memory = run.absolute() / DEVICES
        run_simulation(
            config, server, show, clients=clients, memory=memory, status=watching.status,
            processes=processes or cores(), device=device,
        )  # fmt: skip


def _run_on_fleet(
    config: dict[str, Any],
    kit: Path | None,
    superlink: str | None,
    certificates: Path | None,
    insecure: bool,
) -> None:
    from deploy.bundle import app_folder
    from deploy.research.effect import without_effect
    from deploy.run_config import default_config
    from deploy.submit import run_on_fleet
    from server_app.app import read_settings

    read_settings(default_config() | config)
    with (
        connected(kit, superlink, certificates, insecure) as control,
        tempfile.TemporaryDirectory() as folder,
        RunProgress(console) as show,
    ):
        for line in without_effect(config):
            show(line)
        found = run_on_fleet(control, app_folder(Path(folder) / "app"), config, show)
    print(found)


@app.command()
def export(
    source: Annotated[
        Path | None, typer.Argument(help="Folder of a run, or a model file.", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option(help="onnx, torchscript or safetensors")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The file to write.")] = None,
    from_device: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A device's memory of one run: its own model."),
    ] = None,
    quantize: Annotated[str, typer.Option(help="int8: ONNX of eight bits as well.")] = "",
    images: Annotated[
        Path | None, typer.Option(help="For it: the device's labelled images.")
    ] = None,
    most_lost: Annotated[
        float, typer.Option(min=0, max=1, help="Accuracy that eight bits may cost, of 1.")
    ] = 0.01,
    width: Annotated[float, typer.Option(help="Share of the network to keep, such as 0.5.")] = 1.0,
) -> None:
    """Write a model with its preprocessing and class names for other runtimes."""
    from deploy.export import export_model

    if not quantize:
        say(f"wrote {export_model(source, format, out, from_device, width)}")
        return
    if quantize != "int8" or format != "onnx" or images is None:
        raise SettingsError("--quantize int8 is for ONNX, and needs --images FOLDER to calibrate")
    from deploy.quantize import quantize as to_int8

    with tempfile.TemporaryDirectory() as folder:
        whole = export_model(source, format, Path(folder, "model.onnx"), from_device, width)
        found = to_int8(whole, images, out or Path("model.int8.onnx"), most_lost)
    for name, figures in (("before", found.before), ("after", found.after)):
        say(
            f"{name}: {figures.bytes / 1e6:.2f} MB, {figures.milliseconds:.2f} ms an image, "
            f"{100 * figures.accuracy:.1f} % of {found.images} images"
        )
    say(f"wrote {found.path}")


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(help="Folder of a run, or a model: .safetensors, .onnx or .pt")
    ],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Labels shown for each image.")] = 3,
) -> None:
    """Label images, with confidences."""
    from deploy.predict import predict as run_prediction

    refused: list[str] = []

    def refuse(error: AugFlowerError) -> None:
        refused.append(str(error))
        print(f"error: {error}", file=sys.stderr)

    for answer in run_prediction(model, images, top, refuse):
        ranking = ", ".join(f"{label} {100 * share:.1f} %" for label, share in answer.ranking)
        say(f"{answer.path}: {ranking}")
    if refused:
        raise typer.Exit(1)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def node(context: typer.Context) -> None:
    """Be a device of a fleet: a SuperNode that stays warm."""
    from deploy.node import main as run_node

    run_node(context.args)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Have the newest model of a run answer on this device."""
    # A process of its own, which has no Flower and no torch in memory.
    os.execv(sys.executable, [sys.executable, "-m", "deploy.serving", *context.args])


@app.command()
def label(
    folder: Annotated[Path, typer.Argument(help="Images that augflower serve has put aside.")],
    into: Annotated[Path, typer.Option(help="The device's own images, one subfolder a class.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT")] = "127.0.0.1:8071",
) -> None:
    """Sort images that the model was unsure of into classes, on a page of this machine."""
    from deploy.serving.label import label as show_page

    show_page(folder, into, listen)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def superlink(context: typer.Context) -> None:
    """Be the middle of a fleet: Flower's SuperLink, adapted to many devices."""
    from deploy.superlink import main as run_superlink

    run_superlink(context.args)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def superexec(context: typer.Context) -> None:
    """Start the server's part of runs: Flower's executor, which outlives a failing SuperLink."""
    from deploy.superexec import main as run_superexec

    run_superexec(context.args)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def train_teacher(context: typer.Context) -> None:
    """Train a small CLIP model, a device's teacher where no public weights can be had."""
    from deploy.train_teacher import app as command

    command(context.args, prog_name="augflower train-teacher")


app.command()(explain.settings)
app.command("list")(lists.show)
app.command()(runs.runs)
app.command()(sweep.sweep)
app.command()(watch)
app.command()(follow)
app.command()(stop)
app.command()(up)
app.command()(leaf)
app.command()(doctor)
app.add_typer(provision.app, name="provision")


def main() -> None:
    """Run a command; errors raised on purpose are printed plainly."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    try:
        app()
    except AugFlowerError as error:
        text = Text.assemble(("error:", "red"), f" {error}")
        Console(stderr=True, highlight=False).print(text, soft_wrap=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"deploy", "server_app"}:
            raise
        sys.exit("error: this is a device's installation; the command needs the server's half")


if __name__ == "__main__":
    main()
