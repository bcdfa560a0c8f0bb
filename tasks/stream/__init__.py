"""The bounded stream of batches over Dask: sizing, breadcrumbs of running batches, dead workers, interrupts.

It knows nothing of the work that it streams.
"""
