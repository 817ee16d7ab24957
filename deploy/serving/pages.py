"""What the model's server answers; it is for this machine alone."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from common.errors import DataError, ModelError, SettingsError
from deploy.serving.aside import Aside
from deploy.serving.keeper import Serving
from deploy.serving.seen import ALARM

LARGEST = 32 * 1024 * 1024  # bytes of a request
MOST = 256  # images in one
HOSTS = ["127.0.0.1", "localhost"]
"""Names of this machine; else any website could have its own name point here."""


def loopback(address: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``.

    Raises
    ------
    SettingsError: it is no address of this machine alone.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if host not in HOSTS or not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise SettingsError(
            f"--listen {address}: give 127.0.0.1:PORT; for other machines, put a proxy with TLS "
            "and passwords before it"
        )
    return host, int(port)


def make_app(serving: Serving, aside: Aside | None = None) -> ASGIApp:
    """The application that answers for ``serving``.

    ``POST /classify`` takes the content of one image file, or JSON ``{"images": [base64, ...]}``.
    """
    registry = CollectorRegistry()
    took = Histogram(
        "augflower_serve_seconds", "Time to answer a request", registry=registry,
        buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
    )  # fmt: skip
    counts = _Counts(serving)
    registry.register(counts)
    ProcessCollector(registry=registry)

    async def classify(request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST:
                return _refused(413, f"a request may have {LARGEST} bytes")
        try:
            images = _images(body, request.headers.get("content-type", ""))
            with took.time():
                version, answers = await run_in_threadpool(serving.classify, images)
        except ValueError as error:  # DataError is none
            return _refused(400, str(error))
        except DataError as error:
            return _refused(400, str(error))
        except ModelError as error:
            return _refused(503, str(error))
        if aside:
            for image, answer in zip(images, answers, strict=True):
                counts.aside += await run_in_threadpool(aside.put, image, answer.probability)
        return JSONResponse({"version": version, "answers": [asdict(one) for one in answers]})

    async def healthz(request: Request) -> Response:
        if serving.model is None:
            return PlainTextResponse("no model yet\n", 503)
        return PlainTextResponse("ok\n")

    async def metrics(request: Request) -> Response:
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    routes = [
        Route("/classify", classify, methods=["POST"]),
        Route("/healthz", healthz),
        Route("/metrics", metrics),
    ]
    known = Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    return Starlette(routes=routes, middleware=[known])


class _Counts(Collector):
    """Metrics that are read off the model at work."""

    def __init__(self, serving: Serving) -> None:
        self._serving, self.aside = serving, 0

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        serving, name = self._serving, "augflower_serve"
        model, day, shift = serving.model, serving.seen.last(), serving.seen.shift()
        version = {"version": model.version if model else ""}
        yield InfoMetricFamily(f"{name}_model", "Model at work", value=version)
        yield CounterMetricFamily(f"{name}_swaps", "Newer models taken", value=serving.swaps)
        yield CounterMetricFamily(
            f"{name}_refused", "Newer models that were worse", value=serving.refused
        )
        yield CounterMetricFamily(f"{name}_aside", "Images put aside to label", value=self.aside)
        yield GaugeMetricFamily(
            f"{name}_problem",
            "Whether the newest model cannot be used",
            value=bool(serving.problem),
        )
        answers = GaugeMetricFamily(
            f"{name}_day_answers", "Answers of the last 24 hours", labels=["class"]
        )
        for label, number in day["classes"].items():
            answers.add_metric([label], number)
        yield answers
        sure = GaugeMetricFamily(
            f"{name}_day_confidence", "The same by confidence, tenths", labels=["from"]
        )
        for i, number in enumerate(day["sure"]):
            sure.add_metric([f"{i / len(day['sure']):g}"], number)
        yield sure
        shifted = GaugeMetricFamily(
            f"{name}_shift", "Population stability index against held-out images", labels=["of"]
        )
        for of, value in (shift or {}).items():
            shifted.add_metric([of], value)
        yield shifted
        alarm = shift is not None and max(shift.values()) > ALARM
        yield GaugeMetricFamily(f"{name}_shift_alarm", f"Whether one is over {ALARM}", value=alarm)


def _images(body: bytes, kind: str) -> list[bytes]:
    """The image files in a request.

    Raises
    ------
    ValueError: there is none, or too many.
    """
    if not kind.startswith("application/json"):
        if not body:
            raise ValueError("send the content of an image file")
        return [body]

    try:
        found: Any = json.loads(body)["images"]
        images = [base64.b64decode(text, validate=True) for text in found]
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise ValueError('send {"images": ["base64 of an image file", ...]}') from None
    if not 0 < len(images) <= MOST:
        raise ValueError(f"send 1 to {MOST} images, not {len(images)}")
    return images


def _refused(code: int, why: str) -> Response:
    return JSONResponse({"error": why}, code)
