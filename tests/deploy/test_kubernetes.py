"""The manifests: valid by Kubernetes' own schemas, and what Flower would start from them."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from flwr.supercore.cli.flower_superexec import _parse_args
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.factory import _kubernetes_executor_config_from_mapping
from flwr.supercore.superexec.executor.kubernetes_executor import _build_taskexecutor_pod
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink

from deploy.provision import provision as fleet
from deploy.provision.settings import parse_fleet
from server_app.settings import read_server_settings

FOLDER = Path(__file__).parents[2] / "kubernetes"
VERSIONS = ("1.30", "1.37")
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def documents(name: str = "*") -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.glob(f"{name}.yaml")):
        if path.name != "kustomization.yaml":
            yield from yaml.safe_load_all(path.read_text())


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = (d for d in documents() if (d["kind"], d["metadata"].get("name")) == (kind, name))
    return found


def pods() -> Iterator[dict[str, Any]]:
    for document in documents():
        if "template" in document.get("spec", {}):
            yield document["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def run_pod() -> dict[str, Any]:
    """The pod that Flower's executor starts for a run, from the ConfigMap."""
    settings = yaml.safe_load(find("ConfigMap", "executor")["data"]["executor.yaml"])
    config = _kubernetes_executor_config_from_mapping(settings)
    spec = ExecutionSpec(
        task_id=7,
        task_type=TaskType.SERVER_APP,
        token="t",
        runtime_api_address="control.augflower.svc:8000",
        insecure=False,
        root_certificates_path="/etc/augflower/server/ca.crt",
        runtime_dependency_install=False,
        parent_pid=None,
        suppress_output=False,
    )
    pod = _build_taskexecutor_pod(spec, config, "a certificate", "attempt")
    assert isinstance(pod, dict)
    return pod


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FILES)
def test_each_manifest_is_valid(name: str, version: str):
    for document in documents(name.removesuffix(".yaml")):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_of_a_run_is_valid(run_pod: dict[str, Any], version: str):
    kubernetes_validate.validate(run_pod, version, strict=True)


def test_the_validator_finds_a_misspelt_field():
    broken = find("Deployment", "executor")
    broken["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_only_a_run_has_the_private_model_and_cannot_change_it(run_pod: dict[str, Any]):
    (container,) = run_pod["spec"]["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert container["image"] == "augflower-server"
    assert container["command"] == ["flwr-serverapp"]
    assert mounts["private-model"]["readOnly"] is True
    for pod in pods():
        claims = [
            v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v
        ]
        assert not any(claim["claimName"] == "private-model" for claim in claims)


def test_the_servers_settings_are_known(run_pod: dict[str, Any]):
    (container,) = run_pod["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    settings = read_server_settings(environment)
    assert settings.private_model == "/private/model"
    assert settings.runs == Path("/runs")


def test_every_pod_is_restricted(run_pod: dict[str, Any]):
    for pod in [run_pod["spec"], *pods()]:
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        written = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in written


def test_manifests_hold_no_secret():
    assert not [d for d in documents() if d["kind"] == "Secret"]
    for path in FOLDER.iterdir():
        assert "PRIVATE KEY" not in path.read_text(), path


def test_flower_takes_the_arguments(monkeypatch: pytest.MonkeyPatch):
    executor = find("Deployment", "executor")["spec"]["template"]["spec"]["containers"][0]["args"]
    taken = _parse_args().parse_args(executor[2:])
    assert (executor[:2], str(taken.executor)) == (["augflower", "superexec"], "kubernetes")
    link = find("StatefulSet", "superlink")["spec"]["template"]["spec"]["containers"][0]["args"]
    options = _parse_args_run_superlink().parse_args(link[2:])
    assert options.enable_supernode_auth
    assert options.isolation == "process"
    assert "insecure" not in shlex.join(link + executor)


def test_secrets_are_files_of_the_kits(tmp_path: Path):
    settings = {"server": {"names": ["superlink"]}, "nodes": {"node-1": {"clients": "0"}}}
    fleet.provision(parse_fleet(settings), tmp_path)
    server = find("StatefulSet", "superlink")["spec"]["template"]["spec"]["containers"][0]["args"]
    node = find("StatefulSet", "node-1")["spec"]["template"]["spec"]["containers"][0]["args"]
    for arguments, kit, place in (
        (server, "server", "/etc/augflower/server/"),
        (node, "nodes/node-1", "/etc/augflower/node/"),
    ):
        named = [part.partition("=")[2] for part in arguments if place in part]
        assert len(named) > 2
        assert all((tmp_path / kit / name.removeprefix(place)).is_file() for name in named)


def test_every_resource_of_the_servers_side_is_applied():
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert set(FILES) - set(listed) == {"node.yaml", "register.yaml"}
