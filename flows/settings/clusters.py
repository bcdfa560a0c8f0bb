"""Clusters by name: kinds that need no settings, and those described in `medsam3.toml`; examples in docs/scale.md."""

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
    """Kind of a cluster."""

    LOCAL = "local"
    THREADS = "threads"
    GPU = "gpu"
    SLURM = "slurm"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Bounds of a cluster that grows and shrinks with the work.

    Attributes:
        minimum: Minimum number of workers, at least 1.
        maximum: Maximum number of workers.
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
    """Options of a Slurm job.

    Attributes:
        queue: Partition.
        account: Account; empty for the user's default.
        walltime: Time limit of a job, `HH:MM:SS`.
        cores: Cores per job; its worker uses them all.
        directives: Further `#SBATCH` lines, such as `--gres=gpu:1`.
        prologue: Shell lines run before the worker starts, such as `module load cuda`.
        interface: Network interface by which the nodes reach the scheduler; empty for the default route.
        log_directory: Folder of the jobs' output; empty for Slurm's default.
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
    """Description of a cluster.

    Attributes:
        kind: `local`, `threads`, `gpu`, `slurm` or `address`.
        workers: Number of workers (threads for `threads`, jobs for `slurm`); 0 chooses it by cores, memory and size of
            the weights, or by GPUs, else 1.
        memory_limit: Memory per worker, such as `4GB`, or `auto`. A worker above it is killed and replaced.
        resources: Dask resources that every batch requires, such as `{GPU = 1}`; workers must be started with them.
        adaptive: Bounds of the number of workers if it follows the work; None for a fixed number.
        devices: GPU indices of `gpu`; empty for all.
        address: Scheduler of `address`, such as `tcp://HOST:8786`.
        wait_seconds: Time limit for the first worker, also after a restart of the scheduler.
        slurm: Options of `slurm`.
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
        if contradictions := self._contradictions(ClusterKind(self.kind)):
            msg = "; ".join(contradictions)
            raise ValueError(msg)

    def _contradictions(self, kind: ClusterKind) -> list[str]:
        found = []
        if (kind is ClusterKind.ADDRESS) != bool(self.address):
            found.append("kind address needs an address, and no other kind takes one")
        if self.address and "://" not in self.address:
            found.append(f"address {self.address!r} has no protocol; use tcp://HOST:PORT")
        if self.slurm != SlurmSettings() and kind is not ClusterKind.SLURM:
            found.append("slurm = {...} is for kind slurm only")
        if self.devices and kind is not ClusterKind.GPU:
            found.append("devices are for kind gpu only")
        if self.adaptive and kind not in (ClusterKind.LOCAL, ClusterKind.SLURM):
            found.append("adaptive is for kinds local and slurm only")
        if self.adaptive and self.workers:
            found.append("workers and adaptive exclude each other; set one of them")
        return found


def parse_cluster(name: str, described: Mapping[str, Mapping[str, Any]] | None = None) -> ClusterSettings:
    """A cluster by name: one of the settings file, `local`, `local:4`, `threads`, `gpu`, or `tcp://SCHEDULER:PORT`.

    Args:
        name: Value of `--cluster`.
        described: Section `clusters` of the settings file.

    Raises:
        UsageError: If there is no such cluster (lists the known ones) or its description is wrong.
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
        f"unknown cluster {name!r}; choose local, local:WORKERS, threads, gpu, slurm, tcp://SCHEDULER:PORT, or one "
        f"from the settings file medsam3.toml ({known}); for Kubernetes see {_KUBERNETES}"
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
