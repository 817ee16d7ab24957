"""The server's shell: settings in, a run folder out; drives any method over any Grid."""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

import common.methods
import server_app.methods
from common import registry
from common.config import RunSettings
from common.errors import AugFlowerError, DivergedError, RunError, SettingsError
from common.modelfile import Card
from common.models.initial import absolute
from common.task import Task, backbone_digest
from common.trouble import endure_trouble
from server_app import leaf
from server_app.clients.bindings import Binding, awaited, read_bindings
from server_app.clients.registry import Plan
from server_app.initialisation import initial_model
from server_app.knowledge.opening import open_generator, open_knowledge
from server_app.method import Method, MethodSettings, Setup
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.public_data import PublicData, describe
from server_app.rounds.loop import Rounds
from server_app.run_settings import read_settings
from server_app.runs.folder import META, RunFolder, writable
from server_app.runs.record import readable
from server_app.runs.secret import new_secret, read_secret
from server_app.settings import ServerSettings, read_server_settings
from server_app.transport.incomplete import TolerantGrid, differences
from server_app.transport.leaves import with_leaves

app = ServerApp()

Notice = Callable[[str], None]

FOLDER_LINE = "the run is in "
"""Begins the first notice of a run; the folder's path follows."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry: run with the settings of the run config and of the environment."""
    if threading.current_thread() is threading.main_thread():  # a simulation uses another
        signal.signal(signal.SIGTERM, _stop)
    endure_trouble()
    if found := differences():
        _say(
            f"Flower's {', '.join(found)} differ from those of flwr 1.39.0: a reply without its "
            "parts may hold up a round for longer than round.deadline"
        )
    server = read_server_settings()
    if server.leaf is not None:
        leaf.serve(TolerantGrid(grid), context.run_config, server.leaf, server.runs, _say)
        return
    watch = Watch(server, _say)
    atexit.register(watch.close)  # the page stays as long as the process does
    try:
        run(TolerantGrid(grid), context.run_config, server, _say, watch.status)
    finally:
        watch.finish()  # before libraries of trackers leave, which they do first at exit


def run(
    grid: Grid,
    config: Mapping[str, Any],
    server: ServerSettings,
    notice: Notice,
    status: Status | None = None,
) -> Path:
    """Run one method to its end; returns the folder of the run.

    Parameters
    ----------
    config: Flower's flat run config.
    notice: receives one line a round, and what else an operator should see.
    status: is told what the run is doing, for those who watch it.

    Raises
    ------
    AugFlowerError: settings, data or models do not fit, or the fleet is gone. What was reached
        is kept in the run's folder.
    """
    status = status or Status()
    settings, options, transfer = read_settings(config)
    bindings = read_bindings(server.nodes)
    public = describe(settings)
    rate, evaluated = _rate(settings, options), settings.evaluation.alpha
    if rate != evaluated:
        notice(
            f"{settings.method}.alpha={rate:g}, but evaluation.alpha={evaluated:g}: clients that "
            "never train adapt at another rate than the model is trained for"
        )
    client_model = initial_model(settings, len(public.classes), notice)
    initial, buffers = client_model.parameters, client_model.buffers
    knowledge = (
        open_knowledge(transfer, server, settings, public, client_model, rate, notice)
        if options.uses_knowledge
        else None
    )
    half = registry.load(server_app.methods, settings.method)
    place = server.runs / settings.run_name
    begun = settings.resume and (place / META).exists()
    secret = read_secret(place) if begun else new_secret()
    data = settings.data
    task = Task(
        settings.model, len(public.classes), data.channels, data.image_size,
        absolute(settings.pretrained_weights),
    )  # fmt: skip
    setup = Setup(
        initial, buffers, settings.seed, task, knowledge,
        open_generator(server, settings, public, notice) if options.uses_generator else None,
        secret, settings.round.deadline,
    )  # fmt: skip
    method: Method = half.Server(options, setup)
    leaves = _leaves(settings.method, method, bindings)
    meta = {
        "method": settings.method,
        "settings": dict(sorted(config.items())),
        "seeds": {"run": settings.seed, "data": settings.data.seed},
        "model": {
            "name": settings.model, "parameters": len(initial), "classes": list(public.classes)
        },
        "global_model": method.model is not None,
        "private_model": knowledge is not None,
        "clients": {"sources": settings.data.sources, "targets": settings.data.targets},
        "devices": len(awaited(bindings, data.sources, len(public.client_images))),
    }  # fmt: skip
    now = {"flower_run": grid.run.run_id, "page": status.page}
    if settings.resume:
        folder = RunFolder.reopen(server.runs, settings.run_name)
        _same_settings(folder, config, now)
    else:
        folder = RunFolder.create(server.runs, settings.run_name, meta | now, secret)
    notice(f"{FOLDER_LINE}{folder.path.absolute()}")
    status.begin(folder.meta, settings.rounds)
    grid = with_leaves(
        grid, leaves, {name: bound.leaf for name, bound in bindings.items()}, config,
        len(public.classes), folder.meta["token"], settings.round.deadline, notice,
    )  # fmt: skip
    plan = Plan(
        folder.path.name, folder.meta["token"], len(initial), public.classes, public.digest,
        settings.data.sources, public.client_images, bindings, method.timed,
        # Who evaluates must be known: sources are left in peace only where targets alone do.
        on_demand=settings.round.fraction < 1 and settings.evaluation.who == "targets",
        backbone=backbone_digest(task),
    )  # fmt: skip
    rounds = Rounds(
        grid, settings, method, knowledge, plan, folder,
        _card(settings, options, public, task, folder.path.name), notice, status,
    )  # fmt: skip
    try:
        with writable(folder.path, f"see to that, then: augflower resume {folder.path}"):
            start = _resume(folder, rounds, status, notice) if settings.resume else 0
            rounds.run(start)
    except (KeyboardInterrupt, SystemExit):  # Flower leaves with the latter
        _end(rounds, notice, "stopped")
        notice(f"stopped; go on with: augflower resume {folder.path}")
        raise
    except BaseException as error:
        lost = {"diverged": rounds.current} if isinstance(error, DivergedError) else {}
        _end(rounds, notice, "failed", error=str(error), **lost)
        raise
    else:
        rounds.end("finished")
    finally:
        rounds.conclude()
    return folder.path


def contract(method: str) -> ModuleType | None:
    """The wire contract of a method; none if no client takes part in it."""
    if method in registry.names(common.methods):
        return registry.load(common.methods, method)
    return None


def _leaves(name: str, method: Method, bindings: Mapping[str, Binding]) -> list[str]:
    """Names of leaves: they pass sums on, and nothing else of what has the size of a model.

    Raises
    ------
    SettingsError: there are leaves, and the method needs more.
    """
    leaves = [leaf for leaf, bound in bindings.items() if bound.role == "leaf"]
    if leaves and method.collects:
        raise SettingsError(
            f"method {name} needs {', '.join(sorted(method.collects))} of each client one by one, "
            f"and {leaves[0]} is a leaf, which passes on sums alone; choose another method "
            "(docs/leaf.md), or connect all devices to the server itself"
        )
    return leaves


def _rate(settings: RunSettings, options: MethodSettings) -> float:
    """Adaptation rate that the model is trained for; where the method has none, of evaluations."""
    own = options.adaptation_rate
    return settings.evaluation.alpha if own is None else own


def _card(
    settings: RunSettings, options: MethodSettings, public: PublicData, task: Task, run: str
) -> Card:
    data, evaluated = settings.data, settings.evaluation
    return Card(
        architecture=settings.model,
        classes=public.classes,
        channels=data.channels,
        image_size=data.image_size,
        mean=public.mean,
        std=public.std,
        alpha=_rate(settings, options),
        steps=evaluated.steps,
        statistics=evaluated.statistics,
        method=settings.method,
        run=run,
        backbone=task.backbone if task.tuning else "",
        backbone_digest=backbone_digest(task),
    )


FREE = frozenset(
    {"resume", "rounds", "run-name", "keep-checkpoints"}
    | {f"round.{name}" for name in ("nodes", "wait", "deadline", "return-timeout")}
)
"""Settings that may differ when a run goes on: none has a part in the result of a round."""


def _same_settings(
    folder: RunFolder, config: Mapping[str, Any], changed: Mapping[str, Any]
) -> None:
    """A run goes on with the settings it began with, but for those in ``FREE``."""
    old = dict(folder.meta["settings"])
    for key in sorted((old.keys() | config.keys()) - FREE):
        if old.get(key) != config.get(key):
            raise RunError(
                f"run {folder.path.name!r} began with {key}={old.get(key)!r}, not "
                f"{config.get(key)!r}; a run can be resumed only with its own settings"
            )
    new = {key: config[key] for key in FREE - {"resume", "run-name"} if key in config}
    again = {"status": "running", "ended": None, "error": None, "diverged": None}
    folder.update(**again, settings=old | new, **changed)


def _end(rounds: Rounds, notice: Notice, how: str, **notes: Any) -> None:
    """Note a bad end; that it cannot be noted must not hide what it was."""
    try:
        rounds.end(how, **notes)
    except AugFlowerError as error:
        notice(str(error))


def _resume(folder: RunFolder, rounds: Rounds, status: Status, notice: Notice) -> int:
    """Take up the newest whole checkpoint; returns the round to begin with."""
    if (kept := folder.load_checkpoint(notice)) is None:
        folder.mend_record(0, {}, notice)
        return 0
    round, groups, notes = kept
    for line in folder.mend_record(round, notes["line"], notice):
        rounds.show("a round of the record", partial(_put_back, status, line))
    before = folder.meta.get("resumed_after", [])
    folder.update(resumed_from=f"round {round}", resumed_after=[*before, round])
    notice(f"going on after round {round}, from its checkpoint")
    rounds.load_state(groups, notes)
    return round + 1


def _put_back(status: Status, line: Mapping[str, Any]) -> None:
    status.close(readable(line))


def _say(text: str) -> None:
    print(text, flush=True)


def _stop(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


__all__ = ["AugFlowerError", "app", "contract", "main", "read_settings", "run"]
