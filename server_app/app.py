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
from common.config import RunSettings, other_sections, read_run_config, read_section
from common.errors import AugFlowerError, DivergedError, RunError, SettingsError
from common.modelfile import Card
from common.models.initial import absolute
from common.task import Task, backbone_digest
from common.trouble import endure_trouble
from server_app.clients.bindings import awaited, read_bindings
from server_app.clients.registry import Plan
from server_app.initialisation import initial_model
from server_app.knowledge.opening import KnowledgeSettings, open_generator, open_knowledge
from server_app.method import Knowledge, Method, MethodSettings, Setup
from server_app.monitoring.status import Status
from server_app.monitoring.watch import Watch
from server_app.public_data import PublicData, describe
from server_app.rounds.loop import Rounds
from server_app.runs.folder import META, RunFolder, writable
from server_app.runs.record import readable
from server_app.runs.secret import new_secret, read_secret
from server_app.settings import ServerSettings, read_server_settings
from server_app.transport.incomplete import TolerantGrid, differences

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
    knowledge: Knowledge | None = None
    if options.uses_knowledge:
        knowledge = open_knowledge(transfer, server, settings, public, client_model, rate, notice)
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


def read_settings(
    config: Mapping[str, Any],
) -> tuple[RunSettings, MethodSettings, KnowledgeSettings]:
    """Validate the whole run config: the run's settings, the method's and those of R_h.

    Raises
    ------
    SettingsError: a key or section is unknown, of the wrong type or out of bounds.
    """
    methods = registry.names(server_app.methods)
    sections = {*methods, "knowledge"}
    if unknown := sorted(other_sections(config) - sections):
        raise SettingsError(
            f"unknown section {unknown[0]!r} in the run config; there are "
            + ", ".join(sorted({"data", "evaluation", "round"} | sections))
        )
    settings = read_run_config(config, sections)
    options = {}
    for name in methods:
        # Sections of other methods are checked as well: a typo there is still a typo.
        half = registry.load(server_app.methods, name)
        options[name] = read_section(half.Settings, config, name)
    if settings.method not in options:
        registry.load(server_app.methods, settings.method)
    return settings, options[settings.method], read_section(KnowledgeSettings, config, "knowledge")


def contract(method: str) -> ModuleType | None:
    """The wire contract of a method; none if no client takes part in it."""
    if method in registry.names(common.methods):
        return registry.load(common.methods, method)
    return None


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
