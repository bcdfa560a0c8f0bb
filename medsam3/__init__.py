"""Use medsam3 from Python: stores as DataFrames, weights that answer one image, ingest and benchmark in a script.

docs/python.md has examples; each of them is a test. What this package re-exports is public: its names change only with
a line in the changelog. All other modules are internal.
"""

from medsam3.models import Model, Prediction, load_weights
from medsam3.stores import Store, open_store
from medsam3_core.errors import CaseDataError, Medsam3Error, StoreError, UnsupportedPromptError, UsageError

__all__ = [
    "CaseDataError",
    "Medsam3Error",
    "Model",
    "Prediction",
    "Store",
    "StoreError",
    "UnsupportedPromptError",
    "UsageError",
    "load_weights",
    "open_store",
]
