"""Units of work (read, compute, write, return a small record) and the bounded stream that runs them on Dask.

A module here is named after what it does to a batch of cases; no file format and no Prefect enters.
"""
