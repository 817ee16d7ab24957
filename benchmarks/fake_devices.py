"""Many devices in one process, which compute nothing: what a SuperLink has to bear, and no more.

Each has a key of its own and speaks Flower's Fleet API call for call as the SuperNode of
``augflower node`` does, with the same waits between two looks (``deploy.sleeps``,
``deploy.fleet_calls``) and for parts that are on their way (``common.backoff``); it makes a call
again after an error of the moment. It introduces itself as a device with images of its own, and
answers ``train.fedavg`` with a small random change of the model, which the gate accepts. One thing
differs: devices share up to 64 connections.

    python -m benchmarks.fake_devices 127.0.0.1:9092 50 --classes x,y --stats stats.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    PUBLIC_KEY_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
)
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2 as fleet
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import (
    FLWR_COMPONENT_NAME_METADATA_KEY,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
)
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import (
    generate_key_pairs,
    public_key_to_bytes,
    sign_message,
)
from flwr.supercore.version import package_name, package_version

from common import enrolment
from common.backoff import FIRST, LONGEST
from common.methods import fedavg
from common.wire import pack, unpack
from deploy.fleet_calls import SIGNED_FOR, Advice
from deploy.recovery import RETRIED
from deploy.sleeps import PollInterval

CHANNELS = 64
LONGEST_WAIT = 20.0
"""Seconds between two tries of a call at most, as in Flower."""


class FakeDevice:
    """One device; ``counts`` is shared by all."""

    def __init__(self, stub: Any, number: int, classes: list[str], counts: Counter[str]) -> None:
        self._stub, self._number, self._classes, self._counts = stub, number, classes, counts
        self._private, public = generate_key_pairs()
        self._public = public_key_to_bytes(public)
        self._signed = -SIGNED_FOR
        self._metadata: list[tuple[str, str | bytes]] = []
        self._node = Node()
        self._runs: set[int] = set()
        self._random = np.random.default_rng(number)

    async def live(self) -> None:
        """Be a device until cancelled."""
        request = fleet.RegisterNodeFleetRequest(public_key=self._public)
        await self._call("RegisterNode", request)
        request = fleet.ActivateNodeRequest(
            public_key=self._public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        self._node = Node(node_id=(await self._call("ActivateNode", request)).node_id)
        self._counts["online"] += 1
        beating = asyncio.create_task(self._beat())
        idle, advice = PollInterval(0.05, 3.0), Advice()
        try:
            while True:
                answer = await self._call(
                    "PullMessages", fleet.PullMessagesRequest(node=self._node)
                )
                advice.hear(answer)
                if not answer.messages_list:
                    await asyncio.sleep(idle.rest() if advice.rest is None else advice.rest)
                    continue
                # A run that has ended: what is left of its messages is of no use.
                with contextlib.suppress(_RunEnded):
                    await self._work(answer.messages_list[0], answer.message_object_trees[0])
                idle.reset()
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        request = SendNodeHeartbeatRequest(
            node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        while True:
            await self._call("SendNodeHeartbeat", request)
            await asyncio.sleep(25 * random.uniform(0.7, 0.9))

    async def _work(self, head: Any, tree: Any) -> None:
        message = message_from_proto(head)
        run = message.metadata.run_id
        if run not in self._runs:
            found = await self._call("GetRun", GetRunRequest(node=self._node, run_id=run))
            await self._call(
                "GetFab",
                GetFabRequest(node=self._node, hash_str=found.run.fab_hash, run_id=run),
            )
            self._runs.add(run)
        contents = {}
        for part in {each.object_id for each in iterate_object_tree(tree)}:
            contents[part] = await self._part(run, part)
        await self._call(
            "ConfirmMessageReceived",
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=run, message_object_id=message.metadata.message_id
            ),
        )
        full = inflate_object_from_contents(message.metadata.message_id, contents)
        reply = Message(self._answer(message.metadata.message_type, full.content), reply_to=message)
        await self._push(run, reply)
        self._counts[message.metadata.message_type] += 1

    async def _part(self, run: int, part: str) -> bytes:
        wait = FIRST
        while True:
            request = PullObjectRequest(node=self._node, run_id=run, object_id=part)
            answer = await self._call("PullObject", request)
            if answer.object_available:
                return bytes(answer.object_content)
            self._counts["parts asked for too early"] += 1
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST)

    def _answer(self, kind: str, content: RecordDict) -> RecordDict:
        if kind == "query.enrol":
            down = unpack(enrolment.Down, content)
            return pack(
                enrolment.Up(
                    role="source", clients=[-1], support=4, query=16, test=0, architecture="",
                    classes=self._classes, parameters=down.parameters, plan="", release="",
                    width=0.0, free_memory=0, step_seconds=0.0,
                )
            )  # fmt: skip
        work = unpack(fedavg.Down, content)
        change = self._random.normal(0, 1e-3, len(work.model)).astype(np.float32)
        up = fedavg.Up(
            round=work.round, change=work.model.with_vector(change), buffers=work.buffers,
            examples=20, loss=float(self._random.uniform(0.9, 1.1)),
        )  # fmt: skip
        return pack(up)

    async def _push(self, run: int, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects, tree = get_all_nested_objects(reply), get_object_tree(reply)
        answer = await self._call(
            "PushMessages",
            fleet.PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[0.01],
            ),
        )
        for part in answer.objects_to_push:
            await self._call(
                "PushObject",
                PushObjectRequest(
                    node=self._node, run_id=run, session_id=answer.session_id, object_id=part,
                    object_content=objects[part].deflate(),
                ),
            )  # fmt: skip

    async def _call(self, name: str, request: Any) -> Any:
        tries = 0
        while True:
            self._counts[name] += 1
            try:
                return await getattr(self._stub, name)(request, metadata=self._sign())
            except grpc.aio.AioRpcError as error:
                code = error.code().name
                if code == "PERMISSION_DENIED":
                    raise _RunEnded from None
                self._counts[f"{code} {(error.details() or '')[:80]}"] += 1
                if code not in RETRIED:
                    raise
                await asyncio.sleep(random.uniform(0, min(2.0**tries, LONGEST_WAIT)))
                tries += 1

    def _sign(self) -> list[tuple[str, str | bytes]]:
        if time.monotonic() - self._signed > SIGNED_FOR:
            self._signed, stamp = time.monotonic(), now().isoformat()
            self._metadata = [
                (PUBLIC_KEY_HEADER, self._public),
                (TIMESTAMP_HEADER, stamp),
                (SIGNATURE_HEADER, sign_message(self._private, stamp.encode("ascii"))),
                (FLWR_PACKAGE_NAME_METADATA_KEY, package_name),
                (FLWR_PACKAGE_VERSION_METADATA_KEY, package_version),
                (FLWR_COMPONENT_NAME_METADATA_KEY, "SuperNode"),
            ]
        return self._metadata


class _RunEnded(Exception):
    pass


async def live(address: str, number: int, classes: list[str], stats: Path | None) -> None:
    """Be ``number`` devices of the SuperLink at ``address`` until a signal comes.

    ``stats``: a JSON file, written once a second, with the calls by name, errors by gRPC's code and
    reason, replies by kind of message, ``online`` and ``ended``, the devices whose loop has.
    """
    counts: Counter[str] = Counter()
    channels = [
        grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(min(number, CHANNELS))
    ]
    stubs = [FleetStub(channel) for channel in channels]
    devices = [
        asyncio.create_task(FakeDevice(stubs[n % len(stubs)], n, classes, counts).live())
        for n in range(number)
    ]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    while not over.is_set():
        done = [device for device in devices if device.done()]
        for device in done:
            # What the server refuses is counted; a fault of these devices themselves ends all.
            if not isinstance(device.exception(), grpc.aio.AioRpcError):
                device.result()
        counts["ended"] = len(done)
        if stats is not None:
            fresh = stats.with_suffix(".new")
            fresh.write_text(json.dumps(counts))
            fresh.replace(stats)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 1.0)
    for device in devices:
        device.cancel()
    await asyncio.gather(*devices, return_exceptions=True)
    for channel in channels:
        await channel.close()


def main() -> None:
    """Be many devices."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("number", type=int)
    parser.add_argument("--classes", default="x,y")
    parser.add_argument("--stats", type=Path)
    options = parser.parse_args()
    asyncio.run(live(options.address, options.number, options.classes.split(","), options.stats))


if __name__ == "__main__":
    main()
