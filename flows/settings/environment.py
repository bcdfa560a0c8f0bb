"""Environment that must be set before Prefect and Dask are imported: no telemetry, quiet logs, fail-fast scheduler.

Worker processes that are started here later inherit it; clusters elsewhere are given `ALLOCATION` themselves.
"""

import os

ALLOCATION = {
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_ARENA_MAX": "1",
}
"""How worker processes keep the memory that they free; glibc reads it while they are loaded.

A network asks for the same hundreds of megabytes in every layer. glibc returns blocks of 32 MB and more at once (Dask
even makes it trim at 64 kB), and every page of them is then faulted in and zeroed again: 1.5 million page faults in a
full-size pass, which cost between nothing and half of it (docs/full_size.md, `benchmarks.allocation`). One arena,
because those of threads take no large blocks.
"""
_DEFAULTS = {
    # Nothing is sent anywhere: Prefect's client and server analytics, Hugging Face's download counter.
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    **ALLOCATION,
    # Starting and stopping a cluster prints 40 lines otherwise.
    "DASK_LOGGING__DISTRIBUTED": "error",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    # Prefect's default is 180 s: the automation that looks for dead flow runs would take a living one for dead.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # The retry policy lives in tasks.stream.stream: the scheduler must report a dead worker at once.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    # A busy machine needs more than 15 s to start a worker again; what is gone for good is replaced, see
    # flows.clusters.keeper.
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "120s",
    # Dask samples the stack of every task each 10 ms; nobody reads it without its dashboard.
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    # Nor its measurements of event loops (50 a second in scheduler, worker and nanny) and of the system: together more
    # than half of what a driver spends while its workers work. Limits of memory are watched by other means.
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__DISK": "False",
    # What only deployments need costs CPU in the server that Prefect starts for one command; a server of one's own
    # is started with its own environment.
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    # A command without a configured server starts its own (flows.service.private), never Prefect's ephemeral one.
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
}


def prepare_environment() -> None:
    """Set what the user has not set; call it before importing Prefect or Dask."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
