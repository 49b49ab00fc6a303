"""Manifests of docs/cluster: valid for Kubernetes and KubeRay, closed to the outside, true to our code."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import click
import kubernetes_validate
import pytest
import typer.main
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.cli import app
from resources.compute import engine_choice

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "cluster"
KUBERNETES = ("1.30", "1.37")
"""Versions whose schemas the manifests must fit, strictly: no field that they do not know."""

NAMESPACE, IMAGE, LOOPBACK = "orchard", "REGISTRY/orchard:TAG", "127.0.0.1"
SECRET_NAME = re.compile(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY|_URL$")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AuthOptions(Strict):
    mode: Literal["token"]
    secretName: str


class Group(Strict):
    rayStartParams: dict[str, str]
    template: dict[str, Any]


class HeadGroup(Group):
    serviceType: Literal["ClusterIP"]


class WorkerGroup(Group):
    groupName: str
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)
    maxReplicas: int = Field(ge=1)


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class RayCluster(Strict):
    """The fields of KubeRay's `ray.io/v1` RayCluster that we use, as its API defines them."""

    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: dict[str, str]
    spec: RayClusterSpec


def manifests() -> list[dict[str, Any]]:
    found = [item for path in sorted(FOLDER.glob("*.yaml")) for item in yaml.safe_load_all(path.read_text())]
    assert len(found) >= 10
    return found


def named(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [item for item in manifests() if item["kind"] == kind]


def check(manifest: dict[str, Any], version: str) -> None:
    if manifest["kind"] != "RayCluster":
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    RayCluster.model_validate(manifest)
    for template in templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)


def templates(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod templates anywhere in a manifest."""
    for key, value in manifest.items():
        if key == "template":
            yield value
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from templates(item)


def pods() -> list[dict[str, Any]]:
    found = [template["spec"] for item in manifests() for template in templates(item)]
    return [spec for spec in found if "containers" in spec]


def containers() -> list[dict[str, Any]]:
    found = [item for pod in pods() for item in (*pod.get("initContainers", []), *pod["containers"])]
    assert {item["name"] for item in found} == {
        *("prepare", "webserver", "daemon", "gc", "prune", "ray-head", "ray-worker")
    }
    return found


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", manifests(), ids=named)
def test_it_fits_the_schema(manifest: dict[str, Any], version: str) -> None:
    check(manifest, version)
    if manifest["kind"] != "Namespace":
        assert manifest["metadata"]["namespace"] == NAMESPACE


def test_what_does_not_fit_is_refused() -> None:
    """Neither schemas nor model would be worth anything if they took whatever comes."""
    [deployment], [cluster] = of_kind("Deployment"), of_kind("RayCluster")
    misspelt = copy.deepcopy(deployment)
    misspelt["spec"]["template"]["spec"]["containers"][0]["comand"] = ["x"]
    wrong = copy.deepcopy(deployment)
    wrong["spec"]["replicas"] = "one"
    for broken in (misspelt, wrong):
        with pytest.raises(kubernetes_validate.utils.ValidationError):
            check(broken, KUBERNETES[0])
    open_to_all = copy.deepcopy(cluster)
    open_to_all["spec"]["headGroupSpec"]["serviceType"] = "LoadBalancer"
    with pytest.raises(ValidationError, match="serviceType"):
        check(open_to_all, KUBERNETES[0])
    misspelt = copy.deepcopy(cluster)
    misspelt["spec"]["workerGroupSpecs"][0]["template"]["spec"]["volumez"] = []
    with pytest.raises(kubernetes_validate.utils.ValidationError):
        check(misspelt, KUBERNETES[0])


def test_nothing_is_open_to_the_outside() -> None:
    assert {item["kind"] for item in manifests()} == {
        *("Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "RayCluster", "Deployment", "CronJob")
    }
    [closed] = [item for item in of_kind("NetworkPolicy") if item["metadata"]["name"] == "nothing-by-default"]
    assert closed["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert all("ipBlock" not in peer for peer in rule["from"]), "only pods may come in"
    for pod in pods():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
    for container in containers():
        assert "ports" not in container
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    [webserver] = [item for item in containers() if item["name"] == "webserver"]
    assert webserver["command"][webserver["command"].index("-h") + 1] == LOOPBACK


def test_no_secret_is_written_down() -> None:
    for container in containers():
        for variable in container.get("env", []):
            if SECRET_NAME.search(variable["name"]):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}
    [settings] = of_kind("ConfigMap")
    assert not [name for name in settings["data"] if SECRET_NAME.search(name)]
    text = "".join(path.read_text() for path in FOLDER.iterdir())
    assert not re.search(r"://[^\s/]+:[^\s/]+@", text)


def test_what_is_referred_to_is_there() -> None:
    [settings], [account] = of_kind("ConfigMap"), of_kind("ServiceAccount")
    page = (FOLDER.parent / "cluster.md").read_text()
    for pod in pods():
        volumes = {volume["name"] for volume in pod["volumes"]}
        claims = [
            item["persistentVolumeClaim"]["claimName"]
            for item in pod["volumes"]
            if len(item) > 1 and "persistentVolumeClaim" in item
        ]
        assert all(f"`{claim}`" in page for claim in claims)
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        mounted = set()
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            assert container["image"] == IMAGE
            mounted |= {mount["name"] for mount in container["volumeMounts"]}
            for source in container["envFrom"]:
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] == settings["metadata"]["name"]
                else:
                    assert f"`{source['secretRef']['name']}`" in page
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    secret = variable["valueFrom"]["secretKeyRef"]
                    assert re.search(rf"`{secret['name']}` \| .*`{secret['key']}`", page)
        assert mounted == volumes


def test_every_command_and_option_exists() -> None:
    tried = set()
    for container in containers():
        lines = [container.get("command", [])]
        if lines[0][:1] == ["/bin/bash"]:
            lines = [shlex.split(line) for line in container["args"][0].split(";")]
        for words in (line for line in lines if line):
            words = words[1:] if words[0] == "exec" else words
            command = _command(words)
            known = {option for item in command.params for option in item.opts}
            options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
            assert not set(options) - known, f"{words}: {set(options) - known}"
            tried.add(command.name)
    assert tried == {"prepare", "gc", "prune", "dagster-webserver", "run", "start"}


def _command(words: list[str]) -> click.Command:
    """The click command that a command line names."""
    if words[0] == "orchard":
        group: Any = typer.main.get_command(app)
        rest = words[1:]
    elif words[0] == "dagster-webserver":
        from dagster_webserver.cli import create_dagster_webserver_cli

        return create_dagster_webserver_cli()
    elif words[0] == "dagster-daemon":
        from dagster._daemon.cli import create_dagster_daemon_cli

        group, rest = create_dagster_daemon_cli(), words[1:]
    else:
        assert words[0] == "ray", words
        return _ray_start(words[1:])
    while hasattr(group, "commands"):
        group, rest = group.commands[rest[0]], rest[1:]
    return group


def _ray_start(words: list[str]) -> click.Command:
    """`ray start`, asked for its options in another process: one that has loaded Ray cannot set its modes."""
    assert words[0] == "start"
    ask = "import json, ray.scripts.scripts as s; print(json.dumps([p.opts for p in s.start.params]))"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return click.Command("start", params=[click.Option(names) for names in json.loads(told.stdout)])


def test_every_variable_is_read_by_somebody() -> None:
    [settings] = of_kind("ConfigMap")
    names = {*settings["data"], *(item["name"] for one in containers() for item in one.get("env", []))}
    sources = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "resources").rglob("*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    documented = (ROOT / "docs" / "lake.md").read_text() + (ROOT / "docs" / "weights.md").read_text()
    for name in names:
        if name.startswith(("ORCHARD_", "DAGSTER_", "RAY_")):
            assert re.search(rf"\b{name}\b", code), name
        elif name != "HF_HUB_OFFLINE":
            assert f"`{name}`" in documented, name
    import huggingface_hub.constants

    assert "HF_HUB_OFFLINE" in Path(huggingface_hub.constants.__file__).read_text(encoding="utf-8")
    assert settings["data"][engine_choice.ENGINE_VARIABLE] == "ray"


def test_ray_is_the_pinned_one_and_its_address_the_heads() -> None:
    [cluster], [settings] = of_kind("RayCluster"), of_kind("ConfigMap")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"ray=={cluster['spec']['rayVersion']}" in project["optional-dependencies"]["ray"]
    name = cluster["metadata"]["name"]
    assert (
        settings["data"][engine_choice.ADDRESS_VARIABLE]
        == f"{name}-head-svc.{NAMESPACE}.svc.cluster.local:6379"
    )


def test_the_image_has_our_python_our_extras_and_no_root() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [version] = re.findall(r"^FROM python:(\d+\.\d+)-", text, re.MULTILINE)
    assert version in project["requires-python"]
    [extras] = re.findall(r"install\.sh python3\.11 \S+ (\S+)", text)
    assert {"ray", "cluster"} <= set(extras.split(",")) <= set(project["optional-dependencies"])
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert {"libegl1", "libgles2"} <= set(text.split())
