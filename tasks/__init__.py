"""Units of work (read, compute, write, return a small record) and the bounded stream that runs them on Dask.

A module here is named after the work that it does on a batch of cases; no file format and no Prefect enters.
"""
