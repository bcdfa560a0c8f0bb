"""Environment that must be set before Prefect and Dask are imported: no telemetry, quiet logs, fail-fast scheduler.

Local worker processes inherit it; other clusters get `ALLOCATION` explicitly.
"""

import os

ALLOCATION = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_ARENA_MAX": "1",
}
"""Settings of glibc, so that worker processes keep freed memory; read while they are loaded.

A network allocates the same hundreds of megabytes in every layer. glibc returns blocks of 32 MB and more at once (Dask
even makes it trim at 64 kB), and every page of them is then faulted in and zeroed again: 1.5 million page faults in a
full-size pass, which cost up to half of its time (docs/full_size.md, `benchmarks.allocation`). One arena,
because thread arenas take no large blocks.
"""
_DEFAULTS = {
    # No telemetry: Prefect's client and server analytics, Hugging Face's download counter.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    **ALLOCATION,
    # Starting and stopping a cluster prints 40 lines otherwise.
    "DASK_LOGGING__DISTRIBUTED": "error",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Prefect's default of 180 s is too long for the automation that finds crashed flow runs.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # The retry policy lives in tasks.stream.stream: the scheduler must report a dead worker at once.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    # A busy machine needs more than 15 s to restart a worker; flows.clusters.keeper replaces lost ones.
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "120s",
    # Dask samples the stack of every task each 10 ms, which only its dashboard shows.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    # Dask measures event loops (50 times a second in scheduler, worker and nanny) and the system: more than half of the
    # driver's CPU time. Memory limits do not depend on it.
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__DISK": "False",
    # Services for deployments, which the private server of one command does not need.
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    # A command without a configured server starts its own (flows.service.private), never Prefect's ephemeral one.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
}


def prepare_environment() -> None:
    """Set variables that the user has not set; call it before importing Prefect or Dask."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
