"""`medsam3 watch`: run the flow and report its result."""

from pathlib import Path

from prefect.settings import PREFECT_API_URL

from flows.messages.console import say
from flows.service.events import require_server
from flows.service.session import prefect_session
from flows.settings.options import FAILED_CASES
from flows.watch import watch_weights
from storage.store.layout import existing_store


def run_watch(root: Path, *, once: bool) -> int:
    """Watch until Ctrl-C, or once; exit code 0, or 1 if files of weights are missing or cannot be loaded.

    Raises:
        NoServerError: If a server is configured and does not respond.
        StoreError: If there is no store, or another process watches it.
    """
    existing_store(root)
    has_server = bool(PREFECT_API_URL.value())
    if has_server:
        require_server()
    with prefect_session():
        state = watch_weights(str(root.absolute()), once, has_server, return_state=True)
    if state.is_crashed() or (state.is_failed() and state.data is None):
        state.result()  # raises its error
    say(state.message or "")
    return FAILED_CASES if state.is_failed() else 0
