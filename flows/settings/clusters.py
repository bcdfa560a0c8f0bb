"""Clusters by name: the kinds that need no settings, and those that `medsam3.toml` describes.

[clusters.workstation]
kind = "local"
workers = 4
memory_limit = "8GB"

[clusters.server]
kind = "gpu"
devices = [0, 1, 2, 3]

[clusters.night]
kind = "slurm"
workers = 8
adaptive = { minimum = 1, maximum = 16 }
memory_limit = "32GB"
resources = { GPU = 1 }
slurm = { queue = "gpu", account = "radiology", walltime = "08:00:00", cores = 8, directives = ["--gres=gpu:1"] }

[clusters.standing]
kind = "address"
address = "tcp://scheduler.example.org:8786"
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medsam3_core.errors import UsageError
from storage.store.request_schema import STRICT

_KUBERNETES = "docs/operations.md (Kubernetes)"
_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


class ClusterKind(StrEnum):
    """How workers come into being."""

    LOCAL = "local"
    THREADS = "threads"
    GPU = "gpu"
    SLURM = "slurm"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Workers come and go with the work.

    Attributes:
        minimum: Workers that are always there, at least 1.
        maximum: Workers at most.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    minimum: _Positive = 1
    maximum: _Positive = 1

    def __post_init__(self) -> None:
        if self.maximum < self.minimum:
            msg = f"adaptive maximum {self.maximum} is below its minimum {self.minimum}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class SlurmSettings:
    """What a job asks Slurm for.

    Attributes:
        queue: Partition.
        account: Account; empty for the user's own.
        walltime: Hours, minutes and seconds that a job may take.
        cores: Cores per job; the numerics of its worker use them all.
        directives: Further `#SBATCH` lines, such as `--gres=gpu:1`.
        prologue: Shell lines before the worker starts, such as `module load cuda`.
        interface: Network interface that the nodes reach the scheduler by; empty for the default route.
        log_directory: Folder of the jobs' output; empty for Slurm's own habit.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    queue: str = ""
    account: str = ""
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")] = "08:00:00"
    cores: _Positive = 4
    directives: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str = ""
    log_directory: str = ""


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A named cluster.

    Attributes:
        kind: How workers come into being.
        workers: Workers (threads for `threads`, jobs for `slurm`); 0 chooses: by cores, memory and size of the weights,
            by GPUs, else one.
        memory_limit: Per worker, as Dask writes it (`4GB`), or `auto`. A worker above it is killed and replaced.
        resources: Dask resources that every batch asks for, such as `{GPU = 1}`: workers must be started with them.
        adaptive: Bounds between which the number of workers follows the work; None for a fixed number.
        devices: GPUs of `gpu`; empty for all.
        address: Scheduler of `address`.
        wait_seconds: How long the first worker, or a scheduler that is restarted, may take.
        slurm: For `slurm`.
        name: Name in the settings file.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: ClusterKind = ClusterKind.LOCAL
    workers: _Count = 0
    memory_limit: Annotated[str, Field(pattern=r"^(auto|\d+(\.\d+)?\s*[kMGT]i?B)$")] = "auto"
    resources: Mapping[str, float] = field(default_factory=dict)
    adaptive: Adaptive | None = None
    devices: tuple[_Count, ...] = ()
    address: str = ""
    wait_seconds: Annotated[float, Field(gt=0)] = 120.0
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    name: str = ""

    def __post_init__(self) -> None:
        kind = ClusterKind(self.kind)
        if contradictions := list(self._contradictions(kind)):
            msg = "; ".join(contradictions)
            raise ValueError(msg)

    def _contradictions(self, kind: ClusterKind) -> list[str]:
        found = []
        if (kind is ClusterKind.ADDRESS) != bool(self.address):
            found.append("address belongs to kind address, and to it alone")
        if self.address and "://" not in self.address:
            found.append(f"address {self.address!r} has no protocol; write tcp://HOST:PORT")
        if self.slurm != SlurmSettings() and kind is not ClusterKind.SLURM:
            found.append("a table slurm belongs to kind slurm")
        if self.devices and kind is not ClusterKind.GPU:
            found.append("devices belong to kind gpu")
        if self.adaptive and kind not in (ClusterKind.LOCAL, ClusterKind.SLURM):
            found.append("adaptive belongs to kinds local and slurm; others have the workers that they have")
        if self.adaptive and self.workers:
            found.append("workers and adaptive contradict each other; give one")
        return found


def parse_cluster(name: str, described: Mapping[str, Mapping[str, Any]] | None = None) -> ClusterSettings:
    """A cluster by name: one of the settings file, `local`, `local:4`, `threads`, `gpu`, or `tcp://SCHEDULER:PORT`.

    Args:
        name: What stands behind `--cluster`.
        described: The section `clusters` of the settings file.

    Raises:
        UsageError: If there is no such cluster (lists what exists) or its description is wrong.
    """
    described = described or {}
    if name in described:
        return _described(name, described[name])
    if "://" in name:
        return ClusterSettings(ClusterKind.ADDRESS, address=name.removeprefix("address:"))
    kind, _, workers = name.partition(":")
    if kind in (ClusterKind.LOCAL, ClusterKind.THREADS, ClusterKind.GPU) and (workers or "0").isdigit():
        return ClusterSettings(ClusterKind(kind), workers=int(workers or 0))
    if name == ClusterKind.SLURM:
        return ClusterSettings(ClusterKind.SLURM)
    known = ", ".join(sorted(described)) or "none"
    msg = (
        f"unknown cluster {name!r}; choose local, local:WORKERS, threads, gpu, slurm, tcp://SCHEDULER:PORT, or one of "
        f"the settings file medsam3.toml ({known}); for Kubernetes see {_KUBERNETES}"
    )
    raise UsageError(msg)


def _described(name: str, value: Mapping[str, Any]) -> ClusterSettings:
    if value.get("kind") == "kubernetes":
        msg = (
            f"settings file: clusters.{name}: kind kubernetes was removed; apply the manifest of {_KUBERNETES} "
            'and describe its scheduler: kind = "address", address = "tcp://HOST:8786"'
        )
        raise UsageError(msg)
    try:
        return replace(TypeAdapter(ClusterSettings).validate_python(dict(value)), name=name)
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(('clusters', name, *map(str, one['loc'])))}: {one['msg']}" for one in error.errors()
        )
        msg = f"settings file: {found}"
        raise UsageError(msg) from error
