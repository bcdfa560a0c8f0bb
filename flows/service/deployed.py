"""What a flow finds out about the place where it runs: a command line, or a deployment that somebody made earlier."""

import importlib.metadata
import os

from prefect import runtime

from flows.messages.console import say
from medsam3_core.errors import UsageError
from storage.store.layout import STORE_VARIABLE, StoreLayout, open_store
from storage.store.locations import location


def store_of(parameter: str) -> StoreLayout:
    """The store that a flow is meant for: its parameter, else `$MEDSAM3_STORE` of the worker.

    Raises:
        UsageError: If neither says, or what they say is relative: a worker's folder is nobody's choice.
        StoreError: If it cannot be written.
    """
    warn_of_older_deployment()
    named = parameter or os.environ.get(STORE_VARIABLE, "")
    if not named:
        msg = f"which store? give the parameter `store`, or start the worker with {STORE_VARIABLE} set"
        raise UsageError(msg)
    root = location(named)
    if deployed() and not root.is_absolute():
        msg = f"store {named!r} is relative to wherever the worker runs; give an absolute path"
        raise UsageError(msg)
    return open_store(root)


def deployed() -> bool:
    """Whether this flow run was started by a worker for a deployment."""
    return runtime.deployment.id is not None


def warn_of_older_deployment() -> None:
    """Say it where the deployment was made by another version of this package than the one that runs."""
    made_by, installed = runtime.deployment.version, importlib.metadata.version("medsam3")
    if deployed() and made_by and made_by != installed:
        say(
            f"this deployment was made by medsam3 {made_by}, {installed} is installed; "
            "bring it up to date with: prefect deploy --all --no-prompt"
        )
