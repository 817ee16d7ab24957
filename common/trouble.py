"""Errors of the other side that may be over soon, such as a locked database of the SuperLink."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def is_trouble(error: BaseException) -> bool:
    """Whether Flower's Runtime API failed, as against having refused."""
    import httpx

    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500


def endure_trouble() -> bool:
    """Let heartbeats and logs of this process's task survive it; False where Flower differs.

    Flower 1.39 tries them again after an error of the connection. After any other its threads end:
    without heartbeats the SuperLink takes the task for dead within a minute.
    """
    from flwr.supercore.runtime import RuntimeHttpClient

    for name in ("SendTaskHeartbeat", "PushLogs"):
        method = getattr(RuntimeHttpClient, name, None)
        if method is None:
            return False
        if not hasattr(method, "__wrapped__"):
            setattr(RuntimeHttpClient, name, _as_lost_connection(method))
    return True


def _as_lost_connection(method: Callable[..., Any]) -> Callable[..., Any]:
    import httpx

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except httpx.HTTPStatusError as error:
            if not is_trouble(error):
                raise
            raise httpx.ReadError(str(error)) from error

    return call
