"""Runs of a SuperLink: submit, look at, follow, stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common.errors import FleetError, SettingsError
from common.files import write_atomic
from deploy.provision.loopback import require_loopback

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient

Scalar = str | int | float | bool
_FEDERATION = "fleet"


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes
    ----------
    status: pending, starting, running or finished.
    result: of a finished run: completed, failed or stopped; empty before.
    details: Flower's words for a failure.
    """

    run_id: int
    status: str
    result: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status == "finished"


class Control:
    """The control API of a SuperLink, which has no authentication and stays near its server."""

    def __init__(
        self,
        address: str,
        home: Path,
        environment: Mapping[str, str],
        root_certificates: Path | None = None,
    ) -> None:
        """Prepare.

        Parameters
        ----------
        address: ``host:port`` of the SuperLink's control API.
        home: folder for Flower's connection file.
        environment: for Flower's command line.
        root_certificates: PEM file of the authority that signed the SuperLink's certificate;
            None for plaintext, on loopback.

        Raises
        ------
        SettingsError: plaintext to another machine, or there is no such file.
        """
        if root_certificates is None:
            require_loopback(address.rpartition(":")[0])
        elif not root_certificates.is_file():
            raise SettingsError(f"--root-certificates: there is no file {root_certificates}")
        self._address = address
        self._certificates = root_certificates
        self._home = home
        self._environment = dict(environment) | {"FLWR_HOME": str(home)}
        self._client: ControlHttpClient | None = None

    def __enter__(self) -> Self:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        certificates = self._certificates and self._certificates.absolute()
        trust = {"root-certificates": str(certificates)} if certificates else {"insecure": True}
        write_atomic(
            self._home / "config.toml",
            f'[superlink]\ndefault = "{_FEDERATION}"\n\n[superlink.{_FEDERATION}]\n'
            + toml_lines({"address": self._address, **trust}),
        )
        self._client = ControlHttpClient.from_server_address(
            server_address=self._address,
            insecure=certificates is None,
            root_certificates=certificates.read_bytes() if certificates else None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr")],
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._client = None

    def submit(self, app: Path, run_config: Mapping[str, Scalar]) -> int:
        """Pack an app, start a run of it and give its id.

        Raises
        ------
        FleetError: Flower refused the app or the settings, with its reason.
        """
        overrides = self._home / "run-config.toml"
        write_atomic(overrides, toml_lines(run_config))
        command = ["flwr", "run", str(app), _FEDERATION, "--format", "json"]
        if run_config:
            command += ["--run-config", str(overrides)]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        try:
            answer = json.loads(done.stdout)
            return int(answer["run-id"])
        except (ValueError, KeyError, TypeError):
            reason = _reason(done.stdout) or done.stderr.strip() or done.stdout.strip()
            raise FleetError(f"Flower did not start a run of {app}: {reason}") from None

    def status(self, run_id: int) -> RunStatus:
        """Where a run stands.

        Raises
        ------
        FleetError: the SuperLink does not answer, or does not know the run.
        """
        import httpx
        from flwr.proto.control_pb2 import ListRunsRequest

        try:
            runs = self._http.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except httpx.HTTPError as error:
            raise FleetError(f"the SuperLink at {self._address} does not answer: {error}") from None
        if run_id not in runs:
            raise FleetError(f"the SuperLink at {self._address} has no run {run_id}")
        status = runs[run_id].status
        return RunStatus(run_id, status.status, status.sub_status, status.details)

    def output(self, run_id: int, after: float) -> Iterator[tuple[str, float]]:
        """What a run's ServerApp writes, as it comes, until the run ends.

        Parameters
        ----------
        after: time stamp of the last part that is known already; 0 for none.

        Yields
        ------
        A part of the output, which may end within a line, and its time stamp.

        Raises
        ------
        FleetError: the SuperLink does not answer any more, or does not know the run.
        """
        import httpx
        from flwr.proto.control_pb2 import StreamLogsRequest

        request = StreamLogsRequest(run_id=run_id, after_timestamp=after)
        try:
            for part in self._http.StreamLogs(request):
                yield part.log_output, part.latest_timestamp
        except httpx.HTTPError as error:
            raise FleetError(f"the SuperLink at {self._address} does not answer: {error}") from None

    def stop(self, run_id: int) -> None:
        """Stop a run; one that has finished stays as it is."""
        import httpx
        from flwr.proto.control_pb2 import StopRunRequest

        try:
            self._http.StopRun(StopRunRequest(run_id=run_id))
        except httpx.HTTPError as error:
            if not self.status(run_id).finished:
                raise FleetError(f"run {run_id} could not be stopped: {error}") from None

    @property
    def _http(self) -> ControlHttpClient:
        if self._client is None:
            raise FleetError("the fleet is not running: use it in a with statement")
        return self._client


def toml_lines(values: Mapping[str, Scalar]) -> str:
    """``key = value`` lines; dotted keys stay dotted, which TOML reads as tables."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()
    )


def _reason(output: str) -> str:
    try:
        return str(json.loads(output)["error-message"]).strip()
    except (ValueError, KeyError, TypeError):
        return ""
