"""Scheduler and workers as Kubernetes objects of our own, submitted with kubectl.

dask-kubernetes cannot be installed beside Prefect (they ask for different python-dateutil), and what we need is small:
a deployment and a service for the scheduler, a deployment for the workers, a port forwarded to this machine.
"""

import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows.settings.clusters import ClusterSettings, KubernetesSettings
from flows.settings.environment import ALLOCATION
from medsam3_core.errors import UsageError

_PORT = 8786
_FORWARDED = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def kubernetes_manifest(settings: ClusterSettings, name: str = "medsam3") -> dict[str, Any]:
    """What would be applied, as one Kubernetes `List`.

    Args:
        settings: A cluster of kind `kubernetes`.
        name: Name of this cluster in its namespace.
    """
    pods = settings.kubernetes
    if pods is None:
        msg = f"cluster {settings.name!r} has no table kubernetes"
        raise UsageError(msg)
    memory = settings.memory_limit if settings.memory_limit != "auto" else f"{4 * pods.cpus}GiB"
    resources = {**({"GPU": 1.0} if pods.gpus else {}), **settings.resources}
    worker = ["dask", "worker", f"tcp://{name}-scheduler:{_PORT}", "--nthreads", "1", "--no-dashboard"]
    worker += ["--memory-limit", memory]
    worker += ["--resources", ",".join(f"{key}={value:g}" for key, value in resources.items())] if resources else []
    scheduler = ["dask", "scheduler", "--port", str(_PORT), "--no-dashboard"]
    limits = {"cpu": str(pods.cpus), "memory": _quantity(memory)}
    limits |= {"nvidia.com/gpu": str(pods.gpus)} if pods.gpus else {}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-scheduler", "labels": _labels(name, "scheduler")},
        "spec": {"selector": _labels(name, "scheduler"), "ports": [{"port": _PORT, "targetPort": _PORT}]},
    }
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            service,
            _deployment(name, "scheduler", 1, pods, scheduler, {"cpu": "1", "memory": "2Gi"}),
            _deployment(name, "workers", max(1, settings.workers), pods, worker, limits),
        ],
    }


@contextmanager
def kubernetes_scheduler(settings: ClusterSettings) -> Iterator[str]:
    """Apply the objects, forward the scheduler's port to loopback, delete the objects at the end.

    Yields:
        Address of the scheduler.

    Raises:
        UsageError: If kubectl is not installed or refuses; with its own words.
    """
    name = f"medsam3-{uuid.uuid4().hex[:8]}"
    manifest = kubernetes_manifest(settings, name)
    pods = settings.kubernetes
    if pods is None or shutil.which("kubectl") is None:
        msg = (
            f"cluster {settings.name!r} needs kubectl on the path; install it, or apply what `medsam3 clusters "
            f"{settings.name}` prints and use --cluster tcp://SCHEDULER:{_PORT}"
        )
        raise UsageError(msg)
    kubectl = ["kubectl", "--namespace", pods.namespace]
    try:
        _run([*kubectl, "apply", "-f", "-"], json.dumps(manifest))
        wait = f"--timeout={settings.wait_seconds:.0f}s"
        _run([*kubectl, "rollout", "status", f"deployment/{name}-scheduler", wait])
        with _forwarded([*kubectl, "port-forward", f"service/{name}-scheduler", f":{_PORT}"]) as port:
            yield f"tcp://127.0.0.1:{port}"
    finally:
        subprocess.run(
            [*kubectl, "delete", "deployment,service", "--selector", f"app.kubernetes.io/instance={name}",
             "--wait=false", "--ignore-not-found"],
            capture_output=True, check=False,
        )  # fmt: skip


@contextmanager
def _forwarded(command: list[str]) -> Iterator[int]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        try:
            said = ""
            for line in forward.stdout or ():
                said += line
                if found := _FORWARDED.search(line):
                    yield int(found[1])
                    return
            msg = f"{' '.join(command[3:])} ended: {said.strip()[-500:]}"
            raise UsageError(msg)
        finally:
            forward.terminate()


def _run(command: list[str], text: str = "") -> None:
    finished = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if finished.returncode:
        msg = f"{' '.join(command[:5])} failed: {finished.stderr.strip()[-500:]}"
        raise UsageError(msg)


def _deployment(
    name: str, role: str, replicas: int, pods: KubernetesSettings, command: list[str], limits: dict[str, str]
) -> dict[str, Any]:
    names = {claim: f"volume-{index}" for index, claim in enumerate(dict.fromkeys(pods.volumes.values()))}
    container = {
        "name": role,
        "image": pods.image,
        "args": command,
        "env": [{"name": key, "value": value} for key, value in _environment(pods).items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in pods.secrets],
        "resources": {"limits": limits, "requests": limits},
        "volumeMounts": [{"name": names[claim], "mountPath": path} for path, claim in pods.volumes.items()],
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    claims = [{"name": each, "persistentVolumeClaim": {"claimName": claim}} for claim, each in names.items()]
    spec = {"containers": [container], "volumes": claims, "automountServiceAccountToken": False}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{name}-{role}", "labels": _labels(name, role)},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": _labels(name, role)},
            "template": {"metadata": {"labels": _labels(name, role)}, "spec": spec},
        },
    }


def _environment(pods: KubernetesSettings) -> dict[str, str]:
    fixed = {"DO_NOT_TRACK": "1", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    return {**fixed, **ALLOCATION, **pods.environment}


def _labels(name: str, role: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/part-of": "medsam3",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": role,
    }


def _quantity(memory: str) -> str:
    """Kubernetes writes `32G` and `32Gi` for Dask's `32GB` and `32GiB`."""
    return memory.replace(" ", "").removesuffix("B")
