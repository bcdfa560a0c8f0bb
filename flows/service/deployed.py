"""Store and version of a flow run, started by a command or by a deployment."""

import importlib.metadata
import os

from prefect import runtime

from flows.messages.console import say
from medsam3_core.errors import UsageError
from storage.store.layout import STORE_VARIABLE, StoreLayout, open_store
from storage.store.locations import location


def store_of(parameter: str) -> StoreLayout:
    """The store of a flow: its parameter, else `$MEDSAM3_STORE` of the worker.

    Raises:
        UsageError: If neither is given, or the path is relative in a deployment.
        StoreError: If it cannot be written.
    """
    warn_of_older_deployment()
    named = parameter or os.environ.get(STORE_VARIABLE, "")
    if not named:
        msg = f"no store given; set the parameter `store`, or start the worker with {STORE_VARIABLE}"
        raise UsageError(msg)
    root = location(named)
    if deployed() and not root.is_absolute():
        msg = f"store {named!r} is relative to the folder of the worker; give an absolute path"
        raise UsageError(msg)
    return open_store(root)


def deployed() -> bool:
    """True if a worker started this flow run for a deployment."""
    return runtime.deployment.id is not None


def warn_of_older_deployment() -> None:
    """Warn if the deployment was created by another version of medsam3 than the installed one."""
    made_by, installed = runtime.deployment.version, importlib.metadata.version("medsam3")
    if deployed() and made_by and made_by != installed:
        say(
            f"this deployment was created by medsam3 {made_by}, but {installed} is installed; "
            "update it with: prefect deploy --all --no-prompt"
        )
