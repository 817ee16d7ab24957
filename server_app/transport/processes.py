"""Simulated nodes on all cores: processes that stay warm share what one process would do alone.

They are forks, so that whatever the program has in memory, its data sets and its own modules
included, is there without being sent or loaded again. What a node remembers travels with its
messages. Replies are given out in the order in which they are asked for, and each node computes
with one thread: a run of many processes is, byte for byte, that of one.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

from common.errors import FleetError
from server_app.transport.in_process import (
    FIRST_NODE,
    InProcessGrid,
    Interference,
    deserialised,
    failure,
    serialised,
)

AHEAD = 4
"""Messages for each process that may be at work or answered before their replies are wanted."""


@dataclass(eq=False)
class _Worker:
    number: int
    process: ForkProcess
    pipe: Connection
    message: Message | None = None  # at work on it


class ProcessesGrid(InProcessGrid):
    """An ``InProcessGrid`` whose nodes work at the same time, in processes of their own.

    A node goes to the process that has played it before, if that one is free, for it has the
    node's images. A process that dies fails the node that it played, as a device would; the
    others go on without it.

    Parameters
    ----------
    processes: how many, at least 1.
    forget: is called in a process with a node's context, after it has played a node of another's.
    notice: is told of a process that has died.
    """

    def __init__(
        self,
        client_app: ClientApp,
        node_configs: Sequence[Mapping[str, Any]],
        run_config: Mapping[str, Any],
        processes: int,
        *,
        interfere: Interference | None = None,
        forget: Callable[[Context], object] = lambda _: None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(client_app, node_configs, run_config, interfere=interfere)
        self._forget = forget
        self._notice = notice
        self._count = processes
        self._queue: dict[str, Message] = {}
        self._done: dict[str, tuple[Message, float]] = {}
        self._workers: list[_Worker] = []
        # Collecting what is there already would write to its pages, which copies them.
        gc.collect()
        gc.freeze()
        for number in range(processes):
            self._workers.append(self._fork(number))
        gc.unfreeze()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; processes that are free begin."""
        ids = list(super().push_messages(messages))
        self._queue |= {message_id: self._waiting[message_id] for message_id in ids}
        self._hand_out()
        return ids

    def close(self) -> None:
        """End the processes, at work or not."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _reply(self, message: Message) -> tuple[Message, float]:
        """What a node has answered; waits for it.

        Raises
        ------
        FleetError: all processes have died.
        """
        message_id = message.metadata.message_id
        while message_id not in self._done:
            self._hand_out(message_id)
            self._take_in()
        reply = self._done.pop(message_id)
        self._hand_out()
        return reply

    def _home(self, message: Message) -> int:
        return (message.metadata.dst_node_id - FIRST_NODE) % self._count

    def _hand_out(self, wanted: str = "") -> None:
        """Give work to those who have none: what is waited for, then nodes of their own."""
        free = [worker for worker in self._workers if worker.message is None]
        if message := self._queue.get(wanted):
            home = self._home(message)
            free.sort(key=lambda worker: worker.number != home)
        for worker in free:
            begun = len(self._done) + sum(other.message is not None for other in self._workers)
            if wanted in self._queue:
                chosen = wanted
            elif self._queue and begun < AHEAD * len(self._workers):
                own = (i for i, m in self._queue.items() if self._home(m) == worker.number)
                chosen = next(own, next(iter(self._queue)))
            else:
                return
            self._give(worker, self._queue.pop(chosen))

    def _give(self, worker: _Worker, message: Message) -> None:
        worker.message = message
        state = self.contexts[message.metadata.dst_node_id].state
        with contextlib.suppress(ConnectionError):  # it has died; its end of the pipe tells
            worker.pipe.send((serialised(message), recorddict_to_proto(state).SerializeToString()))

    def _take_in(self) -> None:
        """Wait until a process is done, or dead."""
        by_pipe = {worker.pipe: worker for worker in self._workers if worker.message is not None}
        for pipe in wait([*by_pipe]):
            worker = by_pipe[pipe]  # type: ignore[index]
            message, worker.message = worker.message, None
            assert message is not None
            try:
                reply, took, state = worker.pipe.recv()
            except (EOFError, ConnectionError):
                self._done[message.metadata.message_id] = failure(self._lose(worker), message), 0.0
                continue
            context = self.contexts[message.metadata.dst_node_id]
            context.state = recorddict_from_proto(ProtoRecordDict.FromString(state))
            self._done[message.metadata.message_id] = deserialised(reply), took

    def _lose(self, worker: _Worker) -> str:
        """Go on without a process that has died; says how it has.

        Raises
        ------
        FleetError: it was the last one.
        """
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        died = f"a process of the simulation has died ({how})"
        advice = "SIGKILL is mostly want of memory; fewer --processes need less"
        if not self._workers:
            raise FleetError(f"{died}, the last of {self._count}; the checkpoint is kept. {advice}")
        self._notice(f"{died}; {len(self._workers)} of {self._count} go on. {advice}")
        return died

    def _fork(self, number: int) -> _Worker:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        inherited = [ours, *(worker.pipe for worker in self._workers)]
        process = context.Process(
            target=self._serve,
            args=(number, theirs, inherited),
            daemon=True,
            name=f"nodes-{number}",
        )
        process.start()
        theirs.close()
        return _Worker(number, process, ours)

    def _serve(self, number: int, pipe: Connection, inherited: Sequence[Connection]) -> None:
        """What a process does until the program ends or it is told to."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, which ends this
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for other in inherited:
            other.close()  # or the program's end would not be seen
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                content, state = pipe.recv()
                message = deserialised(content)
                context = self.contexts[message.metadata.dst_node_id]
                context.state = recorddict_from_proto(ProtoRecordDict.FromString(state))
                reply, took = self._play(content)
                pipe.send((reply, took, recorddict_to_proto(context.state).SerializeToString()))
                if self._home(message) != number:
                    self._forget(context)
