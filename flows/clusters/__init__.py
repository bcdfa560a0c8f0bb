"""Dask clusters by name: built, checked, kept and closed."""
