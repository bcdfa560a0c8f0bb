"""A store that a command only reads: what is not whole in it is told before the answer, on stderr."""

from pathlib import Path

from flows.console import say
from storage.run_folders import broken_runs
from storage.store_layout import StoreLayout, existing_store


def store_to_read(root: Path) -> StoreLayout:
    """The store at `root`; says which runs are in no view.

    Raises:
        StoreError: If there is none; says how to make one.
    """
    store = existing_store(root)
    for sentence in broken_runs(store):
        say(sentence)
    return store
