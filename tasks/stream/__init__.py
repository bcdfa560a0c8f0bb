"""The bounded stream of batches over Dask: sizing, breadcrumbs of running batches, dead workers, interrupts.

It does not depend on the kind of work.
"""
