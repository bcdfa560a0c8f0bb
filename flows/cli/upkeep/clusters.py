"""`medsam3 clusters`: list clusters, or print the job script of one."""

from pathlib import Path

from flows.clusters.kinds import slurm_cluster
from flows.settings.clusters import ClusterKind, parse_cluster
from flows.settings.settings import read_settings, settings_file


def run_clusters(root: Path, name: str | None) -> int:
    """Print the known clusters, or the job script of one; exit code 0."""
    print(submission(name, root) if name else "\n".join(cluster_lines(root)))  # noqa: T201 - the answer
    return 0


def cluster_lines(store_root: Path) -> list[str]:
    """One line per value of `--cluster`."""
    described = read_settings(store_root).clusters
    built_in = ("local", "local:WORKERS", "threads", "gpu", "slurm", "tcp://SCHEDULER:PORT")
    lines = [f"{name:<24} built in" for name in built_in if name not in described]
    file = settings_file(store_root)
    return lines + [f"{name:<24} {parse_cluster(name, described).kind}, from {file}" for name in described]


def submission(name: str, store_root: Path) -> str:
    """The job script of a slurm cluster, the settings of any other."""
    settings = parse_cluster(name, read_settings(store_root).clusters)
    if settings.kind is ClusterKind.SLURM:
        with slurm_cluster(settings) as cluster:
            return str(cluster.job_script())
    return repr(settings)
