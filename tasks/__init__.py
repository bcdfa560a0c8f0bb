"""Units of work (read, compute, write, return a small record) and the bounded stream that runs them on Dask.

A module is named after its work on a batch of cases; neither file formats nor Prefect are imported.
"""
