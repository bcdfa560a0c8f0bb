"""Dask clusters by name: built, checked, kept and closed. `dask.distributed` clusters enter here alone."""
